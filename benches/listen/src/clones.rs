//! Several guests at once from one file, through one process.

use crate::Setup;
use crate::aims;
use crate::measure::Series;
use crate::peer::Walk;
use crate::server::Options;
use crate::spread;
use crate::way::{How, Image, Way};

const CLONES: [usize; 3] = [1, 4, 16];

/// MiB: holds everything, and does not.
const CACHES: [u32; 2] = [512, 64];

/// Memory of the daemon's own beyond its cache, MiB.
const BEYOND: f64 = 16.0;

struct Row {
    way: Way,
    clones: usize,
    all: Series,
    cpu: Series,
    decodes: Series,
    hits: Series,
    peak: Series,
    own: Series,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup, raw: &Image, snapshots: &[Image]) {
    let mut rows: Vec<Row> = Vec::new();
    for clones in CLONES {
        let new = |way| Row {
            way,
            clones,
            all: Series::default(),
            cpu: Series::default(),
            decodes: Series::default(),
            hits: Series::default(),
            peak: Series::default(),
            own: Series::default(),
        };
        rows.extend(ways(raw, snapshots).into_iter().map(new));
    }
    for _ in 0..setup.rounds {
        rows.retain_mut(|row| {
            let Some(sample) = row.way.measure(setup, Walk::Sequential, false, row.clones) else {
                eprintln!("listen-bench: left out: {}", row.way.name());
                return false;
            };
            row.all.push(sample.all);
            row.cpu.push(sample.ended.cpu);
            row.peak.push(sample.resident.peak);
            row.own.push(sample.resident.own);
            sample
                .ended
                .decodes
                .into_iter()
                .for_each(|n| row.decodes.push(n));
            sample.ended.hits.into_iter().for_each(|n| row.hits.push(n));
            true
        });
    }
    print(&rows);
}

fn ways(raw: &Image, snapshots: &[Image]) -> Vec<Way> {
    let of = |how, image: &Image| Way {
        how,
        image: image.clone(),
    };
    let compared = [How::Handler(64), How::Handler(0), How::Map];
    let mut ways: Vec<Way> = compared.map(|how| of(how, raw)).into();
    for (prefill, cache) in [(false, CACHES[0]), (true, CACHES[0]), (false, CACHES[1])] {
        let how = How::Daemon(Options { prefill, cache });
        ways.extend(snapshots.iter().take(2).map(|image| of(how, image)));
    }
    ways
}

fn print(rows: &[Row]) {
    println!("\n### Clones at once\n");
    println!(
        "Every clone touches and checks every page in order; files in the page cache. Decodes for each frame of the file; memory of the serving process \
         at the end, MiB.\n"
    );
    println!(
        "| way | cache, MiB | clones | s | × handler | CPU of the server, s | decodes / frames | cache hits | VmHWM | anonymous and shared |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for row in rows {
        let peers = rows.iter().filter(|other| other.clones == row.clones);
        let handler = peers
            .filter(|other| other.way.is_handler())
            .min_by(|one, other| one.all.median().total_cmp(&other.all.median()))
            .expect("a handler");
        let cache = row.way.cache();
        let cache = cache.map_or(String::new(), |cache| cache.to_string());
        println!(
            "| {} | {cache} | {} | {} | {:.2} | {} | {} | {} | {:.1} | {:.1} |",
            row.way.name(),
            row.clones,
            spread(&row.all, 2),
            row.all.over(&handler.all).median(),
            spread(&row.cpu, 2),
            share(row).map_or(String::new(), |share| format!("{share:.2}")),
            row.hits
                .largest()
                .map_or(String::new(), |hits| format!("{hits:.0}")),
            row.peak.median(),
            row.own.median()
        );
    }
    println!("\nAims:\n");
    let daemons = || rows.iter().filter(|row| row.way.cache().is_some());
    let all_fits = daemons().filter(|row| row.clones == 16 && row.way.cache() == Some(512));
    let most = all_fits.filter_map(share).max_by(f64::total_cmp);
    if let Some(most) = most {
        println!(
            "- 16 clones with a cache that holds everything: at most {most:.2} decodes for each frame, aim 1: {}",
            aims::yes(most <= 1.0)
        );
    }
    for cache in CACHES {
        let those = daemons().filter(|row| row.way.cache() == Some(cache));
        if let Some(peak) = those
            .filter_map(|row| row.peak.largest())
            .max_by(f64::total_cmp)
        {
            let limit = f64::from(cache) + BEYOND;
            println!(
                "- cache of {cache} MiB: at most {peak:.1} MiB of the daemon resident, aim {limit}: {}",
                aims::yes(peak < limit)
            );
        }
    }
}

/// The largest number of decodes of any round, for each frame of the file.
fn share(row: &Row) -> Option<f64> {
    Some(row.decodes.largest()? / row.way.image.frames?)
}
