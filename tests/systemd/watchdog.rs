//! A daemon that does not go on is ended, and what it serves never reads zeros.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::holder::Holder;
use crate::machine::Machine;
use crate::support::clock::library;
use crate::support::service::worker_of;
use crate::support::wait_until;

const UNIT: &str = "uffd-restore@web.service";

fn impatient() -> (Machine, Holder) {
    let machine = Machine::boot();
    machine.drop_in(
        "uffd-restore@.service",
        "watchdog",
        // Long enough to be seen in between.
        "[Service]\nWatchdogSec=2\nRestartSec=2\n",
    );
    let holder = Holder::captured(&machine, "web", 256);
    machine.must(&["start", UNIT]);
    (machine, holder)
}

#[test]
fn a_daemon_that_is_stopped_is_ended() {
    let (machine, mut holder) = impatient();
    let keeper = machine.outside(&machine.show(UNIT, "MainPID"));
    let daemon = worker_of(keeper).expect("it serves");
    kill(Pid::from_raw(daemon), Signal::SIGSTOP).expect("it lives");
    machine.wait_for(UNIT, "Result", |result| result == "watchdog");
    machine.wait_for(UNIT, "NRestarts", |restarts| restarts != "0");
    // Taken over by the next one.
    holder.check();
}

/// It does nothing but wait, and yet nobody would take over if it did not.
#[test]
fn a_keeper_that_is_stopped_is_ended() {
    let (machine, mut holder) = impatient();
    let keeper = machine.outside(&machine.show(UNIT, "MainPID"));
    holder.check_some(0, 16);
    kill(Pid::from_raw(keeper), Signal::SIGSTOP).expect("it lives");
    holder.check_some(16, 16);
    machine.wait_for(UNIT, "StatusText", |status| {
        status.contains("the keeper has not gone on")
    });
    machine.wait_for(UNIT, "NRestarts", |restarts| restarts != "0");
    // Taken over by the next one.
    holder.check();
}

/// Nothing in it, and nothing that it says, goes by the time of day.
#[test]
fn a_daemon_whose_clock_jumps_is_left_alone() {
    let machine = Machine::boot();
    let library = library(&machine.inside("/usr/local"));
    let name = library.file_name().expect("a name").display();
    machine.drop_in(
        "uffd-restore@.service",
        "watchdog",
        &format!("[Service]\nWatchdogSec=2\nEnvironment=LD_PRELOAD=/usr/local/{name}\n"),
    );
    let mut holder = Holder::captured(&machine, "web", 256);
    machine.must(&["start", UNIT]);
    let keeper = machine.outside(&machine.show(UNIT, "MainPID"));
    let maps = std::fs::read_to_string(format!("/proc/{keeper}/maps")).expect("it lives");
    assert!(maps.contains(&name.to_string()), "the clock jumps");
    let began = std::time::Instant::now();
    wait_until("three times the watchdog's patience", || {
        began.elapsed() > std::time::Duration::from_secs(6)
    });
    assert_eq!(machine.show(UNIT, "NRestarts"), "0");
    holder.check();
}

/// It is asked far more often than it is served: nothing but the loop itself answers.
#[test]
fn a_daemon_that_has_nothing_to_do_is_left_alone() {
    let (machine, mut holder) = impatient();
    let began = std::time::Instant::now();
    wait_until("three times the watchdog's patience", || {
        began.elapsed() > std::time::Duration::from_secs(6)
    });
    assert_eq!(machine.show(UNIT, "NRestarts"), "0");
    assert_eq!(machine.show(UNIT, "ActiveState"), "active");
    holder.check();
}
