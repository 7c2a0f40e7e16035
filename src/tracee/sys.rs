//! The system calls that nix cannot express: it turns signal numbers into an enum that has no real-time signals, so
//! a thread that is stopped by one could neither be recognised nor be given its signal back.
#![expect(
    unsafe_code,
    reason = "waitid and ptrace, for signal numbers that nix's Signal does not have"
)]

use std::mem::MaybeUninit;

use libc::{c_int, id_t};
use nix::errno::Errno;
use nix::unistd::Pid;

/// What waitid(2) said about one tracee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waited {
    /// Nothing to report.
    Nothing,
    /// It is stopped. Low byte: signal, second byte: `PTRACE_EVENT_*` or 0.
    Stopped(c_int),
    /// It has ended.
    Ended,
}

/// Asks, without blocking, what happened to a tracee. The end of one is left for its parent to reap unless `reap`, which is
/// asked only then: the answer takes files of /proc whose cost grows with the number of threads.
pub(super) fn wait(tid: Pid, reap: impl FnOnce() -> bool) -> Result<Waited, Errno> {
    // Look without consuming: a report of the end must stay where the process's parent can find it.
    let Some((code, status)) = wait_id(tid, libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT)? else {
        return Ok(Waited::Nothing);
    };
    match code {
        libc::CLD_TRAPPED | libc::CLD_STOPPED => {
            // Consumed, so that a later look does not find this stop a second time.
            wait_id(tid, libc::WSTOPPED)?;
            Ok(Waited::Stopped(status))
        }
        _ => {
            if reap() {
                wait_id(tid, libc::WEXITED)?;
            }
            Ok(Waited::Ended)
        }
    }
}

/// Returns `si_code` and `si_status`, `None` when there is nothing to report.
fn wait_id(tid: Pid, options: c_int) -> Result<Option<(c_int, c_int)>, Errno> {
    let id = id_t::try_from(tid.as_raw()).map_err(|_| Errno::EINVAL)?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: waitid writes at most one siginfo_t to the pointer, which is valid for that; all other arguments are
    // plain numbers.
    let result = unsafe {
        libc::waitid(
            libc::P_PID,
            id,
            info.as_mut_ptr(),
            options | libc::WNOHANG | libc::__WALL,
        )
    };
    Errno::result(result)?;
    // SAFETY: a siginfo_t consists of integers and pointers, for which zero bytes are a value; waitid succeeded and
    // either left it so or filled it in.
    let info = unsafe { info.assume_init() };
    // SAFETY: with WNOHANG waitid leaves the structure zeroed or fills in the SIGCHLD fields; si_pid is valid in both.
    if unsafe { info.si_pid() } == 0 {
        return Ok(None);
    }
    // SAFETY: si_pid is set, so waitid filled in the SIGCHLD fields, of which si_status is one.
    let status = unsafe { info.si_status() };
    Ok(Some((info.si_code, status)))
}

/// Stops tracing a stopped tracee, with `signal` (0 for none) delivered to it if it was stopped by one.
pub(super) fn detach(tid: Pid, signal: c_int) -> Result<(), Errno> {
    let no_address = std::ptr::null_mut::<libc::c_void>();
    let signal = libc::c_long::from(signal);
    // SAFETY: PTRACE_DETACH reads and writes no memory of this process: the address is ignored, the data is a number.
    let result = unsafe { libc::ptrace(libc::PTRACE_DETACH, tid.as_raw(), no_address, signal) };
    Errno::result(result).map(drop)
}

/// tgkill(2): a signal for one thread of a process, not for whichever thread of it picks it up first.
pub(super) fn send_signal_to_thread(process: Pid, thread: Pid, signal: c_int) -> Result<(), Errno> {
    // SAFETY: all arguments are plain numbers; the kernel reads and writes no memory of this process.
    let result =
        unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), signal) };
    Errno::result(result).map(drop)
}
