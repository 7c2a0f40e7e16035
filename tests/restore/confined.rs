//! A daemon that serves has no more rights than that takes, in any of its threads.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;

use crate::scene::Captured;
use crate::support::confined::{
    CAP_KILL, CAP_SYS_PTRACE, assert_bounded, assert_confined, threads,
};

/// Waits for words, and so is owed all for long.
fn serving(words: &[&str], check: impl FnOnce(i32)) {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let scene = captured.restore(words);
    check(scene.restorer.pid());
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
    scene.restorer.signal(Signal::SIGSYS);
    assert_eq!(scene.restorer.wait().signal(), Some(libc::SIGSYS));
    // It is owed memory that nobody has any more.
    assert_eq!(scene.target.end().signal(), Some(libc::SIGKILL));
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
