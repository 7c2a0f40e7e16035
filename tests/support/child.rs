//! Forked children of the test process.
#![expect(unsafe_code, reason = "waitpid and _exit")]

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};

use super::plot::{call, word};
use super::uffd::Worker;

/// A forked child. Killed when dropped.
#[derive(Debug)]
pub struct Child(pub i32);

/// Starts a thread that forks. The child does its work, which has an exit code from 0 to 100, and ends.
pub fn fork(work: impl FnOnce() -> i32 + Send + 'static) -> Worker<Child> {
    Worker::start(|| fork_here(work))
}

/// Forks this thread, which may wait for that to be read. For the rest as [`fork`].
///
/// Not by fork(3): the C library holds the locks of its heap meanwhile, and who is to read the event may need them. So the
/// child must not use the heap. It shares the descriptors: a table of its own, which it would have before the event is told,
/// would keep the userfaultfd open that the test closes.
pub fn fork_here(work: impl FnOnce() -> i32) -> Child {
    fork_with(libc::CLONE_FILES, work)
}

/// As [`fork_here`], but the child shares with its parent what the `CLONE_*` flags say.
pub fn fork_with(shared: i32, work: impl FnOnce() -> i32) -> Child {
    let flags = word(shared | libc::SIGCHLD);
    let pid = call(libc::SYS_clone, &[flags, 0, 0, 0, 0]).expect("fork");
    if pid == 0 {
        nix::unistd::alarm::set(60);
        let code = catch_unwind(AssertUnwindSafe(work)).unwrap_or(101);
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) }
    }
    Child(i32::try_from(pid).expect("a pid"))
}

impl Child {
    fn wait(&self) -> ExitStatus {
        let mut status = 0;
        // SAFETY: writes one number.
        let result = unsafe { libc::waitpid(self.0, &raw mut status, 0) };
        Errno::result(result).expect("waitpid");
        ExitStatus::from_raw(status)
    }

    /// Sends SIGKILL, and waits for the end.
    pub fn kill(self) {
        drop(self);
    }

    /// How it ended; waits for that.
    pub fn status(self) -> ExitStatus {
        let status = self.wait();
        std::mem::forget(self);
        status
    }

    /// The exit code; waits for the end.
    pub fn code(self) -> Option<i32> {
        self.status().code()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.0);
        kill(pid, Signal::SIGKILL).expect("a child that nobody waited for");
        self.wait();
    }
}
