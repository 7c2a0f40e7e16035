//! Keeping a thread that installs off the core where somebody faults and is answered.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// The thread that calls. When this is dropped it may run where it might before.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    core: Option<usize>,
    /// Where it might run before.
    before: Option<CpuSet>,
}

impl Elsewhere {
    /// From now on not on this core, if there is another one.
    pub(super) fn keep_off(&mut self, core: Option<usize>) {
        if core == self.core {
            return;
        }
        self.go_back();
        self.core = core;
        let this = Pid::from_raw(0);
        let Some((core, before)) = core.zip(sched_getaffinity(this).ok()) else {
            return;
        };
        let mut others = before;
        let may = before.is_set(core) == Ok(true) && others.unset(core).is_ok();
        // It fails when there is no other.
        if may && sched_setaffinity(this, &others).is_ok() {
            self.before = Some(before);
        }
    }

    fn go_back(&mut self) {
        if let Some(before) = self.before.take() {
            let _ = sched_setaffinity(Pid::from_raw(0), &before);
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.go_back();
    }
}
