//! Whether what is aimed at was reached.

use crate::measure::Series;
use crate::way::Way;

/// A ratio that shall be below a limit.
pub(crate) fn say(way: &Way, state: &str, than: &str, ratio: &Series, limit: f64) {
    println!(
        "- {}, {state}: {} of {than}, aim {limit}: {}",
        way.name(),
        ratio.ratio(),
        yes(ratio.median() < limit)
    );
}

/// Something that is so or not.
pub(crate) fn note(way: &Way, what: &str, aim: &str, met: bool) {
    println!("- {}, {what}: {aim}: {}", way.name(), yes(met));
}

fn yes(met: bool) -> &'static str {
    if met { "**met**" } else { "**missed**" }
}
