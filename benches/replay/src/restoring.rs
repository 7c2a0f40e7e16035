//! One restore of an image by the daemon into a target that touches pages.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::Setup;
use crate::daemon::{Daemon, number};
use crate::target::{Scene, Target, Touched};

/// What is restored, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Restore<'a> {
    pub(crate) snapshot: &'a Path,
    pub(crate) options: &'a [&'a str],
    /// How long the target works on something else after each touch.
    pub(crate) work: Duration,
}

impl<'a> Restore<'a> {
    pub(crate) fn new(snapshot: &'a Path, options: &'a [&'a str]) -> Self {
        Self {
            snapshot,
            options,
            work: Duration::ZERO,
        }
    }
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) touched: Touched,
    /// Milliseconds from before the daemon was started until it served.
    pub(crate) ready: f64,
    /// Milliseconds from before the daemon was started until all was touched.
    pub(crate) all: f64,
    /// Mebibytes of the daemon, if it had not ended by then: it does when nothing is owed.
    pub(crate) peak: Option<f64>,
    /// What the daemon said at the end.
    said: String,
}

impl Restored {
    /// A number of what the daemon said.
    pub(crate) fn said(&self, name: &str) -> f64 {
        number(&self.said, name).unwrap_or_else(|| panic!("no {name} in {}", self.said))
    }
}

/// Restores, touches, checks, and ends the target.
pub(crate) fn restore(
    setup: &Setup,
    scene: Scene<'_>,
    pages: &[usize],
    how: Restore<'_>,
) -> Restored {
    let mut target = Target::start(scene);
    let at = Some(scene.area.range().start);
    let begun = Instant::now();
    let daemon = Daemon::start(setup, how.snapshot, target.pid(), at, how.options);
    target.touch(pages, how.work);
    let touched = target.touched();
    let all = begun.elapsed().as_secs_f64() * 1e3;
    let peak = daemon.peak();
    target.check();
    drop(target);
    Restored {
        touched,
        ready: daemon.ready_after,
        all,
        peak,
        said: daemon.end(),
    }
}

/// A restore that is recorded.
pub(crate) fn record(
    setup: &Setup,
    scene: Scene<'_>,
    pages: &[usize],
    snapshot: &Path,
    set: &Path,
) -> Restored {
    // What is there would be merged.
    let _ = std::fs::remove_file(set);
    let set = set.to_str().expect("a name");
    let options = ["--prefill", "none", "--record-working-set", set];
    let recorded = restore(setup, scene, pages, Restore::new(snapshot, &options));
    assert!(
        std::fs::exists(set).expect("a folder"),
        "nothing was recorded"
    );
    recorded
}

/// Pages of a process that are in memory, as the kernel counts them.
pub(crate) fn resident(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("it lives");
    let field = text.split(' ').nth(1).and_then(|field| field.parse().ok());
    field.expect("a number")
}
