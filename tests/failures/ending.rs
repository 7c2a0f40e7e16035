//! Being asked to end, once and twice, in every way.

use nix::sys::signal::Signal;

use super::actor::{Actor, Survey};
use super::daemon::{Daemon, in_shell, restoring};
use super::lab::{Lab, Plan, damage};
use super::support::wait_until;

/// More than can be installed while somebody looks.
const MANY: u64 = 64 << 8;

#[test]
fn a_first_signal_finishes_everything() {
    let (_lab, snapshot) = Lab::with_snapshot(1024);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut actor = Actor::start(1024);
        let daemon = Daemon::serving(&snapshot, &actor, &[]);
        assert_eq!(actor.ask("read 100"), "new");
        daemon.signal(signal);
        let ended = daemon.end();
        ended.assert(
            0,
            &[
                "asked to end",
                "a second signal gives up",
                "all memory is in place",
            ],
        );
        actor.assert_restored();
    }
}

#[test]
fn hanging_up_never_gives_up() {
    let (_lab, snapshot) = Lab::with_snapshot(MANY);
    let mut actor = Actor::start(MANY);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    // A terminal that goes away says so more than once, and a service manager says it beside SIGTERM.
    daemon.signal(Signal::SIGHUP);
    daemon.complain("asked to end");
    daemon.signal(Signal::SIGHUP);
    daemon.end().assert(0, &["all memory is in place"]);
    actor.assert_restored();
}

#[test]
fn signals_that_come_together_are_one_request() {
    let (_lab, snapshot) = Lab::with_snapshot(1024);
    let mut actor = Actor::start(1024);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    daemon.signal(Signal::SIGSTOP);
    wait_until("the stop", || super::support::state(daemon.pid()) == 'T');
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGINT);
    daemon.signal(Signal::SIGHUP);
    daemon.signal(Signal::SIGCONT);
    daemon.end().assert(0, &["all memory is in place"]);
    actor.assert_restored();
}

#[test]
fn signals_that_are_ignored_from_the_start_stay_ignored() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let inner = restoring(&snapshot, &actor, &[]);
    // As nohup does it.
    let daemon = Daemon::spawn(in_shell("trap '' HUP; exec \"$@\"", &inner));
    daemon.hear("serving");
    daemon.signal(Signal::SIGHUP);
    assert_eq!(actor.ask("read 1"), "new");
    assert_eq!(actor.ask("read 60"), "new");
    daemon.signal(Signal::SIGTERM);
    let ended = daemon.end();
    ended.assert(0, &["asked to end"]);
    assert_eq!(ended.err.matches("asked to end").count(), 1, "{ended:?}");
    actor.assert_restored();
}

/// A damaged frame that the kill way cannot get rid of keeps the program from finishing.
#[test]
fn a_second_signal_poisons_the_rest_or_kills() {
    let (lab, _) = Lab::with_snapshot(64);
    let snapshot = lab.snapshot("many", &Plan::of(MANY));
    for (more, kills) in [(&[][..], false), (&["--on-failure=kill"][..], true)] {
        let mut actor = Actor::start(MANY);
        let daemon = Daemon::serving(&snapshot, &actor, more);
        assert_eq!(actor.ask("read 9"), "new");
        daemon.signal(Signal::SIGSTOP);
        wait_until("the stop", || super::support::state(daemon.pid()) == 'T');
        daemon.signal(Signal::SIGTERM);
        daemon.signal(Signal::SIGCONT);
        daemon.complain("asked to end");
        daemon.signal(Signal::SIGTERM);
        let ended = daemon.end();
        if ended.status == 0 {
            // It had finished before the second one came.
            actor.assert_restored();
            continue;
        }
        ended.assert(1, &["asked to end at once", "were not restored"]);
        if kills {
            wait_until("its death", || actor.has_ended());
        } else {
            let survey = actor.survey();
            assert_eq!(survey.new + survey.poisoned, MANY, "{survey:?}");
            assert!(survey.poisoned > 0, "{survey:?} {ended:?}");
        }
    }
}

#[test]
fn what_cannot_be_finished_in_time_is_poisoned_or_kills() {
    let lab = Lab::new();
    let snapshot = lab.snapshot("many", &Plan::of(MANY));
    for kills in [false, true] {
        let mut actor = Actor::start(MANY);
        let mut more = vec!["--finish-within=1ms"];
        if kills {
            more.push("--on-failure=kill");
        }
        let daemon = Daemon::serving(&snapshot, &actor, &more);
        assert_eq!(actor.ask("read 9"), "new");
        daemon.signal(Signal::SIGTERM);
        daemon
            .end()
            .assert(1, &["could not finish in time", "were not restored"]);
        if kills {
            wait_until("its death", || actor.has_ended());
        } else {
            let survey = actor.survey();
            assert_eq!(survey.new + survey.poisoned, MANY, "{survey:?}");
            assert!(survey.new >= 1 && survey.poisoned > 0, "{survey:?}");
            assert_eq!(
                actor.ask(&format!("send {}", MANY - 1)),
                nix::errno::Errno::EFAULT.to_string()
            );
        }
    }
}

#[test]
fn bad_pages_do_not_keep_it_from_finishing_the_others() {
    let (_lab, snapshot) = Lab::with_snapshot(256);
    damage(&snapshot, 21);
    let mut actor = Actor::start(256);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    daemon.signal(Signal::SIGTERM);
    daemon.end().assert(1, &["4 pages poisoned", "checksum"]);
    assert_eq!(
        actor.survey(),
        Survey {
            new: 252,
            poisoned: 4,
            ..Survey::default()
        }
    );
}

#[test]
fn a_suspended_daemon_delays_and_loses_nothing() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    daemon.signal(Signal::SIGSTOP);
    wait_until("the stop", || super::support::state(daemon.pid()) == 'T');
    actor.target.tell("survey");
    // What is shown is that a second without the daemon does no harm.
    std::thread::sleep(std::time::Duration::from_secs(1));
    daemon.signal(Signal::SIGCONT);
    assert_eq!(Survey::parse(&actor.target.hear()), Survey::new(64));
    daemon.end().assert(0, &["all memory is in place"]);
}
