//! Several guests at once from one file, through one process.

use crate::Setup;
use crate::aims;
use crate::measure::Series;
use crate::peer::Walk;
use crate::server::Options;
use crate::spread;
use crate::way::{How, Image, Way};

const CLONES: [usize; 3] = [1, 4, 16];

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
    for (prefill, cache) in [(false, 512), (true, 512), (false, 64)] {
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
        let cache = match row.way.how {
            How::Daemon(options) => options.cache.to_string(),
            _ => String::new(),
        };
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
    println!();
    for row in rows {
        let How::Daemon(options) = row.way.how else {
            continue;
        };
        let what = format!("{} clones, cache {} MiB", row.clones, options.cache);
        if options.cache == 512 && row.clones == 16 {
            let once = share(row).is_some_and(|share| share <= 1.0);
            aims::note(&row.way, &what, "decodes each frame at most once", once);
        }
        let limit = f64::from(options.cache) + BEYOND;
        let within = row.peak.percentile(100) < limit;
        aims::note(&row.way, &what, "memory below cache + 16 MiB", within);
    }
}

/// The largest number of decodes of any round, for each frame of the file.
fn share(row: &Row) -> Option<f64> {
    Some(row.decodes.largest()? / row.way.image.frames?)
}
