//! What a page costs that the target waits for, with the real daemon.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::{Codec, Cursor, PAGE_SIZE, PageNo, Snapshot};

use crate::Setup;
use crate::area::{Area, memfd};
use crate::daemon::{Daemon, number};
use crate::measure::{Random, Series};
use crate::shared;
use crate::snapshot::{compression, write};
use crate::target::{Order, Target, Walk};
use crate::way::Way;

const CASES: [(Codec, u16); 4] = [
    (Codec::Lz4, 1),
    (Codec::Lz4, 4),
    (Codec::Zstd, 1),
    (Codec::Zstd, 4),
];

/// Between two touches of a target that has other things to do as well.
const PAUSE: Duration = Duration::from_micros(50);

#[derive(Debug, Default)]
struct Row {
    p50: Series,
    p99: Series,
    spaced: Series,
    daemon: Series,
    trip: Series,
    page: Series,
    ratio: Series,
    shrunk: f64,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup) {
    let pages = if setup.quick { 4 << 10 } else { 16 << 10 };
    let faults: usize = pages / 4;
    let times = Area::map(faults.div_ceil(512), Some(&memfd(faults.div_ceil(512))));
    for shared in [false, true] {
        let way = if shared { Way::Copy } else { Way::Private };
        let mut rows = CASES.map(|_| Row::default());
        for _ in 0..setup.rounds {
            for ((codec, frame_pages), row) in CASES.into_iter().zip(&mut rows) {
                let file = shared.then(|| memfd(pages));
                let area = Area::map(pages, file.as_ref());
                let path = setup.work.join("demand.snap");
                let len = write(&path, &area, shared, 1, compression(codec, frame_pages));
                row.shrunk = (pages * PAGE_SIZE) as f64 / len as f64;
                let walk = Walk {
                    blocks: faults,
                    around: usize::from(frame_pages),
                    touched: 1,
                    random: true,
                    pause: Duration::ZERO,
                };
                let page = read_alone(&path, walk);
                // One page for each fault, as many and as far apart as with the daemon.
                let alone = Walk { around: 1, ..walk };
                let trip = shared::measure(way, pages, &times, |server| server.serve(alone));
                let trip = trip.first.median();
                let (first, said) = with_daemon(setup, &path, &area, &times, walk);
                let rested = Walk {
                    pause: PAUSE,
                    ..walk
                };
                // What the target before had touched is dropped when the daemon attaches.
                let (spaced, _) = with_daemon(setup, &path, &area, &times, rested);
                row.p50.push(first.median());
                row.spaced.push(spaced.median());
                row.p99.push(first.percentile(99));
                row.daemon.push(number(&said, "fault_p50_us"));
                row.trip.push(trip);
                row.page.push(page);
                row.ratio.push(first.median() / (trip + page));
                fs::remove_file(&path).expect("the snapshot");
            }
        }
        print(shared, pages, faults, &rows);
    }
}

fn print(shared: bool, pages: usize, faults: usize, rows: &[Row]) {
    let kind = if shared { "shared (memfd)" } else { "private" };
    println!("\n## A page that the target waits for, with the daemon: {kind} memory\n");
    println!(
        "{faults} random pages of {} MiB of made-up content, no two of a frame; the daemon's options are the defaults. µs as the target sees it, \
         which touches the next page at once or, \"with pauses\", works {} µs in between; \
         \"reading\" is `Cursor::read_page` alone: look-up, pread, codec, checksum; \"round trip\" is one thread with poll, read and COPY of one page. \
         Ratio = p50 / (round trip + reading) of the same round (smallest - largest). The last column is what the daemon itself says, from reading the \
         message on.\n",
        (pages * PAGE_SIZE) >> 20,
        PAUSE.as_micros()
    );
    println!(
        "| codec | pages of a frame | raw / file | p50 | p99 | p50 with pauses | round trip p50 | reading p50 | ratio | daemon's own p50 |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for ((codec, frame_pages), row) in CASES.into_iter().zip(rows) {
        println!(
            "| {codec} | {frame_pages} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {} | {:.1} |",
            row.shrunk,
            row.p50.median(),
            row.p99.median(),
            row.spaced.median(),
            row.trip.median(),
            row.page.median(),
            row.ratio.ratio(),
            row.daemon.median()
        );
    }
}

/// How long touches took with a target of its own, and what the daemon said at the end.
fn with_daemon(
    setup: &Setup,
    snapshot: &Path,
    area: &Area,
    times: &Area,
    walk: Walk,
) -> (Series, String) {
    let (mut target, _) = Target::start(area, times, None);
    let daemon = Daemon::start(
        &setup.program,
        snapshot,
        target.pid(),
        area.range().start,
        &[],
    );
    target.order(Order::Touch(walk));
    let first = target.walked().first;
    drop(target);
    (first, daemon.end())
}

/// The median of reading pages of as many frames in a random order, in microseconds.
fn read_alone(path: &Path, walk: Walk) -> f64 {
    let snapshot = Snapshot::open(File::open(path).expect("the snapshot")).expect("a snapshot");
    let snapshot = Arc::new(snapshot);
    let mut frames: Vec<u64> = (0..snapshot.pages() / walk.around as u64).collect();
    Random::new(3).shuffle(&mut frames);
    frames.truncate(walk.blocks);
    let mut cursor = Cursor::new(snapshot);
    let mut bytes = [0; PAGE_SIZE];
    let times = frames.into_iter().map(|frame| {
        let page = PageNo(frame * walk.around as u64);
        let begun = Instant::now();
        cursor.read_page(page, &mut bytes).expect("a page");
        black_box(&bytes);
        begun.elapsed().as_secs_f64() * 1e6
    });
    times.collect::<Series>().median()
}
