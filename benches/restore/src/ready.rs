//! How long it takes until a target of this or that size is being served, and how long it stands still.

use std::fs;

use snapshot_format::Codec;

use crate::Setup;
use crate::area::{Area, memfd};
use crate::daemon::{Daemon, start_alone};
use crate::measure::Series;
use crate::snapshot::{compression, write};
use crate::target::{Order, Target, stamp};

/// MiB of the targets; the first is what the others are compared with.
const SIZES: [usize; 3] = [256, 1 << 10, 16 << 10];

/// Pages with content, in the target and in the snapshot, evenly spread.
const CONTENT: usize = 1024;

#[derive(Debug, Default)]
struct Row {
    ready: Series,
    ready_ratio: Series,
    still: Series,
    still_ratio: Series,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup) {
    let times = Area::map(1, Some(&memfd(1)));
    let start: Series = (0..setup.rounds.max(5))
        .map(|_| start_alone(&setup.program).as_secs_f64() * 1e3)
        .collect();
    println!("\n## Until the target is served\n");
    println!(
        "`uffd-restore --pid`, from before the program is started until its \"serving\" line is read, and how long the target stood \
         still by that line; ms, medians. Ratios to {} MiB in the same round (smallest - largest). Every size has {CONTENT} pages of \
         content, in the target and in the snapshot. To start the program with `--version` takes {:.1} ms.\n",
        SIZES[0],
        start.median()
    );
    println!(
        "| memory | MiB | until served | ratio | stood still | ratio |\n|---|--:|--:|--:|--:|--:|"
    );
    for shared in [true, false] {
        let mut rows = SIZES.map(|_| Row::default());
        for round in 0..=setup.rounds {
            let mut base = None;
            for (size, row) in SIZES.into_iter().zip(&mut rows) {
                let (ready, still) = measure(setup, size << 8, shared, &times);
                let (ready_base, still_base) = *base.get_or_insert((ready, still));
                // The first round warms up.
                if round > 0 {
                    row.ready.push(ready);
                    row.ready_ratio.push(ready / ready_base);
                    row.still.push(still);
                    row.still_ratio.push(still / still_base);
                }
            }
        }
        for (size, row) in SIZES.into_iter().zip(&rows) {
            println!(
                "| {} | {size} | {:.1} | {} | {:.1} | {} |",
                if shared {
                    "memfd, shared"
                } else {
                    "anonymous, private"
                },
                row.ready.median(),
                row.ready_ratio.ratio(),
                row.still.median(),
                row.still_ratio.ratio()
            );
        }
    }
}

/// Milliseconds until it is served, and of standing still.
fn measure(setup: &Setup, pages: usize, shared: bool, times: &Area) -> (f64, f64) {
    let file = shared.then(|| memfd(pages));
    let area = Area::map(pages, file.as_ref());
    let step = pages / CONTENT;
    let path = setup.work.join("ready.snap");
    write(&path, &area, shared, step, compression(Codec::Zstd, 4));
    let (mut target, _) = Target::start(&area, times, None);
    for page in (0..pages).step_by(step) {
        // Not what the snapshot has.
        target.order(Order::Write(page, 0, 1));
        target.reply();
    }
    let daemon = Daemon::start(&setup.program, &path, target.pid(), area.range().start, &[]);
    for (page, value) in [(0, stamp(0)), (step, stamp(step)), (1, 0), (pages - 1, 0)] {
        target.order(Order::Read(page, 0));
        assert_eq!(target.reply()[0], value, "page {page}");
    }
    let result = (daemon.ready_after.as_secs_f64() * 1e3, daemon.stood_still);
    drop(target);
    daemon.end();
    fs::remove_file(&path).expect("the snapshot");
    result
}
