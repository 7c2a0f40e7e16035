//! Where the thread that reads faults should run: ways to place it, in each case that matters, with one page for each fault.
#![expect(unsafe_code, reason = "sched_setscheduler(2)")]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use snapshot_format::Codec;
use std::os::fd::AsFd;
use uffd_restore::uffd::Message;

use crate::Setup;
use crate::area::{Area, memfd};
use crate::crowd::Crowd;
use crate::daemon::Daemon;
use crate::measure::Series;
use crate::snapshot::{compression, write};
use crate::target::{Order, Target, Walked};
use crate::way::{Server, Way};

/// How the reader is placed, and how it waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// Where the kernel likes.
    Kernel,
    /// On the first core, whatever the target does.
    First,
    /// On the core where the faulting thread ran last, looked up at every so manieth fault.
    Follow(u32),
    /// Where the kernel likes; it asks again and again for so long before it sleeps.
    Spin(Duration),
    /// On the core where the faulting thread ran last, and asking again.
    FollowSpin(u32, Duration),
    /// On a core where the faulting thread did not run last.
    Avoid(u32),
    /// Where the faulting thread ran last, as one that whoever is woken may take the core from at once.
    Humble(u32),
    /// The daemon, with this `--placement`.
    Daemon(&'static str),
}

const SHORT: Duration = Duration::from_micros(20);
const LONG: Duration = Duration::from_millis(1);
const EVER: Duration = Duration::from_secs(3600);

const POLICIES: [(&str, Policy); 12] = [
    ("the daemon, `--placement auto`", Policy::Daemon("auto")),
    ("the daemon, `--placement kernel`", Policy::Daemon("kernel")),
    ("the kernel's choice", Policy::Kernel),
    ("always the first core", Policy::First),
    (
        "the faulting thread's core, looked up every 16th time",
        Policy::Follow(16),
    ),
    ("the same, every 256th time", Policy::Follow(256)),
    ("another core, looked up every 16th time", Policy::Avoid(16)),
    ("the kernel's choice, asking for 20 µs", Policy::Spin(SHORT)),
    ("the kernel's choice, asking for 1 ms", Policy::Spin(LONG)),
    ("the kernel's choice, asking always", Policy::Spin(EVER)),
    (
        "the faulting thread's core, asking for 20 µs",
        Policy::FollowSpin(16, SHORT),
    ),
    ("the faulting thread's core, SCHED_IDLE", Policy::Humble(16)),
];

/// What the target does, and what else happens on the machine.
#[derive(Debug, Clone, Copy)]
struct Case {
    name: &'static str,
    threads: usize,
    pause: Duration,
    sleeps: bool,
    pinned: bool,
    /// Which cores other processes use.
    busy: u8,
}

const CASES: [Case; 12] = [
    case("1 thread, no pause", 1, 0),
    case("1 thread, works 50 µs", 1, 50),
    Case {
        sleeps: true,
        ..case("1 thread, sleeps 1 ms", 1, 1000)
    },
    Case {
        pinned: true,
        ..case("1 pinned thread, no pause", 1, 0)
    },
    Case {
        busy: Busy::ALL,
        ..case("1 thread, works 50 µs; all cores busy", 1, 50)
    },
    Case {
        busy: Busy::ALL,
        sleeps: true,
        ..case("1 thread, sleeps 1 ms; all cores busy", 1, 1000)
    },
    Case {
        busy: Busy::FIRST,
        pinned: true,
        ..case("1 pinned thread, works 50 µs; its core busy", 1, 50)
    },
    Case {
        busy: Busy::FIRST,
        pinned: true,
        sleeps: true,
        ..case("1 pinned thread, sleeps 1 ms; its core busy", 1, 1000)
    },
    case("2 threads, no pause", 2, 0),
    case("4 threads, no pause", 4, 0),
    case("4 threads, work 50 µs", 4, 50),
    Case {
        busy: Busy::ALL,
        ..case("4 threads, no pause; all cores busy", 4, 0)
    },
];

const fn case(name: &'static str, threads: usize, micros: u64) -> Case {
    Case {
        name,
        threads,
        pause: Duration::from_micros(micros),
        sleeps: false,
        pinned: false,
        busy: Busy::NONE,
    }
}

impl Case {
    fn faults(self, setup: &Setup) -> usize {
        let faults = if setup.quick { 1 << 9 } else { 1 << 12 };
        if self.sleeps { faults / 8 } else { faults }
    }
}

#[derive(Debug, Clone, Default)]
struct Cell {
    p50: Series,
    p99: Series,
    rate: Series,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup) {
    let most = CASES
        .iter()
        .map(|case| case.faults(setup))
        .max()
        .unwrap_or(0);
    let times = Area::map(most.div_ceil(512), Some(&memfd(most.div_ceil(512))));
    let mut rows = vec![vec![Cell::default(); CASES.len()]; POLICIES.len()];
    for _ in 0..setup.rounds {
        for (number, case) in CASES.into_iter().enumerate() {
            for ((_, policy), row) in POLICIES.into_iter().zip(&mut rows) {
                measure(setup, policy, case, &times, &mut row[number]);
            }
        }
    }
    println!("\n## Where the thread that reads faults runs\n");
    println!(
        "µs from the touch to the word read, p50 / p99, and thousands of touches in a second by all threads, pauses and all (medians of the rounds). One \
         page for each of {most} faults ({} where threads sleep); the daemon reads LZ4 frames of one page, the others copy a page that they have. \
         \"Busy\": another process computes there, all the time.\n",
        most / 8
    );
    print!("| reader |");
    for case in CASES {
        print!(" {} |", case.name);
    }
    println!("\n|---|{}", "--:|".repeat(CASES.len()));
    for ((name, _), row) in POLICIES.into_iter().zip(&rows) {
        print!("| {name} |");
        for cell in row {
            print!(
                " {:.1} / {:.0}, {:.0} |",
                cell.p50.median(),
                cell.p99.median(),
                cell.rate.median()
            );
        }
        println!();
    }
}

fn measure(setup: &Setup, policy: Policy, case: Case, times: &Area, cell: &mut Cell) {
    let faults = case.faults(setup);
    let crowd = Order::Crowd(Crowd {
        threads: case.threads,
        touches: faults / case.threads,
        pause: case.pause,
        sleeps: case.sleeps,
        pinned: case.pinned,
    });
    let area = Area::map(faults, None);
    let Walked { first, each } = if let Policy::Daemon(placement) = policy {
        let snapshot = setup.work.join("placement.snap");
        write(&snapshot, &area, false, 1, compression(Codec::Lz4, 1));
        let (mut target, _) = Target::start(&area, times, None);
        let options = ["--placement", placement, "--read-ahead", "0"];
        let at = area.range().start;
        let daemon = Daemon::start(&setup.program, &snapshot, target.pid(), at, &options);
        let others = Busy::start(case.busy);
        target.order(crowd);
        let walked = target.walked();
        drop((target, others));
        daemon.end();
        fs::remove_file(&snapshot).expect("the snapshot");
        walked
    } else {
        let mut server = Server::start(Way::Private, &area, None, times);
        let others = Busy::start(case.busy);
        let all = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
        server.target.order(crowd);
        if matches!(policy, Policy::Humble(_)) {
            schedule(libc::SCHED_IDLE);
        }
        serve(policy, &mut server, &all);
        schedule(libc::SCHED_OTHER);
        sched_setaffinity(Pid::from_raw(0), &all).expect("the affinity");
        drop(others);
        server.target.walked()
    };
    cell.p50.push(first.median());
    cell.p99.push(first.percentile(99));
    cell.rate.push(1e3 / each);
}

fn serve(policy: Policy, server: &mut Server<'_>, all: &CpuSet) {
    let spin = match policy {
        Policy::Spin(time) | Policy::FollowSpin(_, time) => time,
        _ => Duration::ZERO,
    };
    if policy == Policy::First {
        pin(0);
    }
    let (mut seen, mut here) = (0, None);
    loop {
        server.messages.clear();
        let begun = Instant::now();
        loop {
            let read = server.userfaultfd.read(&mut server.messages);
            if read.expect("to read messages") > 0 || begun.elapsed() >= spin {
                break;
            }
            std::hint::spin_loop();
            if spin > LONG && ended(server, PollTimeout::ZERO) {
                return;
            }
        }
        if server.messages.is_empty() {
            if ended(server, PollTimeout::NONE) {
                return;
            }
            continue;
        }
        for message in std::mem::take(&mut server.messages) {
            let Message::Fault(fault) = message else {
                continue;
            };
            let every = match policy {
                Policy::Follow(every)
                | Policy::FollowSpin(every, _)
                | Policy::Avoid(every)
                | Policy::Humble(every) => every,
                _ => u32::MAX,
            };
            if every < u32::MAX && seen % every == 0 {
                let mut core = core_of(server.target.pid(), fault.thread);
                if matches!(policy, Policy::Avoid(_)) {
                    core = core.and_then(|core| {
                        (0..CpuSet::count())
                            .find(|&other| other != core && all.is_set(other) == Ok(true))
                    });
                }
                if core != here {
                    here = core;
                    if let Some(core) = core {
                        pin(core);
                    }
                }
            }
            seen += 1;
            server.install(server.page_of(fault.address), 1);
        }
    }
}

/// True when the target has replied and nothing is left to read.
fn ended(server: &Server<'_>, most: PollTimeout) -> bool {
    let mut ready = [
        PollFd::new(server.userfaultfd.as_fd(), PollFlags::POLLIN),
        PollFd::new(server.target.as_fd(), PollFlags::POLLIN),
    ];
    poll(&mut ready, most).expect("poll");
    let [asked, replied] = ready.map(|ready| ready.any() == Some(true));
    replied && !asked
}

fn schedule(policy: i32) {
    let nothing = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure and nothing else.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const nothing) };
    assert_eq!(result, 0, "sched_setscheduler");
}

fn only(core: usize) -> CpuSet {
    let mut one = CpuSet::new();
    one.set(core).expect("a core");
    one
}

fn pin(core: usize) {
    sched_setaffinity(Pid::from_raw(0), &only(core)).expect("the affinity");
}

/// The core where a thread ran last.
fn core_of(pid: i32, thread: u32) -> Option<usize> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/task/{thread}/stat")).ok()?;
    let behind = stat.rsplit_once(')')?.1;
    behind.split_ascii_whitespace().nth(36)?.parse().ok()
}

/// Processes that compute until they are dropped.
struct Busy(Vec<Child>);

impl Busy {
    const NONE: u8 = 0;
    /// One for each core.
    const ALL: u8 = 1;
    /// One that stays on the first core.
    const FIRST: u8 = 2;

    fn start(where_: u8) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let start = |_| {
            let mut command = Command::new("sh");
            let command = command.args(["-c", "while :; do :; done"]);
            command.stdout(Stdio::null()).spawn().expect("sh")
        };
        match where_ {
            Self::ALL => Self((0..cores).map(start).collect()),
            Self::FIRST => {
                let child = start(0);
                let id = i32::try_from(child.id()).expect("a pid");
                sched_setaffinity(Pid::from_raw(id), &only(0)).expect("the affinity");
                Self(vec![child])
            }
            _ => Self(Vec::new()),
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself; either way it is reaped.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
