//! The same work in all ways to bring memory back, from the page cache and from the disk.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Setup;
use crate::area::Area;
use crate::image::Image;
use crate::measure::Series;
use crate::one_core::on_one_core;
use crate::restoring::{Restore, record, restore};
use crate::target::{Board, Scene, Target};
use crate::{cache, handler, orders};

/// What a target does between two first touches.
const WORK: Duration = Duration::from_micros(5);

/// The ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Mapping,
    Handler,
    HandlerTogether,
    Eager,
    Lazy,
    WithSet,
}

const WAYS: [(Way, &str); 6] = [
    (Way::Mapping, "private mapping of the raw file"),
    (Way::Handler, "raw file, a handler with a page per fault"),
    (Way::HandlerTogether, "the same, on the core of who waits"),
    (Way::Eager, "decompress all of it, then run"),
    (Way::Lazy, "uffd-restore, nothing ahead"),
    (Way::WithSet, "uffd-restore, working set"),
];

/// What comes of a way: milliseconds until the first page, until the last one.
type Sample = (f64, f64);

struct Files<'a> {
    snapshot: &'a Path,
    set: &'a Path,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup, images: &[Image]) {
    println!("\n## All ways\n");
    println!(
        "The touches of \"Again, with a working set\" ({} µs of work after each page): ms from before anything is started until the first page, and until the last page was touched; \
         medians (smallest - largest). Warm: the files are in the page cache; cold: nothing of them is. The \"work\" alone takes what is in the heading. QEMU's own ways of loading are in \
         `scripts/bench qemu`. {}\n",
        WORK.as_micros(),
        criu()
    );
    for image in images {
        print(setup, image);
    }
}

/// CRIU's own daemon is compared where there is one.
fn criu() -> &'static str {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("criu").is_file());
    if found {
        "CRIU is installed, but `criu lazy-pages` is not compared yet."
    } else {
        "CRIU: not installed."
    }
}

fn print(setup: &Setup, image: &Image) {
    let snapshot = image.pack(setup, &[]);
    let set = setup.work.join("ways.ws");
    let pages = orders::working(image);
    let board = Board::new(pages.len());
    let area = Area::map(image.pages, None);
    let scene = Scene {
        area: &area,
        board: &board,
        image,
        eager: None,
    };
    record(setup, scene, &pages, &snapshot, &set);
    let files = Files {
        snapshot: &snapshot,
        set: &set,
    };
    let mut rows: [[Series; 4]; WAYS.len()] = Default::default();
    for _ in 0..setup.rounds {
        for ((way, _), row) in WAYS.iter().zip(&mut rows) {
            for (at, is_cold) in [false, true].into_iter().enumerate() {
                for file in [&image.raw, &snapshot, &set] {
                    if is_cold {
                        cache::evict(file)
                    } else {
                        cache::warm(file)
                    }
                }
                let (first, all) = measure(setup, *way, scene, &pages, &files);
                row[2 * at].push(first);
                row[2 * at + 1].push(all);
            }
        }
    }
    println!(
        "\n### {}: {} of {} pages, {:.0} ms of work\n",
        image.name,
        pages.len(),
        image.pages,
        WORK.as_secs_f64() * 1e3 * pages.len() as f64
    );
    println!(
        "| way | warm: first page | last page | cold: first page | last page |\n|---|--:|--:|--:|--:|"
    );
    for ((_, name), row) in WAYS.iter().zip(&rows) {
        let cells = row.each_ref().map(|series| {
            let [least, most] = [0, 100].map(|percent| series.percentile(percent));
            format!("**{:.1}** ({least:.1} - {most:.1})", series.median())
        });
        println!("| {name} | {} |", cells.join(" | "));
    }
    for file in [&snapshot, &set] {
        std::fs::remove_file(file).expect("a file");
    }
}

fn measure(
    setup: &Setup,
    way: Way,
    scene: Scene<'_>,
    pages: &[usize],
    files: &Files<'_>,
) -> Sample {
    let lazily = |options: &[&str]| {
        let how = Restore {
            work: WORK,
            ..Restore::new(files.snapshot, options)
        };
        let restored = restore(setup, scene, pages, how);
        let first = restored.all - restored.touched.all * 1e3 + restored.touched.first / 1e3;
        (first, restored.all)
    };
    match way {
        Way::Lazy => lazily(&["--prefill", "none"]),
        Way::WithSet => lazily(&["--working-set", files.set.to_str().expect("a name")]),
        Way::Mapping => {
            let file = std::fs::File::open(&scene.image.raw).expect("the raw file");
            let area = Area::map_privately(scene.image.pages, &file);
            let scene = Scene {
                area: &area,
                ..scene
            };
            run_target(Target::start(scene), pages, |_| ())
        }
        Way::Handler => {
            let (target, userfaultfd) = Target::start_registered(scene);
            let content = handler::from_file(&scene.image.raw);
            let serve =
                |target: &Target<'_>| handler::serve(target, &userfaultfd, scene.area, content);
            run_target(target, pages, serve)
        }
        Way::HandlerTogether => {
            let mut sample = (0.0, 0.0);
            on_one_core(|| sample = measure(setup, Way::Handler, scene, pages, files));
            sample
        }
        Way::Eager => {
            let scene = Scene {
                eager: Some(files.snapshot),
                ..scene
            };
            let mut target = Target::start(scene);
            let begun = Instant::now();
            target.load(2);
            let before = begun.elapsed().as_secs_f64() * 1e3;
            let (first, all) = run_target(target, pages, |_| ());
            (before + first, before + all)
        }
    }
}

fn run_target(mut target: Target<'_>, pages: &[usize], serve: impl FnOnce(&Target<'_>)) -> Sample {
    let begun = Instant::now();
    target.touch(pages, WORK);
    serve(&target);
    let touched = target.touched();
    let all = begun.elapsed().as_secs_f64() * 1e3;
    target.check();
    (touched.first / 1e3, all)
}
