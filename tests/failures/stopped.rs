//! Processes of the daemon are stopped for seconds (SIGSTOP, a debugger, a frozen cgroup), and go on. Whoever needs them waits, and
//! nothing is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::actor::Actor;
use super::daemon::Daemon;
use super::lab::Lab;
use super::support::service::{guard_of, worker_of};
use super::support::{state, wait_until};

const PAGES: u64 = 512;
const LONG: Duration = Duration::from_secs(2);

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

fn stop(pid: i32) {
    send(pid, Signal::SIGSTOP);
    wait_until("it stands still", || state(pid) == 'T');
}

/// The keeper, who serves for it, and the guard.
fn processes(daemon: &Daemon) -> [i32; 3] {
    let keeper = daemon.pid();
    let worker = worker_of(keeper).expect("it serves");
    [keeper, worker, guard_of(keeper).expect("there is one")]
}

/// A page that comes after so long, and not before.
fn assert_waits(actor: &mut Actor, command: &str, answer: &str, meanwhile: impl FnOnce()) {
    let began = Instant::now();
    actor.target.tell(command);
    std::thread::sleep(LONG);
    meanwhile();
    assert_eq!(actor.target.hear(), answer);
    assert!(began.elapsed() >= LONG, "{:?}", began.elapsed());
}

#[test]
fn all_of_it() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    // What is waited for meanwhile: a page, and that a fork is heard of.
    for (command, answer) in [("read 100", "new"), ("child 200", "exit 0")] {
        let mut actor = Actor::start(PAGES);
        let daemon = Daemon::serving(&snapshot, &actor, &[]);
        let all = processes(&daemon);
        all.into_iter().for_each(stop);
        assert_waits(&mut actor, command, answer, || {
            all.into_iter().for_each(|pid| send(pid, Signal::SIGCONT));
        });
        actor.assert_restored();
        daemon.end().assert(0, &["all memory is in place"]);
    }
}

#[test]
fn the_process_that_serves() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let more = ["--prefill=all", "--prefill-rate=256KiB"];
    let daemon = Daemon::serving(&snapshot, &actor, &more);
    let [_, worker, _] = processes(&daemon);
    stop(worker);
    assert_waits(&mut actor, "read 500", "new", || {
        send(worker, Signal::SIGCONT);
    });
    assert_eq!(worker_of(daemon.pid()), Some(worker), "nobody else serves");
    actor.assert_restored();
    daemon.end().assert(0, &["all memory is in place"]);
}

/// Nobody waits for it, unless there is nobody who serves.
#[test]
fn the_keeper() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    let [keeper, worker, _] = processes(&daemon);
    stop(keeper);
    assert_eq!(actor.ask("read 100"), "new");
    send(worker, Signal::SIGKILL);
    assert_waits(&mut actor, "read 200", "new", || {
        send(keeper, Signal::SIGCONT);
    });
    actor.assert_restored();
    daemon
        .finish()
        .assert(0, &["another one takes over", "all memory is in place"]);
}

/// When the others are dead it is all that there is: the target waits for it, and then ends.
#[test]
fn the_guard() {
    let (_lab, snapshot) = Lab::with_snapshot(PAGES);
    let mut actor = Actor::start(PAGES);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    let [_, _, guard] = processes(&daemon);
    stop(guard);
    assert_eq!(actor.ask("read 100"), "new");
    daemon.signal(Signal::SIGKILL);
    actor.target.tell("read 200");
    std::thread::sleep(LONG);
    assert!(!actor.has_ended());
    send(guard, Signal::SIGCONT);
    wait_until("its death", || actor.has_ended());
    assert_eq!(actor.target.rest(), "", "nothing was read");
    daemon.end();
}
