//! Whether a thread gives way to everybody at once.
//!
//! A core on which nothing but SCHED_IDLE threads run counts as idle when the scheduler looks for one, so that whoever such a thread wakes
//! stays there, and goes on at once.
#![expect(unsafe_code, reason = "sched_setscheduler(2), which nix does not have")]

use nix::errno::Errno;

/// True when the thread that calls is an ordinary one, and may become one again.
pub(super) fn is_possible() -> bool {
    // SAFETY: only numbers.
    let policy = unsafe { libc::sched_getscheduler(0) };
    // Whoever lacks CAP_SYS_NICE may become humble, but not ordinary again: tried with a thread that nobody misses.
    let there_and_back = || {
        become_humble(true)
            .and_then(|()| become_humble(false))
            .is_ok()
    };
    policy == libc::SCHED_OTHER
        && std::thread::Builder::new()
            .spawn(there_and_back)
            .is_ok_and(|thread| thread.join().unwrap_or(false))
}

/// How nice the thread that calls is.
pub(super) fn niceness() -> i32 {
    // SAFETY: only numbers; 0 is the thread that calls.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}

/// Makes the thread that calls so nice. Without the right to it nothing changes.
pub(super) fn be_nice(nice: i32) {
    // SAFETY: as above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
}

/// Makes the thread that calls one that gives way, or an ordinary one.
pub(super) fn become_humble(humble: bool) -> Result<(), Errno> {
    let policy = if humble {
        libc::SCHED_IDLE
    } else {
        libc::SCHED_OTHER
    };
    let priority = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure, which lives until it returns, and writes nothing.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const priority) };
    Errno::result(result).map(drop)
}
