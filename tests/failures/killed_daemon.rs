//! The daemon itself is killed. Nobody may go on and read zeros.

use nix::sys::signal::Signal;

use super::actor::Actor;
use super::daemon::Daemon;
use super::lab::Lab;
use super::support::{state, wait_until};

#[test]
fn the_target_of_a_daemon_that_is_killed_dies_with_it() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    assert_eq!(actor.ask("read 19"), "new");
    daemon.signal(Signal::SIGKILL);
    wait_until("its death", || actor.has_ended());
    let ended = daemon.end();
    assert!(ended.err.contains(&actor.pid().to_string()), "{ended:?}");
    assert!(ended.err.contains("must not read as zeros"), "{ended:?}");
}

/// Whoever waits for a page at that moment waits until the end, and reads nothing.
#[test]
fn a_page_that_is_waited_for_while_the_daemon_dies_is_never_zero() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    for _ in 0..20 {
        let mut actor = Actor::start(64);
        let daemon = Daemon::serving(&snapshot, &actor, &[]);
        daemon.signal(Signal::SIGSTOP);
        wait_until("the daemon stands still", || state(daemon.pid()) == 'T');
        actor.target.tell("read 21");
        daemon.signal(Signal::SIGKILL);
        wait_until("its death", || actor.has_ended());
        assert_eq!(actor.target.rest(), "", "nothing was read");
        daemon.end();
    }
}

/// After an orderly end the guard has nothing to do, and goes.
#[test]
fn a_target_outlives_a_daemon_that_is_done() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &["--prefill=all"]);
    daemon.end().assert(0, &["in place"]);
    actor.assert_restored();
}

/// Children are in nobody's list; they are found by their parents.
#[test]
fn children_die_too() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    actor.target.tell("linger 3");
    let mut children = Vec::new();
    while children.len() < 3 {
        let line = actor.target.hear();
        if let Some((pid, content)) = line.split_once(' ')
            && let Ok(pid) = pid.parse()
        {
            assert_eq!(content, "new");
            children.push(pid);
        }
    }
    daemon.signal(Signal::SIGKILL);
    wait_until("the death of all", || {
        let ended = |pid: i32| matches!(state(pid), 'Z' | 'X' | '?');
        actor.has_ended() && children.iter().all(|&child| ended(child))
    });
    daemon.end();
}
