//! All is killed when a child has been forked and nothing has been done about it: its userfaultfd, which came with the message, is lost.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uffd_restore::uffd::Event;

use crate::holder::{Holder, Kids};
use crate::machine::Machine;
use crate::support::killing::{unfinished, wait_until_soon};
use crate::support::service::worker_of;
use crate::support::state;

const UNIT: &str = "uffd-restore@web.service";
/// Forked in a second or so, and alive long enough to be killed before they look at their memory.
const CHILDREN: usize = 500;

/// Stops the worker wherever it is, until a fork that it has read lies in the inbox, and nothing has been done about it. False if there
/// was none for so long.
fn stopped_at_a_fork(keeper: i32, worker: i32, patience: Duration) -> bool {
    let worker_pid = Pid::from_raw(worker);
    let until = Instant::now() + patience;
    while Instant::now() < until {
        kill(worker_pid, Signal::SIGSTOP).expect("it lives");
        wait_until_soon("the worker stands still", || state(worker) == 'T');
        let is_fork = |event: &Event| matches!(event, Event::Fork { .. });
        if unfinished(keeper).iter().any(is_fork) {
            return true;
        }
        kill(worker_pid, Signal::SIGCONT).expect("it lives");
        // It gets forward, and is somewhere else the next time.
        std::thread::sleep(Duration::from_micros(50));
    }
    false
}

#[test]
fn a_child_of_the_last_moment_is_killed_and_the_others_go_on() {
    let machine = Machine::boot();
    let mut holder = Holder::captured(&machine, "web", 256);
    machine.must(&["start", UNIT]);
    let before = machine.show(UNIT, "MainPID");
    let keeper = machine.outside(&before);
    let worker = worker_of(keeper).expect("it serves");
    let mut rounds = 0;
    loop {
        rounds += 1;
        holder.target.tell(&format!("fork {CHILDREN} late"));
        assert_eq!(holder.target.hear(), "done");
        if stopped_at_a_fork(keeper, worker, Duration::from_millis(800)) {
            break;
        }
        let kids = holder.reap();
        assert_eq!((kids.right, kids.wrong), (CHILDREN, 0));
        assert!(rounds < 8, "no fork was seen in the inbox");
    }
    machine.must(&["kill", "--signal=KILL", UNIT]);
    machine.wait_for(UNIT, "MainPID", |pid| pid != before && pid != "0");
    let Kids {
        right,
        wrong,
        killed,
    } = holder.reap();
    let logs = machine.logs();
    eprintln!("round {rounds}: {right} right, {wrong} wrong, {killed} killed\n{logs}");
    assert_eq!((right, wrong, killed), (CHILDREN - 1, 0, 1), "{logs}");
    assert!(logs.contains("a child was forked in the moment"), "{logs}");
    holder.check();
    machine.wait_for(UNIT, "ActiveState", |state| state == "inactive");
    assert_eq!(machine.show(UNIT, "Result"), "success", "{logs}");
}
