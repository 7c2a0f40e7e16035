//! From one border of a system call to the next, whatever else happens to the thread on the way.
//!
//! What can happen, although all signals are blocked:
//!
//! * The stop of the whole process by a signal, before or now, is reported again. It stays in effect, and the kernel returns
//!   to it when the thread is let go.
//! * SIGSTOP, which cannot be blocked, is passed on and becomes such a stop.
//! * A signal that the thread had been stopped by is passed on too. As it is blocked by now, the kernel puts it back into the
//!   queue, with all that it knows about it (`ptrace_signal` of `kernel/signal.c`).
//! * Signals that a thread raises itself by what it executes are not blocked to begin with: raised while they
//!   are blocked they would be forced, and lose their handler. If one comes from elsewhere, it is blocked and put back into
//!   the queue like the one before. If it comes from our own call, it is dropped and the call has failed.
//! * SIGKILL. The end.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;

use super::arch::CALL_INSTRUCTION_LEN;
use super::error::TraceError;
use super::patience::Patience;
use super::procfs::{self, ThreadStat};
use super::remote_call::{Progress, RemoteCaller};
use super::sys::{self, Waited};
use super::thread::{StopCause, cause_of, should_reap};

/// How a stop at the border of a system call looks.
const CALL_BORDER: StopCause = StopCause::Signal(libc::SIGTRAP | 0x80);
/// For the slowest call: giving back the memory of a very large process.
const CALL_TIMEOUT: Duration = Duration::from_secs(120);
/// For a last attempt to get hold of the thread.
const COME_BACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Somebody might stop and continue the process all the time.
const MOST_STOPS: u32 = 10_000;
/// Signals that a thread raises by what it executes.
const RAISED_BY_CODE: [i32; 6] = [
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
    libc::SIGTRAP,
    libc::SIGSYS,
];

const fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

impl RemoteCaller<'_> {
    pub(super) fn block_signals(&mut self) -> Result<(), TraceError> {
        let raised = RAISED_BY_CODE.map(bit).iter().fold(0, |all, bit| all | bit);
        let mut mask = !raised;
        if let signal @ 1.. = self.thread.signal_to_deliver() {
            mask |= bit(signal);
        }
        self.set_mask(mask)
    }

    fn set_mask(&mut self, mask: u64) -> Result<(), TraceError> {
        sys::set_signal_mask(self.thread.tid(), mask)
            .map_err(|errno| self.thread.failed("set the signal mask of", errno))?;
        self.mask = mask;
        Ok(())
    }

    /// To the entry of the system call, which is made by the instruction at `instruction`.
    pub(super) fn enter(&mut self, instruction: u64, number: i64) -> Result<(), TraceError> {
        let mut signal = self.thread.signal_to_deliver();
        for _ in 0..MOST_STOPS {
            self.go_on(signal, Progress::Entering)?;
            if signal != 0 {
                self.thread.signal_was_requeued();
            }
            signal = match self.wait(CALL_TIMEOUT)? {
                CALL_BORDER => {
                    self.progress = Progress::Entered;
                    return Ok(());
                }
                StopCause::Signal(signal) => {
                    self.progress = Progress::Idle;
                    if self.is_about(instruction)? {
                        return Err(self.disturbed(number, signal));
                    }
                    self.set_mask(self.mask | bit(signal))?;
                    signal
                }
                StopCause::Interrupt | StopCause::GroupStop | StopCause::Event(_) => 0,
            };
            self.progress = Progress::Idle;
        }
        Err(self.disturbed(number, 0))
    }

    /// From the entry of the system call to its end. In between there is nothing that could stop it.
    pub(super) fn leave(&mut self, number: i64) -> Result<(), TraceError> {
        self.go_on(0, Progress::Leaving)?;
        let cause = self.wait(CALL_TIMEOUT)?;
        self.progress = Progress::Idle;
        match cause {
            CALL_BORDER => Ok(()),
            StopCause::Signal(signal) => Err(self.disturbed(number, signal)),
            _ => Err(self.disturbed(number, 0)),
        }
    }

    fn go_on(&mut self, signal: i32, progress: Progress) -> Result<(), TraceError> {
        sys::run_to_call_border(self.thread.tid(), signal)
            .map_err(|errno| self.thread.failed("continue", errno))?;
        self.progress = progress;
        Ok(())
    }

    /// True when the signal that just stopped the thread was raised by the system call instruction.
    fn is_about(&self, instruction: u64) -> Result<bool, TraceError> {
        let address = sys::faulting_address(self.thread.tid())
            .map_err(|errno| self.thread.failed("read the signal of", errno))?;
        Ok(address.is_some_and(|address| {
            (instruction..=instruction + CALL_INSTRUCTION_LEN).contains(&address)
        }))
    }

    fn wait(&mut self, timeout: Duration) -> Result<StopCause, TraceError> {
        let tid = self.thread.tid();
        let mut patience = Patience::lasting(timeout);
        let mut looks = 0;
        loop {
            match sys::wait(tid, || should_reap(tid)) {
                Ok(Waited::Stopped(status)) => return Ok(cause_of(status)),
                Ok(Waited::Nothing) if !self.has_ended(&mut looks) => {}
                Ok(Waited::Ended | Waited::Nothing) | Err(Errno::ECHILD) => {
                    self.progress = Progress::Gone;
                    return Err(TraceError::Ended { pid: self.pid });
                }
                Err(errno) => return Err(self.thread.failed("wait for", errno)),
            }
            if !patience.wait() {
                return Err(procfs::not_stopping(self.pid, tid.as_raw(), timeout));
            }
        }
    }

    /// The end of a leader is not reported before all other threads have been reaped, and they are ours to reap: later.
    /// Asked from time to time only, because the answer takes a file of /proc.
    fn has_ended(&self, looks: &mut u32) -> bool {
        const FROM_TIME_TO_TIME: u32 = 100;
        *looks = looks.wrapping_add(1);
        if !looks.is_multiple_of(FROM_TIME_TO_TIME) {
            return false;
        }
        match ThreadStat::read_in(self.pid, self.thread.tid().as_raw()) {
            Ok(stat) => stat.has_ended(),
            Err(TraceError::NoSuchProcess { .. }) => true,
            // Not to know, because no file can be opened now, is not to know that it has ended: it would be left alone
            // in the middle of our call.
            Err(_) => false,
        }
    }

    /// Out of whatever call the thread is in, so that its registers are its own again. Only after a failure is there anything to do.
    pub(super) fn come_back(&mut self) -> Result<(), TraceError> {
        if self.progress == Progress::Gone {
            return Err(TraceError::Ended { pid: self.pid });
        }
        if matches!(self.progress, Progress::Entering | Progress::Leaving) {
            // If it cannot be asked, waiting will tell why.
            let _asked = ptrace::interrupt(self.thread.tid());
            let at_border = self.wait(COME_BACK_TIMEOUT)? == CALL_BORDER;
            self.progress = match self.progress {
                Progress::Entering if at_border => Progress::Entered,
                _ => Progress::Idle,
            };
        }
        if self.progress == Progress::Entered {
            let registers = self.thread.registers()?;
            self.thread.set_registers(&registers.without_call())?;
            self.go_on(0, Progress::Leaving)?;
            self.wait(COME_BACK_TIMEOUT)?;
            self.progress = Progress::Idle;
        }
        Ok(())
    }
}
