//! A daemon whose first thread that decodes does nothing until it is let go.
#![expect(unsafe_code, reason = "PTRACE_TRACEME between fork and exec")]

use std::os::unix::process::CommandExt;

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::scene::{Captured, Restorer};

/// The thread. Of a thread that is traced nobody else learns that it has ended: whatever happens, it is let go of.
pub(crate) struct Frozen {
    thread: Pid,
    held: bool,
}

impl Frozen {
    /// Lets it go on.
    pub(crate) fn thaw(mut self) {
        self.held = false;
        ptrace::detach(self.thread, None).expect("detach");
    }

    /// Waits for its end.
    pub(crate) fn ended(mut self) {
        self.held = false;
        let _ = waitpid(self.thread, Some(WaitPidFlag::__WALL));
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if self.held && ptrace::detach(self.thread, None).is_err() {
            let _ = waitpid(
                self.thread,
                Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG),
            );
        }
    }
}

/// Starts the daemon, with one thread that decodes, which stands still from its first moment on: it holds nothing that others need.
pub(crate) fn start(captured: &Captured, words: &[&str]) -> (Restorer, Frozen) {
    let words = [&["--json", "--jobs", "1"], words].concat();
    let restorer = Restorer::start_prepared(captured, &words, |command| {
        let traced = || ptrace::traceme().map_err(Into::into);
        // SAFETY: a system call and nothing else.
        unsafe { command.pre_exec(traced) };
    });
    let daemon = Pid::from_raw(restorer.pid());
    // It stops as the new program begins.
    let begins = waitpid(daemon, Some(WaitPidFlag::__WALL)).expect("it lives");
    assert!(matches!(begins, WaitStatus::Stopped(..)), "{begins:?}");
    let options = Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK;
    ptrace::setoptions(daemon, options).expect("it stands still");
    ptrace::cont(daemon, None).expect("it stands still");
    let let_go = |pid| ptrace::detach(pid, None).expect("it stands still");
    let go_on = |pid| ptrace::cont(pid, None).expect("it stands still");
    let guard = started_by(daemon, &restorer);
    let_go(guard);
    go_on(daemon);
    let worker = started_by(daemon, &restorer);
    let_go(daemon);
    go_on(worker);
    // The threads that decode are started by one that has given up its rights before.
    let starter = started_by(worker, &restorer);
    let_go(worker);
    go_on(starter);
    let thread = started_by(starter, &restorer);
    let_go(starter);
    (restorer, Frozen { thread, held: true })
}

/// The next process or thread that a traced one starts. Both stand still.
fn started_by(traced: Pid, restorer: &Restorer) -> Pid {
    let started = loop {
        match waitpid(traced, Some(WaitPidFlag::__WALL)).expect("it lives") {
            WaitStatus::PtraceEvent(..) => {
                let started = ptrace::getevent(traced).expect("it stands still");
                break Pid::from_raw(started.try_into().expect("a tid"));
            }
            WaitStatus::Stopped(_, signal) => {
                ptrace::cont(traced, signal).expect("it stands still");
            }
            other => panic!("{other:?}: {}", restorer.errors()),
        }
    };
    waitpid(started, Some(WaitPidFlag::__WALL)).expect("it stands still");
    started
}
