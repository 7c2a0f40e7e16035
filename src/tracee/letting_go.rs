//! Detaching one thread as if it had never been stopped.
//!
//! If our interrupt made a system call return EINTR, and the call is one that may be made again (`interrupted.rs`), its
//! result is changed to `-ERESTARTNOHAND`: what the kernel's own restartable calls return in this situation. The kernel then
//! decides on the way to user mode, in one step, as it does for those: if a signal is delivered to a handler the result
//! becomes EINTR, otherwise the call is made again (`arch_do_signal_or_restart`, and `handle_signal`).
//!
//! That one step is why it is not done here, by setting the instruction pointer back. Between our decision and the detach
//! a signal may arrive. Its handler would run first and the call would be made after it: a program that waits in
//! `epoll_pwait` for exactly this signal would sleep for ever. Nor can the thread be run to the entry of the call and be
//! detached there: detaching a stopped thread raises its flag "signal pending", which is what interrupts these calls.

use super::error::TraceError;
use super::interrupted::may_be_made_again;
use super::thread::{StopCause, Stopped};

impl Stopped {
    /// Stops tracing the thread, which goes on as if it had never been stopped (see [`crate::tracee`] for the limits). A
    /// thread that has been killed meanwhile is not an error.
    ///
    /// # Errors
    /// [`TraceError::Ptrace`].
    pub fn let_go(mut self) -> Result<(), TraceError> {
        let restarted = match self.restart_interrupted_call() {
            Err(TraceError::Ended { .. }) => Ok(()),
            other => other,
        };
        self.detach()?;
        restarted
    }

    fn restart_interrupted_call(&mut self) -> Result<(), TraceError> {
        match self.cause() {
            StopCause::Interrupt => {}
            // Stop signals interrupt these calls without any help from us. Any other signal may be one that would have
            // been thrown away, and is queued and wakes the thread only because we trace it; the kernel will know.
            StopCause::Signal(libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU) => {
                return Ok(());
            }
            StopCause::Signal(_) => {}
            StopCause::GroupStop | StopCause::Event(_) => return Ok(()),
        }
        let registers = self.registers()?;
        match registers.interrupted_call() {
            Some(call) if may_be_made_again(self.tid(), &call) => {
                self.set_registers(&registers.to_restart_call())
            }
            _ => Ok(()),
        }
    }
}
