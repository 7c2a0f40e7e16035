//! A restore after one that was recorded: the same pages again, and a run of which a fifth is different.

use std::path::Path;
use std::time::Duration;

use snapshot_format::PAGE_SIZE;

use crate::Setup;
use crate::aims::Aim;
use crate::area::Area;
use crate::codec::Kind;
use crate::image::{Image, megabytes};
use crate::limits::{self, Blocks};
use crate::measure::Series;
use crate::orders;
use crate::restoring::{Restore, record, restore};
use crate::target::{Board, Scene};

/// What a target does between two first touches that has something to do.
const WORK: Duration = Duration::from_micros(5);

#[derive(Debug, Default)]
struct Row {
    faults: Series,
    peak: Series,
    copy: Series,
    copy_of_runs: Series,
    reading: Series,
    decode: Series,
    replay: Series,
    ratio: Series,
    of_cores: Series,
    again_gone: Series,
    at_once_gone: Series,
    shifted_gone: Series,
    without: Series,
    with: Series,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup, images: &[Image]) {
    println!("\n## Again, with a working set\n");
    println!(
        "A target touches an eighth of its content in pieces of 1 to 16 pages from all over the memory, and works {} µs after each page. One run is recorded. \
         \"Gone\": % of the demand faults without a set (where neighbours come with a page) that a run with it does not have: by default, without a head start (the target runs \
         while the set is being installed), and when 20 % other pages are touched. Replay: bytes of the set / the daemon's `replay_seconds`, the target standing still; \
         its ratio is against the smaller of the limits of the same round: COPY of {} pages by one thread, LZ4 alone × jobs on blocks of {} pages; \"of the cores\": against what all cores together could decode and COPY as the set's runs are, where that is less. \
         \"Reading × 1\": the set's frames by one thread and the library alone. Then ms from before the daemon starts until all was touched, and the daemon's memory at most with the set.\n",
        WORK.as_micros(),
        limits::BATCH,
        limits::BATCH,
    );
    println!(
        "| image | jobs | set, pages | file, MB | faults without | gone, % | no head start | 20 % others \
         | COPY, GB/s | of its runs | LZ4 × jobs | reading × 1 | replay | **ratio** | of the cores | without, ms | with, ms | daemon, MiB |"
    );
    println!("|---|{}", "--:|".repeat(17));
    for image in images {
        let snapshot = image.pack(setup, &[]);
        for jobs in [1, 2] {
            case(setup, image, &snapshot, jobs);
        }
        std::fs::remove_file(&snapshot).expect("the snapshot");
    }
}

fn case(setup: &Setup, image: &Image, snapshot: &Path, jobs: usize) {
    let pages = orders::working(image);
    let shifted = orders::shifted(image);
    let board = Board::new(pages.len());
    let area = Area::map(image.pages, None);
    let scene = Scene {
        area: &area,
        board: &board,
        image,
        eager: None,
    };
    let set = setup.work.join("replay.ws");
    record(setup, scene, &pages, snapshot, &set);
    let blocks = Blocks::of(image, &pages, Kind::Lz4, limits::BATCH);
    let number = jobs.to_string();
    let name = set.to_str().expect("a name");
    let with = ["--working-set", name, "--jobs", &number];
    let without = ["--prefill", "none", "--jobs", &number];
    let still = [&with[..], &["--head-start", "10s"]].concat();
    let running = [&with[..], &["--head-start", "0s"]].concat();
    let how = |options| Restore {
        work: WORK,
        ..Restore::new(snapshot, options)
    };
    let mut row = Row::default();
    for _ in 0..setup.rounds {
        let copy = limits::bulk_copy(image);
        let copy_of_runs = limits::copy_of_runs(image, &pages);
        let decode = blocks.decode(jobs);
        let stood_still = restore(setup, scene, &pages, how(&still));
        let replay =
            stood_still.said("replayed") * PAGE_SIZE as f64 / stood_still.said("replay_seconds");
        let at_once = restore(setup, scene, &pages, how(&running));
        let again = restore(setup, scene, &pages, how(&with));
        let other = restore(setup, scene, &shifted, how(&with));
        let plain = restore(setup, scene, &pages, how(&without));
        let first = plain.said("demand");
        let gone = |faults: f64| 100.0 * (1.0 - faults / first);
        row.faults.push(first);
        row.peak.push(again.peak.expect("most is still owed"));
        row.copy.push(copy / 1e9);
        row.reading.push(limits::read_set(&set) / 1e9);
        row.copy_of_runs.push(copy_of_runs / 1e9);
        row.decode.push(decode / 1e9);
        row.replay.push(replay / 1e9);
        row.ratio.push(replay / copy.min(decode));
        row.of_cores.push(
            replay
                / limits::both(copy_of_runs, decode / jobs as f64)
                    .min(copy_of_runs)
                    .min(decode),
        );
        row.again_gone.push(gone(again.said("demand")));
        row.at_once_gone.push(gone(at_once.said("demand")));
        row.shifted_gone.push(gone(other.said("demand")));
        row.without.push(plain.all);
        row.with.push(again.all);
    }
    println!(
        "| {} | {jobs} | {} | {:.1} | {:.0} | {:.1} | {:.1} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {:.2} | {:.1} | {:.1} | {:.1} |",
        image.name,
        pages.len(),
        megabytes(&set),
        row.faults.median(),
        row.again_gone.median(),
        row.at_once_gone.median(),
        row.shifted_gone.median(),
        row.copy.median(),
        row.copy_of_runs.median(),
        row.decode.median(),
        row.reading.median(),
        row.replay.median(),
        row.ratio.ratio(),
        row.of_cores.median(),
        row.without.median(),
        row.with.median(),
        row.peak.median(),
    );
    let note = |what, aim, value: &Series| {
        setup.aims.note(
            what,
            aim,
            &format!("{} ×{jobs}:", image.name),
            value.median(),
        );
    };
    note(
        "the same again: % of faults gone",
        Aim::AtLeast(98.0),
        &row.again_gone,
    );
    note(
        "the same again, no head start: % of faults gone",
        Aim::AtLeast(98.0),
        &row.at_once_gone,
    );
    note(
        "20 % others: % of faults gone",
        Aim::AtLeast(75.0),
        &row.shifted_gone,
    );
    note(
        "replay / the smaller of COPY and LZ4 × jobs",
        Aim::AtLeast(0.9),
        &row.ratio,
    );
    setup.aims.note(
        "the daemon's memory, MiB, replaying",
        Aim::AtMost(24.0),
        &format!("{} ×{jobs}:", image.name),
        row.peak.median(),
    );
    std::fs::remove_file(&set).expect("the set");
}
