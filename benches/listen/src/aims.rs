//! Whether what is aimed at was reached.

use crate::measure::Series;
use crate::way::Way;

/// Prints, of the ways with compressed snapshots and prefill or without it, the default and the best: their times against
/// `than`, which they shall stay below `limit` times of.
pub(crate) fn print(state: &str, than: &Series, limit: f64, ways: &[(&Way, &Series)]) {
    for prefill in [false, true] {
        let among = ways
            .iter()
            .filter(|(way, _)| way.is_compressed() && way.prefills() == prefill);
        let ratios: Vec<(&Way, Series)> = among.map(|(way, all)| (*way, all.over(than))).collect();
        let best = ratios
            .iter()
            .min_by(|(_, one), (_, other)| one.median().total_cmp(&other.median()));
        for (what, found) in [("default", ratios.first()), ("best", best)] {
            let Some((way, ratio)) = found else {
                continue;
            };
            println!(
                "- {state}, {what}: {}: {}, aim {limit}: {}",
                way.name(),
                ratio.ratio(),
                yes(ratio.median() < limit)
            );
        }
    }
}

pub(crate) fn yes(met: bool) -> &'static str {
    if met { "**met**" } else { "**missed**" }
}
