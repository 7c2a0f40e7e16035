//! One guest: how long until its memory has been touched.

use crate::Setup;
use crate::measure::Series;
use crate::peer::Walk;
use crate::server::Options;
use crate::way::{How, Image, Way};
use crate::{aims, spread};

/// A way with what was measured; warm and cold.
struct Row {
    way: Way,
    all: [Series; 2],
    first: [Series; 2],
    cpu: [Series; 2],
}

/// Measure and print.
pub(crate) fn run(setup: &Setup, raw: &Image, snapshots: &[Image]) {
    for walk in Walk::ALL {
        let mut rows: Vec<Row> = ways(raw, snapshots)
            .into_iter()
            .map(|way| Row {
                way,
                all: Default::default(),
                first: Default::default(),
                cpu: Default::default(),
            })
            .collect();
        for _ in 0..setup.rounds {
            for cold in [false, true] {
                rows.retain_mut(|row| {
                    let Some(sample) = row.way.measure(setup, walk, cold, 1) else {
                        eprintln!("listen-bench: left out: {}", row.way.name());
                        return false;
                    };
                    let at = usize::from(cold);
                    row.all[at].push(sample.all);
                    row.first[at].push(sample.first);
                    row.cpu[at].push(sample.ended.cpu);
                    true
                });
            }
        }
        print(walk, &rows);
    }
}

fn ways(raw: &Image, snapshots: &[Image]) -> Vec<Way> {
    let of = |how, image: &Image| Way {
        how,
        image: image.clone(),
    };
    let compared = [How::Handler(1), How::Handler(64), How::Handler(0), How::Map];
    let mut ways: Vec<Way> = compared.map(|how| of(how, raw)).into();
    for prefill in [false, true] {
        let how = How::Daemon(Options {
            prefill,
            cache: 512,
        });
        let images = snapshots.iter().chain(snapshots.first().map(|_| raw));
        ways.extend(images.map(|image| of(how, image)));
    }
    ways
}

fn print(walk: Walk, rows: &[Row]) {
    println!("\n### One guest: {}\n", walk.name());
    println!(
        "| way | file, MB | warm, s | × handler | × mapping | cold, s | × handler | × mapping | first page warm, ms | cold | CPU warm, s | cold |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let references = [0, 1].map(|at| {
        let all = || rows.iter().map(|row| (&row.way, &row.all[at]));
        let handler = fastest(all().filter(|(way, _)| way.is_handler()));
        let mapping = fastest(all().filter(|(way, _)| way.how == How::Map));
        (handler, mapping)
    });
    for row in rows {
        print!(
            "| {} | {:.0}",
            row.way.name(),
            row.way.image.len() as f64 / 1e6
        );
        for (all, (handler, mapping)) in row.all.iter().zip(&references) {
            let [handler, mapping] = [handler, mapping].map(|than| all.over(than));
            print!(
                " | {} | {:.2} | {:.2}",
                spread(all, 3),
                handler.median(),
                mapping.median()
            );
        }
        let [warm, cold] = [&row.first[0], &row.first[1]].map(Series::median);
        print!(" | {warm:.2} | {cold:.2}");
        let [warm, cold] = [&row.cpu[0], &row.cpu[1]].map(Series::median);
        println!(" | {warm:.2} | {cold:.2} |");
    }
    println!("\nAims:\n");
    for (at, state) in ["warm", "cold"].into_iter().enumerate() {
        let ways: Vec<_> = rows.iter().map(|row| (&row.way, &row.all[at])).collect();
        let (handler, mapping) = &references[at];
        if walk != Walk::Sparse {
            aims::print(&format!("{state}, × handler"), handler, 1.3, &ways);
        } else if at == 1 {
            aims::print("cold, × handler", handler, 1.0, &ways);
            aims::print("cold, × mapping", mapping, 1.0, &ways);
        }
    }
}

/// The times of the way with the smallest median.
fn fastest<'a>(ways: impl Iterator<Item = (&'a Way, &'a Series)>) -> Series {
    let best = ways.min_by(|(_, one), (_, other)| one.median().total_cmp(&other.median()));
    best.expect("a way to compare with").1.clone()
}
