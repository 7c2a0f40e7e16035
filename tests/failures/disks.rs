//! A disk that fails, or does not answer, while a snapshot is served from it.

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use snapshot_format::SectionKind;

use super::actor::{Actor, Survey};
use super::daemon::{Daemon, restoring, run};
use super::lab::{Lab, Plan, section};
use super::support::fuse::{self, Disk};
use super::support::service::worker_of;
use super::support::wait_until;

const PAGES: u64 = 2048;

const EVERYWHERE: Range<u64> = 0..u64::MAX;

/// Where the second half of the content is.
fn half(path: &Path) -> Range<u64> {
    let (offset, len) = section(path, SectionKind::Frames);
    offset + len / 2..offset + len
}

fn kill_worker(daemon: &Daemon) {
    let worker = worker_of(daemon.pid()).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it lives");
    daemon.complain("another one takes over");
}

#[test]
fn what_cannot_be_read_is_poison_and_the_rest_is_right() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let disk = Disk::with(&[&snapshot]);
    for prefill in ["--prefill=none", "--prefill=all"] {
        disk.be_well();
        let mut actor = Actor::start(PAGES);
        let more = [prefill, "--prefill-delay=200ms"];
        let daemon = Daemon::serving(&disk.path("snap"), &actor, &more);
        assert_eq!(actor.ask("read 0"), "new");
        disk.fail(Errno::EIO, half(&snapshot));
        let survey = actor.survey();
        assert_eq!(survey.new + survey.poisoned, PAGES, "{survey:?}");
        assert!(survey.poisoned > 500 && survey.new > 500, "{survey:?}");
        let ended = daemon.end();
        ended.assert(
            1,
            &["Input/output error", "poisoned", "more pages are poisoned"],
        );
        assert!(ended.err.lines().count() < 15, "{ended:?}");
        assert_eq!(actor.survey(), survey, "poison stays");
    }
}

/// A page is lost that was touched while it could not be read, and no other.
#[test]
fn a_disk_that_is_well_again_has_the_rest() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let disk = Disk::with(&[&snapshot]);
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&disk.path("snap"), &actor, &["--read-ahead=0"]);
    disk.fail(Errno::EIO, half(&snapshot));
    let touched = PAGES - 40;
    assert_eq!(actor.ask(&format!("read {touched}")), "sigbus");
    disk.be_well();
    assert_eq!(actor.ask(&format!("read {}", touched + 4)), "new");
    let survey = actor.survey();
    let all_but_one = Survey {
        new: PAGES - 1,
        poisoned: 1,
        ..Survey::default()
    };
    assert_eq!(survey, all_but_one);
    daemon
        .end()
        .assert(1, &["Input/output error", "1 page poisoned"]);
}

#[test]
fn a_disk_that_fails_from_the_beginning_is_found_out_before_the_target_is_touched() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let disk = Disk::with(&[&snapshot]);
    disk.fail(Errno::EIO, EVERYWHERE);
    let mut actor = Actor::start(16);
    let path = disk.path("snap");
    let name = path.to_string_lossy();
    run(restoring(&path, &actor, &[])).assert(1, &[&name, "Input/output error"]);
    actor.assert_untouched();
}

/// As one that is far away and whose network is down. Whoever needs something waits, as long as it takes.
#[test]
fn a_disk_that_does_not_answer_for_seconds_is_waited_for() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let disk = Disk::with(&[&snapshot]);
    for killed in [false, true] {
        let mut actor = Actor::start(PAGES);
        let daemon = Daemon::serving(&disk.path("snap"), &actor, &[]);
        assert_eq!(actor.ask("read 0"), "new");
        let before = disk.failed();
        disk.say_nothing();
        let began = Instant::now();
        actor.target.tell("survey");
        wait_until("somebody waits", || disk.failed() > before);
        std::thread::sleep(Duration::from_secs(2));
        if killed {
            kill_worker(&daemon);
        }
        disk.be_well();
        assert_eq!(Survey::parse(&actor.target.hear()), Survey::new(PAGES));
        assert!(began.elapsed() > Duration::from_secs(2));
        daemon.finish().assert(0, &["all memory is in place"]);
    }
}

/// Its name is not needed any more, by those who take over either.
#[test]
fn a_snapshot_that_is_deleted_while_it_is_served_is_served_to_the_end() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    assert_eq!(actor.ask("read 0"), "new");
    fs::remove_file(&snapshot).expect("it is there");
    // And another one has the name now.
    lab.snapshot("snap", &Plan::of(16));
    kill_worker(&daemon);
    actor.assert_restored();
    daemon.finish().assert(0, &["all memory is in place"]);
}

/// What is recorded cannot be written any more, and that harms nobody who is served: it is said.
#[test]
fn a_recording_that_cannot_be_begun_again_is_no_reason_not_to_take_over() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let folder = lab.path("sets");
    fs::create_dir(&folder).expect("a folder");
    let option = format!("--record-working-set={}/snap.ws", folder.display());
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&snapshot, &actor, &[&option]);
    assert_eq!(actor.ask("read 0"), "new");
    fs::remove_dir_all(&folder).expect("it is there");
    kill_worker(&daemon);
    actor.assert_restored();
    let recorded = "what was touched is not recorded";
    daemon
        .finish()
        .assert(0, &["all memory is in place", recorded]);
}

/// A small file system in this folder, for this thread and what it starts.
fn small_disk(folder: &Path) {
    fuse::mount_alone();
    fs::create_dir(folder).expect("a folder");
    let kind = Some("tmpfs");
    mount(kind, folder, kind, MsFlags::empty(), Some("size=64k")).expect("mount");
}

/// Nothing more can be written to it.
fn fill(folder: &Path) {
    let mut file = File::create(folder.join("filler")).expect("room for a name");
    while file.write_all(&[1; 4096]).is_ok() {}
}

#[test]
fn a_disk_that_is_full_costs_the_recording_and_nothing_else() {
    let (lab, snapshot) = Lab::with_snapshot(PAGES);
    let folder = lab.path("small");
    small_disk(&folder);
    let option = format!("--record-working-set={}/snap.ws", folder.display());
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&snapshot, &actor, &[&option]);
    fill(&folder);
    actor.assert_restored();
    daemon.end().assert(
        0,
        &[
            "snap.ws is not written",
            "No space left on device",
            "all memory is in place",
        ],
    );
    assert!(!folder.join("snap.ws").exists());
}

#[test]
fn a_pid_file_on_a_full_disk_is_found_out_and_leaves_nothing() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let folder = lab.path("small");
    small_disk(&folder);
    fill(&folder);
    let path = folder.join("pid");
    let option = format!("--pidfile={}", path.display());
    let mut actor = Actor::start(16);
    run(restoring(&snapshot, &actor, &[&option]))
        .assert(1, &["small/pid", "No space left on device"]);
    actor.assert_untouched();
    assert!(!path.exists());
}
