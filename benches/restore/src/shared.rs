//! Which way to fill shared memory lazily: round trips and bulk, for each way.

use std::time::Duration;

use snapshot_format::PAGE_SIZE;

use crate::Setup;
use crate::area::{Area, memfd};
use crate::measure::Series;
use crate::target::{Walk, Walked};
use crate::way::{BULK, Server, Way};

/// Pages that are served for a fault.
const AROUND: [usize; 3] = [1, 4, 64];

/// The ways compared, with their limit in front.
fn ways() -> impl Iterator<Item = Way> {
    [Way::Private].into_iter().chain(Way::SHARED)
}

/// What the rounds brought for one way.
#[derive(Debug, Default)]
struct Row {
    p50: Series,
    p99: Series,
    each: Series,
    /// Against private memory in the same round.
    ratio: Series,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup) {
    let pages = if setup.quick { 8 << 10 } else { 64 << 10 };
    let faults: usize = if setup.quick { 2 << 10 } else { 16 << 10 };
    let times = Area::map(faults.div_ceil(512), Some(&memfd(faults.div_ceil(512))));
    println!("\n## Shared memory: a page that somebody waits for\n");
    println!(
        "Memory of {} MiB; one thread serves. µs from the touch to the word read, p50 and p99 (medians of the rounds); ratio = p50 / p50 of \
         private memory with one page per fault in the same round (smallest - largest). \"Each\": µs for each page touched, faults and \
         all, when every page that came is touched.",
        (pages * PAGE_SIZE) >> 20
    );
    for (title, random) in [("random", true), ("in order", false)] {
        let mut rows: Vec<Vec<Row>> = ways()
            .map(|_| AROUND.map(|_| Row::default()).into())
            .collect();
        for _ in 0..setup.rounds {
            let mut limit = None;
            for (way, rows) in ways().zip(&mut rows) {
                for (around, row) in AROUND.into_iter().zip(rows) {
                    let walk = Walk {
                        blocks: faults.min(pages / around),
                        around,
                        touched: around,
                        random,
                        pause: Duration::ZERO,
                    };
                    let walked = measure(way, pages, &times, |server| server.serve(walk));
                    let Walked { first, each } = walked;
                    let p50 = first.median();
                    row.p50.push(p50);
                    row.p99.push(first.percentile(99));
                    row.each.push(each);
                    row.ratio.push(p50 / *limit.get_or_insert(p50));
                }
            }
        }
        println!("\nPages touched {title}:\n");
        print!("| way |");
        for around in AROUND {
            let kib = (around * PAGE_SIZE) >> 10;
            print!(" {kib} KiB p50 | p99 | ratio | each |");
        }
        println!("\n|---|{}", "--:|--:|--:|--:|".repeat(AROUND.len()));
        for (way, rows) in ways().zip(&rows) {
            print!("| {} |", way.name());
            for row in rows {
                print!(
                    " {:.1} | {:.1} | {} | {:.2} |",
                    row.p50.median(),
                    row.p99.median(),
                    row.ratio.ratio(),
                    row.each.median()
                );
            }
            println!();
        }
    }
    bulk(setup, pages, &times);
}

/// Filling everything before anybody asks, and touching it then.
fn bulk(setup: &Setup, pages: usize, times: &Area) {
    #[derive(Debug, Default)]
    struct Filled {
        speed: Series,
        ratio: Series,
        touch: Series,
    }
    let mut rows: Vec<Filled> = ways().map(|_| Filled::default()).collect();
    for _ in 0..setup.rounds {
        let mut limit = None;
        for (way, row) in ways().zip(&mut rows) {
            let (took, walked) = measure(way, pages, times, |server| {
                let took: Duration = server.fill();
                let walk = Walk {
                    blocks: pages / BULK,
                    around: BULK,
                    touched: BULK,
                    random: false,
                    pause: Duration::ZERO,
                };
                (took, server.serve(walk))
            });
            let speed = (pages * PAGE_SIZE) as f64 / 1e9 / took.as_secs_f64();
            row.speed.push(speed);
            row.ratio.push(speed / *limit.get_or_insert(speed));
            row.touch.push(walked.each * 1e3);
        }
    }
    println!("\n## Shared memory: filling in bulk\n");
    println!(
        "In pieces of {} KiB that nobody waits for. Ratio = speed / speed of COPY into private memory in the same round; last column: what \
         the target then pays to touch each page for the first time, in order.\n",
        (BULK * PAGE_SIZE) >> 10
    );
    println!("| way | GB/s | ratio | first touch, ns |\n|---|--:|--:|--:|");
    for (way, row) in ways().zip(&rows) {
        println!(
            "| {} | {:.2} | {} | {:.0} |",
            way.name(),
            row.speed.median(),
            row.ratio.ratio(),
            row.touch.median()
        );
    }
}

/// Something with a target of its own, in memory that nobody has touched.
pub(crate) fn measure<T>(
    way: Way,
    pages: usize,
    times: &Area,
    work: impl FnOnce(&mut Server<'_>) -> T,
) -> T {
    let file = way.is_shared().then(|| memfd(pages));
    let area = Area::map(pages, file.as_ref());
    work(&mut Server::start(way, &area, file.as_ref(), times))
}
