//! The time of day jumps, as when a machine is set right, or comes back from a long sleep. Nothing goes by it.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::actor::Actor;
use super::daemon::{Daemon, restoring};
use super::lab::Lab;
use super::support::clock::{jumping, library};
use super::support::fuse::Disk;
use super::support::service::worker_of;
use super::support::wait_until;

const PAGES: u64 = 512;

/// So that the others can fail: what asks for the time of day is told another one.
#[test]
fn it_does_jump() {
    let lab = Lab::new();
    let raw = lab.write("raw", &[1; 4096]);
    let out = lab.path("snap");
    let mut pack = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"));
    pack.args(["pack", "--quiet"]).arg(&raw).arg("-o").arg(&out);
    jumping(&mut pack, &library(&lab.path("")));
    assert!(pack.status().expect("it runs").success());
    let file = std::fs::File::open(&out).expect("there");
    let snapshot = snapshot_format::Snapshot::open(file).expect("a snapshot");
    let made = snapshot.metadata().created_unix;
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    assert!(made.abs_diff(now.as_secs()) > 100_000_000, "{made}");
}

#[test]
fn a_restore_takes_as_long_as_it_should() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let set = format!("--record-working-set={}", lab.path("set").display());
    let more = [
        "--prefill=all",
        "--prefill-rate=1MiB",
        "--prefill-delay=100ms",
        "--record-idle=200ms",
        &set,
    ];
    let mut command = restoring(&snapshot, &actor, &more);
    jumping(&mut command, &library(&lab.path("")));
    let began = Instant::now();
    let daemon = Daemon::spawn(command);
    daemon.hear("serving");
    assert_eq!(actor.ask("read 100"), "new");
    assert_eq!(actor.ask("child 200"), "exit 0");
    let ended = daemon.end();
    ended.assert(0, &["all memory is in place", "recorded in"]);
    // Two megabytes, at one in a second.
    let took = began.elapsed();
    assert!(
        took > Duration::from_millis(1200) && took < Duration::from_secs(20),
        "{took:?}: {ended:?}"
    );
    actor.assert_restored();
}

#[test]
fn who_is_killed_is_replaced() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let mut command = restoring(&snapshot, &actor, &[]);
    jumping(&mut command, &library(&lab.path("")));
    let daemon = Daemon::spawn(command);
    daemon.hear("serving");
    for (page, signal) in [
        (0, Signal::SIGKILL),
        (10, Signal::SIGABRT),
        (20, Signal::SIGABRT),
    ] {
        assert_eq!(actor.ask(&format!("read {page}")), "new");
        let worker = worker_of(daemon.pid()).expect("it serves");
        kill(Pid::from_raw(worker), signal).expect("it lives");
        wait_until("another one", || {
            worker_of(daemon.pid()).is_some_and(|another| another != worker)
        });
    }
    actor.assert_restored();
    daemon.finish().assert(0, &["all memory is in place"]);
}

/// Neither sooner nor later.
#[test]
fn finishing_ends_in_time() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let disk = Disk::with(&[&snapshot]);
    let mut actor = Actor::start(PAGES);
    let more = ["--finish-within=1s"];
    let mut command = restoring(&disk.path("snap"), &actor, &more);
    jumping(&mut command, &library(&lab.path("")));
    let daemon = Daemon::spawn(command);
    daemon.hear("serving");
    assert_eq!(actor.ask("read 9"), "new");
    disk.say_nothing();
    daemon.signal(Signal::SIGTERM);
    daemon.complain("asked to end");
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_secs(4));
            disk.be_well();
        });
        daemon.complain("could not finish in time");
        let took = began.elapsed();
        // The disk has not answered yet.
        assert!(
            took > Duration::from_millis(900) && took < Duration::from_secs(3),
            "{took:?}"
        );
        daemon.end().assert(1, &["could not finish in time"]);
    });
    let survey = actor.survey();
    assert_eq!(survey.new + survey.poisoned, PAGES, "{survey:?}");
}
