//! What it takes to survive being killed: how long a target waits when it happens, and what each fault costs for it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snapshot_format::{Codec, Snapshot};
use uffd_restore::handover;
use uffd_restore::serve::{self, Orders, Prefill, Server, Workers};
use uffd_restore::session::{Journal, OnFailure};
use uffd_restore::source::{PageSource, SnapshotSource};
use uffd_restore::takeover::{Blaming, Directory};

use crate::Setup;
use crate::area::Area;
use crate::daemon::Daemon;
use crate::measure::Series;
use crate::snapshot::{compression, write};
use crate::target::{Order, Target, Walk, Walked};

/// Between two kills.
const BETWEEN: Duration = Duration::from_millis(50);

pub(crate) fn stalls(setup: &Setup) {
    let pages = if setup.quick { 8 << 10 } else { 128 << 10 };
    let (area, times) = areas(pages);
    let path = setup.work.join("takeover");
    write(&path, &area, false, 1, compression(Codec::Lz4, 1));
    let (mut target, _) = Target::start(&area, &times, None);
    let options = ["--read-ahead", "0", "--jobs", "1"];
    let daemon = Daemon::start(
        &setup.program,
        &path,
        target.pid(),
        area.range().start,
        &options,
    );
    let keeper = daemon.pid();
    target.order(Order::Touch(walk(pages, Duration::from_micros(20))));
    let mut kills = 0;
    // Nobody is to be killed who has nothing left to do.
    let enough = pages as u64 * 3 / 4;
    while times.read(touched(enough), touched_word(enough)) == 0 {
        std::thread::sleep(BETWEEN);
        if let Some(worker) = worker_of(keeper)
            && kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok()
        {
            kills += 1;
        }
    }
    let walked = target.walked();
    drop(target);
    daemon.end();
    // One thread touches: of each kill it notices one wait, and these are the longest ones.
    let mut all: Vec<f64> = walked.first.values();
    all.sort_unstable_by(|a, b| b.total_cmp(a));
    let stalls: Series = all.iter().take(kills).map(|micros| micros / 1e3).collect();
    println!("\n## A target whose daemon is killed\n");
    println!(
        "The process that serves is killed every {} ms while one thread touches pages. Of {kills} kills:\n",
        BETWEEN.as_millis()
    );
    println!("| the wait that a kill causes | ms | wanted |");
    println!("|---|---|---|");
    println!("| p50 | {:.2} | 5 |", stalls.percentile(50));
    println!("| p99 | {:.2} | 50 |", stalls.percentile(99));
    println!("| longest | {:.2} | |", stalls.percentile(100));
    println!(
        "| a fault otherwise, p50 | {:.4} | |",
        walked.first.median() / 1e3
    );
}

fn touched(number: u64) -> usize {
    usize::try_from(number / 512).expect("64 bits")
}

fn touched_word(number: u64) -> usize {
    usize::try_from(number % 512).expect("64 bits")
}

fn areas(pages: usize) -> (Area, Area) {
    let times = crate::area::memfd(pages / 512 + 1);
    (
        Area::map(pages, None),
        Area::map(pages / 512 + 1, Some(&times)),
    )
}

fn walk(pages: usize, pause: Duration) -> Walk {
    Walk {
        blocks: pages,
        around: 1,
        touched: 1,
        random: true,
        pause,
    }
}

/// The process that serves for a keeper.
fn worker_of(keeper: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
    let mut children = children.split_whitespace();
    let is_worker = |child: &&str| {
        let name = fs::read_to_string(format!("/proc/{child}/comm"));
        name.is_ok_and(|name| name.trim_end() == "uffd-worker")
    };
    children.find(is_worker)?.parse().ok()
}

/// The same faults, served by this process, with a journal and without.
pub(crate) fn cost(setup: &Setup) {
    let pages = if setup.quick { 2 << 10 } else { 32 << 10 };
    let (area, times) = areas(pages);
    let path = setup.work.join("journal");
    write(&path, &area, false, 1, compression(Codec::Lz4, 1));
    let (mut target, _) = Target::start(&area, &times, None);
    let directory = Directory::new().expect("memory");
    let (mut without, mut with) = (Series::default(), Series::default());
    // One round to warm up, and twice as many as of other things: the difference is small.
    for round in 0..=2 * setup.rounds {
        // Neither of them is always the first.
        for second in [false, true] {
            let kept = second == round.is_multiple_of(2);
            let directory = kept.then_some(&directory);
            let walked = served(&path, &area, &mut target, directory);
            if round > 0 {
                if kept { &mut with } else { &mut without }.push(walked.each);
            }
        }
    }
    let ratio = with.over(&without);
    println!("\n## The journal\n");
    println!("| a fault | microseconds, median |");
    println!("|---|---|");
    println!("| without a journal | {:.3} |", without.median());
    println!("| with one | {:.3} |", with.median());
    println!("\nRatio, round by round: {}; wanted: 1.02.", ratio.ratio());
}

/// The same faults, served by the daemon, which may make the system calls of serving alone, or any.
pub(crate) fn confinement(setup: &Setup) {
    let pages = if setup.quick { 2 << 10 } else { 32 << 10 };
    let (area, times) = areas(pages);
    let path = setup.work.join("confined");
    write(&path, &area, false, 1, compression(Codec::Lz4, 1));
    let (mut target, _) = Target::start(&area, &times, None);
    let (mut open, mut confined) = (Series::default(), Series::default());
    for round in 0..=2 * setup.rounds {
        for second in [false, true] {
            let is_open = second == round.is_multiple_of(2);
            let options = ["--read-ahead", "0", "--jobs", "1", "--no-seccomp"];
            let options = &options[..options.len() - usize::from(!is_open)];
            let start = area.range().start;
            let daemon = Daemon::start(&setup.program, &path, target.pid(), start, options);
            target.order(Order::Touch(walk(pages, Duration::ZERO)));
            let walked = target.walked();
            daemon.end();
            if round > 0 {
                if is_open { &mut open } else { &mut confined }.push(walked.each);
            }
        }
    }
    let ratio = confined.over(&open);
    println!("\n## The filter of system calls\n");
    println!("| a fault, served by the daemon | microseconds, median |");
    println!("|---|---|");
    println!("| with `--no-seccomp` | {:.3} |", open.median());
    println!("| confined | {:.3} |", confined.median());
    println!("\nRatio, round by round: {}.", ratio.ratio());
}

fn served(path: &Path, area: &Area, target: &mut Target<'_>, kept: Option<&Directory>) -> Walked {
    let file = fs::File::open(path).expect("open");
    let snapshot = Arc::new(Snapshot::open(file).expect("a snapshot"));
    let plain: Arc<dyn PageSource> = Arc::new(SnapshotSource::new(Arc::clone(&snapshot)));
    let source: Arc<dyn PageSource> = match kept {
        Some(directory) => Arc::new(Blaming::new(plain, directory)),
        None => plain,
    };
    let options = serve::Options {
        jobs: 1,
        prefill: Prefill::None,
        prefill_rate: None,
        prefill_urgent: false,
        prefill_delay: Duration::ZERO,
        record_first: false,
        head_start: Duration::ZERO,
        read_ahead: 0,
        on_failure: OnFailure::Kill,
        finish_within: Duration::from_secs(10),
        follow: true,
        quiet: true,
    };
    let workers = Workers::start(&*source, 1).expect("a thread");
    let server = Server::prepare(&*source, workers, Orders::Signals, options).expect("a server");
    let server = match kept {
        Some(directory) => server.kept(directory, Journal::new().expect("a journal")),
        None => server,
    };
    let start = area.range().start;
    let attaching = handover::Options {
        pid: target.pid(),
        choices: &[format!("{start}={start}").parse().expect("a choice")],
        leaves: None,
        stop_timeout: Duration::from_secs(10),
        on_failure: OnFailure::Kill,
    };
    let attached = handover::attach(&snapshot, &*source, &attaching).expect("attach");
    let standing = attached.standing;
    server.serve(
        attached.handover,
        || {
            standing.release(None).expect("it is let go");
            target.order(Order::Touch(walk(area.pages, Duration::ZERO)));
        },
        || {},
    );
    target.walked()
}
