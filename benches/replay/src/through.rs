//! All of the memory in order, and a page here and there.

use std::path::Path;

use snapshot_format::PAGE_SIZE;

use crate::Setup;
use crate::aims::Aim;
use crate::area::Area;
use crate::codec::Kind;
use crate::image::Image;
use crate::limits::{self, Blocks};
use crate::measure::Series;
use crate::orders;
use crate::restoring::{Restore, restore};
use crate::target::{Board, Scene};

/// Packing options, with the codec and the pages of a frame that they stand for.
const CASES: [(&[&str], Kind, usize); 2] =
    [(&[], Kind::Zstd, 4), (&["--codec", "lz4"], Kind::Lz4, 4)];

/// Measure and print.
pub(crate) fn run(setup: &Setup, images: &[Image]) {
    println!("\n## All of the memory, in order\n");
    println!(
        "Every page touched once, without a pause, nothing recorded, no prefill. The limit is the longer of: COPY of all pages, {} at once, by one thread; decoding all content \
         by the codec alone × jobs. Ratio = limit / time, medians (smallest - largest); \"of the cores\": against what all cores together could decode and copy, where that is less. Sparse: one page in 64, in order; µs for each of them.\n",
        limits::BATCH
    );
    println!(
        "| image | packed | jobs | COPY, GB/s | codec × jobs | touched, GB/s | **ratio** | of the cores | faults | sparse, µs each | p99 |"
    );
    println!("|---|---|{}", "--:|".repeat(9));
    for image in images {
        for (options, kind, at_once) in CASES {
            let snapshot = image.pack(setup, options);
            for jobs in [1, 2] {
                case(setup, image, &snapshot, (kind, at_once, jobs));
            }
            std::fs::remove_file(&snapshot).expect("the snapshot");
        }
    }
}

fn case(
    setup: &Setup,
    image: &Image,
    snapshot: &Path,
    (kind, at_once, jobs): (Kind, usize, usize),
) {
    let all: Vec<usize> = (0..image.pages).collect();
    let content = image.content();
    let sparse = orders::sparse(image);
    let board = Board::new(all.len());
    let area = Area::map(image.pages, None);
    let scene = Scene {
        area: &area,
        board: &board,
        image,
        eager: None,
    };
    let blocks = Blocks::of(image, &content, kind, at_once);
    let number = jobs.to_string();
    let options = ["--prefill", "none", "--jobs", &number];
    let [
        mut copy,
        mut decode,
        mut touched,
        mut ratio,
        mut of_cores,
        mut faults,
        mut each,
        mut p99,
    ]: [Series; 8] = Default::default();
    for _ in 0..setup.rounds {
        let copied = limits::bulk_copy(image);
        let decoded = blocks.decode(jobs);
        let run = |pages: &[usize]| restore(setup, scene, pages, Restore::new(snapshot, &options));
        let full = run(&all);
        let bytes = (all.len() * PAGE_SIZE) as f64;
        let limit = (bytes / copied).max((content.len() * PAGE_SIZE) as f64 / decoded);
        copy.push(copied / 1e9);
        decode.push(decoded / 1e9);
        touched.push(bytes / full.touched.all / 1e9);
        ratio.push(limit / full.touched.all);
        let zeros = (all.len() - content.len()) as f64 / all.len() as f64;
        let one = decoded / jobs as f64 / (1.0 - zeros);
        let shared = bytes / limits::both(copied, one);
        of_cores.push(limit.max(shared) / full.touched.all);
        faults.push(full.said("faults"));
        let few = run(&sparse);
        each.push(few.touched.all * 1e6 / sparse.len() as f64);
        p99.push(few.touched.each.percentile(99));
    }
    println!(
        "| {} | {} | {jobs} | {:.2} | {:.2} | {:.2} | {} | {:.2} | {} | {:.1} | {:.1} |",
        image.name,
        kind.name(),
        copy.median(),
        decode.median(),
        touched.median(),
        ratio.ratio(),
        of_cores.median(),
        faults.median(),
        each.median(),
        p99.median()
    );
    setup.aims.note(
        "all in order: the limit (COPY, codec × jobs) / time",
        Aim::AtLeast(0.9),
        &format!("{} {} ×{jobs}:", image.name, kind.name()),
        ratio.median(),
    );
}
