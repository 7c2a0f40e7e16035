//! The daemon itself is killed. Nobody may go on and read zeros.

use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::actor::Actor;
use super::daemon::{Daemon, restoring};
use super::lab::Lab;
use super::support::service::worker_of;
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

/// What a terminal or a shell sends to the group of the daemon does not reach who watches over it.
#[test]
fn a_signal_to_its_group_does_not_kill_the_guard() {
    use std::os::unix::process::CommandExt;
    let (_lab, snapshot) = Lab::with_snapshot(64);
    for signal in [Signal::SIGKILL, Signal::SIGUSR2, Signal::SIGQUIT] {
        let mut actor = Actor::start(64);
        let mut command = restoring(&snapshot, &actor, &[]);
        command.process_group(0);
        let daemon = Daemon::spawn(command);
        daemon.hear("serving");
        assert_eq!(actor.ask("read 19"), "new");
        let worker = worker_of(daemon.pid()).expect("it serves");
        killpg(Pid::from_raw(daemon.pid()), signal).expect("it runs");
        if signal == Signal::SIGQUIT {
            // Asks it to end, and it finishes first.
            daemon.end().assert(0, &["asked to end"]);
            actor.assert_restored();
        } else {
            // Who serves is in a group of its own, and goes on. When it ends as well the guard is there.
            assert_eq!(actor.ask("read 21"), "new");
            kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
            wait_until("the target's death", || actor.has_ended());
            drop(daemon.end());
        }
    }
}

/// An orphan is in nobody's list. It is killed when it touches a page that is missing, and not before.
#[test]
fn an_orphan_is_killed_when_it_touches_what_is_missing() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    let orphan: i32 = actor.ask("sleeper").parse().expect("a pid");
    wait_until("the child stands still", || state(orphan) == 'T');
    actor.target.tell("end");
    wait_until("the parent's end", || actor.has_ended());
    daemon.signal(Signal::SIGKILL);
    // Nobody else has its number meanwhile, for nobody has waited for the parent.
    assert_eq!(state(orphan), 'T');
    kill(Pid::from_raw(orphan), Signal::SIGCONT).expect("it is there");
    wait_until("the orphan's death", || {
        matches!(state(orphan), 'Z' | 'X' | '?')
    });
    assert_eq!(actor.target.rest(), "", "it has seen nothing");
    daemon.end();
}

/// Who took over goes on without the keeper, as the first one would; the guard waits for it.
#[test]
fn the_keeper_is_killed_when_another_one_has_taken_over() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    let first = worker_of(daemon.pid()).expect("it serves");
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it lives");
    assert_eq!(actor.ask("read 19"), "new");
    let second = worker_of(daemon.pid()).expect("it serves");
    kill(Pid::from_raw(daemon.pid()), Signal::SIGKILL).expect("it lives");
    wait_until("its death", || state(daemon.pid()) == 'Z');
    // The guard has heard of it, too.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(actor.ask("read 40"), "new");
    kill(Pid::from_raw(second), Signal::SIGKILL).expect("it lives");
    wait_until("its death", || actor.has_ended());
    daemon.end();
}

/// The standard library looks at it first: it must be allowed to let it go its way.
#[test]
fn of_what_the_process_that_serves_died_is_said() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        assert_eq!(actor.ask("read 19"), "new");
        let worker = worker_of(daemon.pid()).expect("it serves");
        wait_until("its death", || {
            // Sent by hand it does not come again by itself.
            kill(Pid::from_raw(worker), signal).is_err()
        });
        daemon.complain(&format!("killed by {signal}: another one takes over"));
    }
    actor.assert_restored();
    daemon.finish().assert(0, &["all memory is in place"]);
}
