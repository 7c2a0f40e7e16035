//! Measuring work, and not how long a core takes to wake up.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Does something on one core, with every process that it starts: what is measured then is work, and not how long a
/// virtual core that had nothing to do takes to wake up.
pub(crate) fn on_one_core(work: impl FnOnce()) {
    let me = Pid::from_raw(0);
    let all = sched_getaffinity(me).expect("the affinity");
    let last = (0..CpuSet::count()).rfind(|&core| all.is_set(core) == Ok(true));
    let mut one = CpuSet::new();
    one.set(last.expect("a core")).expect("a core");
    sched_setaffinity(me, &one).expect("the affinity");
    work();
    sched_setaffinity(me, &all).expect("the affinity");
}
