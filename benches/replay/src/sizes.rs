//! How cost grows with the size of the memory.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use snapshot_format::PAGE_SIZE;

use crate::Setup;
use crate::aims::Aim;
use crate::area::Area;
use crate::image::{self, Image};
use crate::measure::Series;
use crate::one_core::on_one_core;
use crate::orders;
use crate::restoring::{Restore, Restored, record, restore};
use crate::target::{Board, Scene};

/// MiB of the memories.
const SIZES: [usize; 5] = [64, 256, 1 << 10, 4 << 10, 16 << 10];
/// Pages with content in each, in blocks that are spread evenly.
const CONTENT: usize = 8 << 10;
const BLOCK: usize = 16;
/// Pages that are touched.
const TOUCHED: usize = 1500;
/// Beyond its cache, MiB.
const RESIDENT: f64 = 24.0;

/// Measure and print.
pub(crate) fn run(setup: &Setup, images: &[Image]) {
    let source = images.first().expect("an image");
    println!("\n## How it grows with the memory\n");
    println!(
        "{} MiB of {} in memories of these sizes, in blocks of {BLOCK} pages that are spread evenly, the rest zero; {TOUCHED} random pages with content are touched; \
         private memory. ms from before the daemon starts until it serves, µs of a page that is waited for, the daemon's memory at most (VmHWM), MiB; \
         without a set and on one core, and with one of these pages on all cores. Medians of rounds.\n",
        (CONTENT * PAGE_SIZE) >> 20,
        source.name
    );
    println!(
        "| MiB | served after, ms | p50, µs | p99 | daemon, MiB | with the set: served after, ms | replayed | demand faults | daemon, MiB |"
    );
    println!("|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let sizes = if setup.quick { &SIZES[..3] } else { &SIZES };
    for &size in sizes {
        case(setup, source, size);
    }
}

fn case(setup: &Setup, source: &Image, mib: usize) {
    let (raw, snapshot, set) = (
        setup.work.join("sparse.raw"),
        setup.work.join("sparse.snap"),
        setup.work.join("sparse.ws"),
    );
    write(source, &raw, mib << 8);
    image::pack(setup, &raw, &snapshot, &[]);
    let spread = Image::load(&raw);
    std::fs::remove_file(&raw).expect("the raw file");
    let pages = orders::random(&spread, TOUCHED);
    let board = Board::new(pages.len());
    let area = Area::map(spread.pages, None);
    let scene = Scene {
        area: &area,
        board: &board,
        image: &spread,
        eager: None,
    };
    record(setup, scene, &pages, &snapshot, &set);
    let with = ["--working-set", set.to_str().expect("a name")];
    let mut columns: [Series; 8] = Default::default();
    for _ in 0..setup.rounds {
        let run = |options| restore(setup, scene, &pages, Restore::new(&snapshot, options));
        let mut plain: Option<Restored> = None;
        on_one_core(|| plain = Some(run(&["--prefill", "none"])));
        let (plain, replayed) = (plain.expect("it was measured"), run(&with));
        let values = [
            plain.ready,
            plain.touched.each.median(),
            plain.touched.each.percentile(99),
            plain.peak.expect("most is still owed"),
            replayed.ready,
            replayed.said("replayed"),
            replayed.said("demand"),
            replayed.peak.expect("most is still owed"),
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    let cells = columns
        .each_ref()
        .map(|column| format!("{:.1}", column.median()));
    println!("| {mib} | {} |", cells.join(" | "));
    for (what, peak) in [("without a set", &columns[3]), ("with a set", &columns[7])] {
        let what = format!("the daemon's memory, MiB, {what}");
        setup.aims.note(
            &what,
            Aim::AtMost(RESIDENT),
            &format!("{mib} MiB:"),
            peak.median(),
        );
    }
    for file in [&snapshot, &set] {
        std::fs::remove_file(file).expect("a file");
    }
}

/// A memory of so many pages, nearly all of them holes.
fn write(source: &Image, raw: &Path, pages: usize) {
    let file = File::create(raw).expect("a file");
    file.set_len((pages * PAGE_SIZE) as u64)
        .expect("its length");
    let content: Vec<usize> = source.content().into_iter().take(CONTENT).collect();
    let step = pages / (CONTENT / BLOCK);
    for (number, block) in content.chunks(BLOCK).enumerate() {
        let bytes = source.read(block);
        let at = (number * step * PAGE_SIZE) as u64;
        file.write_all_at(&bytes, at).expect("to write");
    }
}
