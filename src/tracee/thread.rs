//! One thread under ptrace, its state in its type.

use std::marker::PhantomData;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;

use super::arch::Registers;
use super::error::TraceError;
use super::patience::Patience;
use super::procfs::{ThreadStat, ThreadStatus};
use super::sys::{self, Waited};

/// `PTRACE_EVENT_STOP` of `<linux/ptrace.h>`: how a seized thread reports our interrupt, or a group-stop.
const EVENT_STOP: i32 = 128;

/// Makes a type `!Send` and `!Sync`: the kernel accepts ptrace requests only from the thread that attached.
type BoundToTracer = PhantomData<*const ()>;

/// A thread that is traced and, as far as we know, runs.
#[derive(Debug)]
pub struct Running {
    tid: Pid,
    bound: BoundToTracer,
}

/// A thread that is traced and stands still. Dropping it lets it go.
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
    cause: StopCause,
    /// Trace options that it has beyond those of a remote call (`PTRACE_O_*`).
    pub(super) lasting_options: i32,
    /// The signal that stopped it is back in the queue (`remote_call.rs`) and needs no handing over any more.
    requeued: bool,
    bound: BoundToTracer,
}

/// Why a thread stopped: what matters for letting it go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopCause {
    /// By our interrupt.
    Interrupt,
    /// The whole process had been stopped by a signal (SIGSTOP, SIGTSTP, …) and stays so when it is let go.
    GroupStop,
    /// On its way to deliver this signal, which it must get when it is let go.
    Signal(i32),
    /// Another ptrace event, by number.
    Event(i32),
}

/// The answer to [`Running::poll`].
#[derive(Debug)]
pub enum Polled {
    /// It runs.
    Running(Running),
    /// It stands still.
    Stopped(Stopped),
    /// It has ended.
    Ended,
    /// The kernel knows no tracee of this id: it ended, or became the leader of its process by calling execve(2).
    Unknown,
}

impl Running {
    /// Starts tracing a thread without disturbing it (PTRACE_SEIZE). If this program dies, the kernel lets it run on.
    ///
    /// # Errors
    /// The kernel's answer: ESRCH, or EPERM with its many meanings.
    pub fn seize(tid: Pid) -> Result<Self, Errno> {
        ptrace::seize(tid, Options::empty())?;
        Ok(Self {
            tid,
            bound: PhantomData,
        })
    }

    /// The thread's id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Asks the thread to stop; it does so as soon as it gets to the border of user mode.
    ///
    /// # Errors
    /// [`TraceError::Ptrace`]. A thread that has ended is not an error, [`Self::poll`] will tell.
    pub fn interrupt(&self) -> Result<(), TraceError> {
        match ptrace::interrupt(self.tid) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(TraceError::Ptrace {
                doing: "interrupt",
                tid: self.tid.as_raw(),
                errno,
            }),
        }
    }

    /// Looks, without blocking, whether the thread has stopped.
    ///
    /// # Errors
    /// [`TraceError::Ptrace`].
    pub fn poll(self) -> Result<Polled, TraceError> {
        let tid = self.tid;
        match sys::wait(tid, || should_reap(tid)) {
            Ok(Waited::Nothing) => Ok(Polled::Running(self)),
            Ok(Waited::Stopped(status)) => Ok(Polled::Stopped(self.into_stopped(cause_of(status)))),
            Ok(Waited::Ended) => {
                self.forget();
                Ok(Polled::Ended)
            }
            Err(Errno::ECHILD) => {
                self.forget();
                Ok(Polled::Unknown)
            }
            Err(errno) => Err(TraceError::Ptrace {
                doing: "wait for",
                tid: tid.as_raw(),
                errno,
            }),
        }
    }

    fn into_stopped(self, cause: StopCause) -> Stopped {
        let tid = self.tid;
        self.forget();
        Stopped {
            tid,
            cause,
            requeued: false,
            lasting_options: 0,
            bound: PhantomData,
        }
    }

    /// Ends the value without [`Drop`]. It owns nothing but the duty to let the thread go.
    fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Running {
    /// Only a stopped thread can be let go. One that is still running stays traced until this thread ends, then the
    /// kernel lets it go.
    fn drop(&mut self) {
        if let Ok(Waited::Stopped(status)) = sys::wait(self.tid, || should_reap(self.tid)) {
            drop(Stopped {
                tid: self.tid,
                cause: cause_of(status),
                requeued: false,
                lasting_options: 0,
                bound: PhantomData,
            });
        }
    }
}

impl Stopped {
    /// The thread's id.
    #[must_use]
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Why it stopped.
    #[must_use]
    pub fn cause(&self) -> StopCause {
        self.cause
    }

    /// Its registers.
    ///
    /// # Errors
    /// [`TraceError::Ended`] when it has been killed, [`TraceError::Ptrace`] otherwise.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        Registers::read(self.tid).map_err(|errno| self.failed("read the registers of", errno))
    }

    /// Sets its registers.
    ///
    /// # Errors
    /// [`TraceError::Ended`] when it has been killed, [`TraceError::Ptrace`] otherwise.
    pub fn set_registers(&mut self, registers: &Registers) -> Result<(), TraceError> {
        registers
            .write(self.tid)
            .map_err(|errno| self.failed("set the registers of", errno))
    }

    /// Stops tracing the thread, which goes on where it was, and gets the signal that it was stopped by. A thread that
    /// has been killed meanwhile is not an error.
    ///
    /// This is the bare request. [`Self::let_go`] also takes care of an interrupted system call.
    pub(super) fn detach(self) -> Result<(), TraceError> {
        let signal = self.signal_to_deliver();
        let result = match sys::detach(self.tid, signal) {
            Ok(()) => Ok(()),
            // The types say that it is traced by us and stopped, so ESRCH has one meaning left: it was killed.
            Err(Errno::ESRCH) => {
                reap(self.tid);
                Ok(())
            }
            Err(errno) => Err(self.failed("detach", errno)),
        };
        std::mem::forget(self);
        result
    }

    /// The signal to let it go on with, 0 for none.
    pub(super) fn signal_to_deliver(&self) -> i32 {
        match self.cause {
            StopCause::Signal(signal) if !self.requeued => signal,
            _ => 0,
        }
    }

    /// Says that the thread has been let go on with its signal, and has come back without having been delivered it.
    pub(super) fn signal_was_requeued(&mut self) {
        self.requeued = true;
    }

    /// Says that the thread runs although nobody here let it: execve(2) gave it the id of a thread that had stopped.
    pub(super) fn was_replaced(self) -> Running {
        let running = Running {
            tid: self.tid,
            bound: PhantomData,
        };
        std::mem::forget(self);
        running
    }

    pub(super) fn failed(&self, doing: &'static str, errno: Errno) -> TraceError {
        let tid = self.tid.as_raw();
        if errno == Errno::ESRCH {
            TraceError::Ended { pid: tid }
        } else {
            TraceError::Ptrace { doing, tid, errno }
        }
    }
}

impl Drop for Stopped {
    /// The way out of errors and panics. A failure has nobody left to go to; the kernel lets go what this could not.
    fn drop(&mut self) {
        let again = Self {
            tid: self.tid,
            cause: self.cause,
            requeued: self.requeued,
            lasting_options: self.lasting_options,
            bound: PhantomData,
        };
        drop(again.let_go());
    }
}

/// A tracee that ends is reported to its tracer first, and stays a zombie until the tracer has reaped it. Threads are
/// reaped by nobody else, and a process is handed on to its parent by our reaping it; but if we are the parent ourselves,
/// its exit status is for whoever waits for it.
pub(super) fn should_reap(tid: Pid) -> bool {
    let is_leader =
        ThreadStatus::read(tid.as_raw()).is_ok_and(|status| status.process == tid.as_raw());
    let is_our_child =
        ThreadStat::read(tid.as_raw()).is_ok_and(|stat| stat.parent == Pid::this().as_raw());
    !(is_leader && is_our_child)
}

/// Takes note of the end of a thread that was killed while it was stopped. Killed is not yet ended: the kernel has its
/// memory to give back first. If that takes long, the zombie stays until this program ends.
fn reap(tid: Pid) {
    const LONG_ENOUGH: Duration = Duration::from_secs(1);
    if !should_reap(tid) {
        return;
    }
    let mut patience = Patience::lasting(LONG_ENOUGH);
    while sys::wait(tid, || true) == Ok(Waited::Nothing) && patience.wait() {}
}

/// Takes apart the status of a stop: low byte signal, second byte event.
pub(super) fn cause_of(status: i32) -> StopCause {
    let (signal, event) = (status & 0xff, status >> 8);
    match (event, signal) {
        (EVENT_STOP, libc::SIGTRAP) => StopCause::Interrupt,
        (EVENT_STOP, _) => StopCause::GroupStop,
        (0, signal) => StopCause::Signal(signal),
        (event, _) => StopCause::Event(event),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_are_told_apart() {
        assert_eq!(cause_of(0x8000 | libc::SIGTRAP), StopCause::Interrupt);
        assert_eq!(cause_of(0x8000 | libc::SIGSTOP), StopCause::GroupStop);
        assert_eq!(cause_of(0x8000 | libc::SIGTTIN), StopCause::GroupStop);
        assert_eq!(cause_of(libc::SIGUSR1), StopCause::Signal(libc::SIGUSR1));
        assert_eq!(cause_of(40), StopCause::Signal(40), "real-time signals too");
        assert_eq!(cause_of(libc::SIGTRAP), StopCause::Signal(libc::SIGTRAP));
        assert_eq!(cause_of(0x0300 | libc::SIGTRAP), StopCause::Event(3));
    }
}
