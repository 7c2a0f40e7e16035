//! One restore over time, with a working set and without: pages that are there, and pages that are waited for.

use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use snapshot_format::working_set::WorkingSet;

use crate::Setup;
use crate::area::Area;
use crate::daemon::Daemon;
use crate::image::Image;
use crate::orders;
use crate::restoring::{record, resident};
use crate::svg::{Curve, Panel};
use crate::target::{Board, Scene, Target};

/// What a target does between two first touches.
const WORK: Duration = Duration::from_micros(5);
/// How often pages are counted.
const OFTEN: Duration = Duration::from_micros(500);

/// A value at so many milliseconds after the daemon was started.
type Points = Vec<(f64, f64)>;

/// Draws the first image's restore.
pub(crate) fn run(setup: &Setup, images: &[Image], file: &Path) {
    let image = images.first().expect("an image");
    let snapshot = image.pack(setup, &[]);
    let (set, seen) = (setup.work.join("plot.ws"), setup.work.join("seen.ws"));
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
    let name = |path: &Path| path.to_str().expect("a name").to_owned();
    let (set_name, seen_name) = (name(&set), name(&seen));
    let recorded = ["--record-working-set", seen_name.as_str()];
    let without = [&recorded[..], &["--prefill", "none"]].concat();
    let with = [
        &recorded[..],
        &["--prefill", "working-set", "--working-set", &set_name],
    ]
    .concat();
    let mut installed = Panel::new("pages in memory");
    let mut faults = Panel::new("pages that were waited for, so far");
    for (label, options) in [
        ("without a working set, while it is recorded", without),
        ("with it", with),
    ] {
        let (there, waited) = watch(setup, scene, &pages, &snapshot, (&options, &seen));
        installed.curves.push(Curve {
            label,
            points: there,
        });
        faults.curves.push(Curve {
            label,
            points: waited,
        });
    }
    let title = format!(
        "One restore of {}: {} pages are touched, {} µs of work after each",
        image.name,
        pages.len(),
        WORK.as_micros()
    );
    fs::write(
        file,
        crate::svg::draw(
            &title,
            "ms since the daemon was started",
            &[installed, faults],
        ),
    )
    .expect("to write the plot");
    println!("\nThe plot of a restore is in a file of its own.");
    for file in [&snapshot, &set] {
        fs::remove_file(file).expect("a file");
    }
}

/// Restores, and counts the target's pages meanwhile; the faults are what is recorded.
fn watch(
    setup: &Setup,
    scene: Scene<'_>,
    pages: &[usize],
    snapshot: &Path,
    (options, seen): (&[&str], &Path),
) -> (Points, Points) {
    let _ = fs::remove_file(seen);
    let mut target = Target::start(scene);
    let pid = target.pid();
    let before = resident(pid);
    let begun = Instant::now();
    let ended = AtomicBool::new(false);
    let (there, daemon) = std::thread::scope(|scope| {
        let counting = scope.spawn(|| count(pid, before, begun, &ended));
        let at = Some(scene.area.range().start);
        let daemon = Daemon::start(setup, snapshot, pid, at, options);
        target.touch(pages, WORK);
        target.touched();
        ended.store(true, Ordering::Relaxed);
        (counting.join().expect("it counted"), daemon)
    });
    target.check();
    let last = there.last().map_or(0.0, |(time, _)| *time);
    let served = daemon.ready_after;
    drop(target);
    daemon.end();
    let mut waited = vec![(0.0, 0.0), (served, 0.0)];
    if let Ok(file) = File::open(seen) {
        let history = WorkingSet::open(file).and_then(|set| set.history());
        let history = history.expect("a working set");
        let mut times: Vec<u32> = history.pages().iter().map(|page| page.after_us).collect();
        times.sort_unstable();
        let times = times.iter().enumerate();
        waited.extend(times.map(|(at, time)| (served + f64::from(*time) / 1e3, at as f64 + 1.0)));
        fs::remove_file(seen).expect("a file");
    }
    let total = waited.last().map_or(0.0, |(_, total)| *total);
    waited.push((last, total));
    (there, waited)
}

fn count(pid: i32, before: u64, begun: Instant, ended: &AtomicBool) -> Points {
    let mut points = Vec::new();
    loop {
        let over = ended.load(Ordering::Relaxed);
        let pages = resident(pid).saturating_sub(before);
        points.push((begun.elapsed().as_secs_f64() * 1e3, pages as f64));
        if over {
            return points;
        }
        std::thread::sleep(OFTEN);
    }
}
