//! The system calls that nix cannot express: it turns signal numbers into an enum that has no real-time signals, so
//! a thread that is stopped by one could neither be recognised nor be given its signal back. And the ptrace requests that
//! nix does not have.
#![expect(
    unsafe_code,
    reason = "waitid and ptrace, for signal numbers and requests that nix does not have"
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

/// Lets a stopped tracee run until it enters or leaves a system call, with `signal` (0 for none) delivered to it if it was
/// stopped by one.
pub(super) fn run_to_call_border(tid: Pid, signal: c_int) -> Result<(), Errno> {
    let no_address = std::ptr::null_mut::<libc::c_void>();
    let signal = libc::c_long::from(signal);
    // SAFETY: PTRACE_SYSCALL reads and writes no memory of this process: the address is ignored, the data is a number.
    let result = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, tid.as_raw(), no_address, signal) };
    Errno::result(result).map(drop)
}

/// `PTRACE_O_TRACESYSGOOD`: stops at the border of a system call are told apart from a SIGTRAP.
pub(super) const TELL_CALLS_FROM_TRAPS: c_int = 1;
/// `PTRACE_O_SUSPEND_SECCOMP` of `<linux/ptrace.h>`: no filter looks at what the tracee calls.
pub(super) const SUSPEND_SECCOMP: c_int = 1 << 21;

/// `PTRACE_O_EXITKILL`: the kernel kills the tracee when its tracer ends.
pub(super) const EXIT_KILL: c_int = 1 << 20;

/// PTRACE_SETOPTIONS.
pub(super) fn set_options(tid: Pid, options: c_int) -> Result<(), Errno> {
    let no_address = std::ptr::null_mut::<libc::c_void>();
    let options = libc::c_long::from(options);
    // SAFETY: PTRACE_SETOPTIONS reads and writes no memory of this process: the data is a number.
    let result =
        unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, tid.as_raw(), no_address, options) };
    Errno::result(result).map(drop)
}

/// How many bytes a signal mask has for the kernel.
const MASK_SIZE: usize = size_of::<u64>();

/// The signals that a stopped tracee blocks, a bit each. In a call that blocks others while it lasts (ppoll(2)): those that
/// will be blocked after it.
pub(super) fn signal_mask(tid: Pid) -> Result<u64, Errno> {
    let mut mask = 0_u64;
    // SAFETY: with this size PTRACE_GETSIGMASK writes 8 bytes to the pointer, which is valid for that.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_GETSIGMASK,
            tid.as_raw(),
            MASK_SIZE,
            &raw mut mask,
        )
    };
    Errno::result(result).map(|_| mask)
}

/// Sets them. A call that had set a mask for itself is no longer owed the old one back.
pub(super) fn set_signal_mask(tid: Pid, mask: u64) -> Result<(), Errno> {
    // SAFETY: with this size PTRACE_SETSIGMASK reads 8 bytes from the pointer, which is valid for that.
    let result = unsafe {
        libc::ptrace(
            libc::PTRACE_SETSIGMASK,
            tid.as_raw(),
            MASK_SIZE,
            &raw const mask,
        )
    };
    Errno::result(result).map(drop)
}

/// For a tracee that a signal stopped: the address that the signal is about, if the kernel raised it for something that the thread
/// did (sigaction(2): `si_addr`, `si_call_addr`).
pub(super) fn faulting_address(tid: Pid) -> Result<Option<u64>, Errno> {
    let info = nix::sys::ptrace::getsiginfo(tid)?;
    // Not more than 0 means: sent by a process or a timer.
    let raised = info.si_code > 0
        && matches!(
            info.si_signo,
            libc::SIGSEGV
                | libc::SIGBUS
                | libc::SIGILL
                | libc::SIGFPE
                | libc::SIGTRAP
                | libc::SIGSYS
        );
    if !raised {
        return Ok(None);
    }
    // SAFETY: for these signals, raised by the kernel, the union holds an address first. An address of another process is
    // never used as a pointer here.
    let address = unsafe { info.si_addr() };
    Ok(Some(address.addr() as u64))
}

/// Where a thread has registered its area for restartable sequences, and how long the area is (`struct
/// ptrace_rseq_configuration`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(super) struct RseqConfiguration {
    /// 0 if it has not.
    pub(super) address: u64,
    pub(super) size: u32,
    signature: u32,
    flags: u32,
    pad: u32,
}

/// PTRACE_GET_RSEQ_CONFIGURATION, since Linux 5.13. None where the kernel does not have it.
pub(super) fn rseq_configuration(tid: Pid) -> Result<Option<RseqConfiguration>, Errno> {
    const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
    let mut configuration = RseqConfiguration::default();
    // SAFETY: the request writes at most as many bytes as the address argument says to the pointer, which is valid for
    // that.
    let result = unsafe {
        libc::ptrace(
            PTRACE_GET_RSEQ_CONFIGURATION,
            tid.as_raw(),
            size_of::<RseqConfiguration>(),
            &raw mut configuration,
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(Some(configuration)),
        // What ptrace(2) says to requests that it does not know.
        Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// get_robust_list(2) of any thread: the address of the head of its list of robust futexes, 0 if it has none.
pub(super) fn robust_list(tid: Pid) -> Result<u64, Errno> {
    let (mut head, mut len) = (0_usize, 0_usize);
    // SAFETY: the call writes a pointer and a size to the two addresses, which are valid for that. The pointer is one of another
    // process and is kept as a number.
    let result = unsafe {
        libc::syscall(
            libc::SYS_get_robust_list,
            tid.as_raw(),
            &raw mut head,
            &raw mut len,
        )
    };
    Errno::result(result).map(|_| head as u64)
}

/// tgkill(2): a signal for one thread of a process, not for whichever thread of it picks it up first.
pub(super) fn send_signal_to_thread(process: Pid, thread: Pid, signal: c_int) -> Result<(), Errno> {
    // SAFETY: all arguments are plain numbers; the kernel reads and writes no memory of this process.
    let result =
        unsafe { libc::syscall(libc::SYS_tgkill, process.as_raw(), thread.as_raw(), signal) };
    Errno::result(result).map(drop)
}
