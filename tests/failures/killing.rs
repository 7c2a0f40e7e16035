//! --on-failure kill: who touches a page that cannot be served dies, and nobody else.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::actor::{Actor, Survey};
use super::daemon::{Daemon, restoring};
use super::lab::{Lab, damage};
use super::support::service::worker_of;
use super::support::wait_until;

#[test]
fn the_target_that_touches_a_bad_page_is_killed() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &["--on-failure=kill"]);
    assert_eq!(actor.ask("read 19"), "new");
    actor.target.tell("read 21");
    let ended = daemon.end();
    let address = format!("{:#x}", actor.address + 21 * 4096);
    ended.assert(
        1,
        &[&actor.pid().to_string(), "killed", &address, "checksum"],
    );
    wait_until("its death", || actor.has_ended());
}

#[test]
fn a_child_that_touches_a_bad_page_is_killed_and_its_parent_goes_on() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    for child in ["child", "namespaced"] {
        let mut actor = Actor::start(64);
        let daemon = Daemon::serving(&snapshot, &actor, &["--on-failure=kill"]);
        assert_eq!(actor.ask(&format!("{child} 21")), "signal 9", "{child}");
        assert_eq!(actor.ask("read 19"), "new");
        actor.target.kill();
        let ended = daemon.end();
        ended.assert(1, &["killed", "checksum"]);
        let parent = format!("uffd-restore: {} (", actor.pid());
        let killed = |line: &str| line.starts_with(&parent) && line.contains("killed");
        assert!(!ended.err.lines().any(killed), "the parent: {ended:?}");
    }
}

/// Whoever takes over says in the end that not all was served.
#[test]
fn who_was_killed_is_not_forgotten_when_another_one_takes_over() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &["--on-failure=kill"]);
    assert_eq!(actor.ask("child 21"), "signal 9");
    let worker = worker_of(daemon.pid()).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
    assert_eq!(actor.ask("read 19"), "new");
    actor.target.kill();
    daemon.end().assert(1, &["killed", "takes over"]);
}

/// Nothing can be done but to wait for a touch, and that takes no processor.
#[test]
fn bad_pages_that_prefill_finds_wait_for_a_touch() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    let mut actor = Actor::start(64);
    let more = ["--on-failure=kill", "--prefill=all"];
    let mut daemon = Daemon::serving(&snapshot, &actor, &more);
    assert_eq!(actor.ask("read 63"), "new");
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).expect("stat");
        let fields: Vec<&str> = stat
            .rsplit_once(')')
            .expect("a name")
            .1
            .split(' ')
            .collect();
        fields[12].parse::<u64>().expect("utime") + fields[13].parse::<u64>().expect("stime")
    };
    let before = used();
    // Time that passes is what is measured here.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let ticks = used() - before;
    assert!(ticks < 30, "{ticks} of 100 ticks in a second of waiting");
    assert!(daemon.is_running());
    assert_eq!(actor.ask("read 19"), "new");
    actor.target.tell("read 22");
    daemon.end().assert(1, &["killed", "checksum"]);
}

#[test]
fn a_target_that_may_not_be_killed_gets_poison() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    let mut actor = Actor::start(64);
    let command = restoring(&snapshot, &actor, &["--on-failure=kill"]);
    let capabilities = ["sys_ptrace", "dac_override"];
    let daemon = Daemon::spawn(super::permissions::as_nobody(&command, &capabilities));
    daemon.hear("serving");
    assert_eq!(
        actor.survey(),
        Survey {
            new: 60,
            poisoned: 4,
            ..Survey::default()
        }
    );
    daemon
        .end()
        .assert(1, &["cannot be killed", "CAP_KILL", "poisoned"]);
}
