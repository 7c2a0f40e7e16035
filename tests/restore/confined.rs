//! A daemon that serves has no more rights than that takes, in any of its threads.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::Captured;
use crate::support::confined::{
    CAP_DAC_OVERRIDE, CAP_KILL, CAP_SYS_PTRACE, assert_bounded, assert_confined, threads,
};
use crate::support::service::{guard_of, worker_of};
use crate::support::wait_until;

/// Waits for words, and so is owed all for long.
fn serving(words: &[&str], check: impl FnOnce(i32)) {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let scene = captured.restore(words);
    check(worker_of(scene.restorer.pid()).expect("it serves"));
}

#[test]
fn one_that_poisons() {
    serving(&[], |pid| {
        assert_confined(pid, CAP_KILL);
        assert_bounded(pid, CAP_KILL);
    });
}

/// It has to find out who waits for a page.
#[test]
fn one_that_kills() {
    let words = ["--on-failure", "kill"];
    serving(&words, |pid| {
        assert_confined(pid, CAP_KILL | CAP_SYS_PTRACE);
    });
}

/// What the kernel does to who makes a forbidden call is that signal, and nothing else happens than with any other.
#[test]
fn a_forbidden_call_is_a_crash_like_any_other() {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let mut scene = captured.restore(&[]);
    let keeper = scene.restorer.pid();
    let worker = worker_of(keeper).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGSYS).expect("it serves");
    let said = || scene.restorer.errors();
    wait_until("another to take over", || {
        said().contains("another one takes over")
    });
    assert!(said().contains("killed by SIGSYS"), "{}", said());
    wait_until("it to be as confined", || {
        worker_of(keeper).is_some_and(|next| {
            next != worker && threads(next).iter().all(|thread| thread.seccomp == 2)
        })
    });
    assert_confined(worker_of(keeper).expect("it serves"), CAP_KILL);
    scene.target.tell("0 64");
    assert_eq!(scene.target.hear(), "right");
    assert_eq!(scene.restorer.finish().outcome(), "complete");
}

#[test]
fn one_that_is_debugged() {
    serving(&["--no-seccomp"], |pid| {
        for thread in threads(pid) {
            assert_eq!(thread.seccomp, 0, "{thread:x?}");
            assert_eq!(thread.permitted & CAP_SYS_PTRACE, 0, "{thread:x?}");
        }
    });
}

/// It may end processes, look which of them waits, and remove files.
#[test]
fn the_guard_as_well() {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let scene = captured.restore(&[]);
    let guard = guard_of(scene.restorer.pid()).expect("it watches");
    for thread in threads(guard) {
        let most = CAP_KILL | CAP_SYS_PTRACE | CAP_DAC_OVERRIDE;
        assert_eq!(thread.permitted & !most, 0, "{thread:x?}");
        assert!(thread.no_new_privileges, "{thread:x?}");
    }
}
