//! Children of a target.
#![expect(unsafe_code, reason = "fork(2) and _exit(2)")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

/// A child that has been forked.
#[derive(Debug)]
pub(crate) struct Kid(Pid);

/// Forks a child that does this and ends. It ends by itself if it hangs.
pub(crate) fn start(what: impl FnOnce()) -> Kid {
    // SAFETY: the child uses its own memory and descriptors and the C library's malloc, which fork leaves usable; no lock of
    // this program is held by another thread that the child would take.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => Kid(child),
        ForkResult::Child => {
            nix::unistd::alarm::set(60);
            let code = i32::from(catch_unwind(AssertUnwindSafe(what)).is_err());
            // SAFETY: ends this process, and runs nothing of the parent's in it.
            unsafe { libc::_exit(code) }
        }
    }
}

impl Kid {
    pub(crate) fn pid(&self) -> i32 {
        self.0.as_raw()
    }

    /// Waits until it has ended, which must be well.
    pub(crate) fn join(self) {
        let status = waitpid(self.0, None).expect("a child");
        assert_eq!(status, WaitStatus::Exited(self.0, 0), "the child failed");
    }
}
