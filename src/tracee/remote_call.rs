//! System calls made by a stopped thread on our behalf.
//!
//! The thread's registers are set up for the call, at a system call instruction that its process has anyway
//! (`instruction.rs`), and it runs from there to the border of the kernel and back (`stepping.rs`). It never executes
//! another instruction of user mode. Afterwards it gets its registers back, among them the one that says which system call
//! it was in, so that the kernel or `letting_go.rs` makes that one again as if nothing had been in between.
//!
//! PTRACE_SYSCALL and not PTRACE_SINGLESTEP: a step ends with a SIGTRAP, and forcing that upon a thread that ignores or
//! blocks it resets how the process handles it (`force_sig_info_to_task` of the kernel's `kernel/signal.c`).
//!
//! Meanwhile the thread blocks all signals, so that no handler runs with our registers. What arrives waits in the
//! kernel's own queues.

use nix::errno::Errno;

use super::arch::{Occupation, Outcome, Registers};
use super::critical::leave_sequence;
use super::error::TraceError;
use super::instruction;
use super::process::StoppedProcess;
use super::procfs::ThreadStatus;
use super::remote_memory::TargetMemory;
use super::sys;
use super::thread::{StopCause, Stopped};

/// Why a system call in the target did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteCallError {
    /// It was made, and the kernel answered with an error.
    #[error("the kernel refused it: {0}")]
    Refused(Errno),
    /// It could not be made, or its end has not been seen.
    #[error(transparent)]
    Trace(#[from] TraceError),
}

/// A stopped thread that makes system calls for us. Dropping it gives the thread back everything that it had: registers,
/// signal mask, seccomp filters.
#[derive(Debug)]
pub struct RemoteCaller<'p> {
    pub(super) pid: i32,
    pub(super) thread: &'p mut Stopped,
    memory: TargetMemory,
    instruction: u64,
    /// As it will get them back.
    registers: Registers,
    mask_before: u64,
    pub(super) mask: u64,
    pub(super) progress: Progress,
    restored: bool,
}

/// How far the current call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// There is none. The thread stands still.
    Idle,
    /// On its way to the system call instruction.
    Entering,
    /// It stands at the entry of the system call.
    Entered,
    /// In the system call.
    Leaving,
    /// The thread has ended.
    Gone,
}

impl StoppedProcess {
    /// A thread to make system calls with: whichever of them has least to lose.
    ///
    /// # Errors
    /// [`TraceError::Not64Bit`], [`TraceError::Filtered`], [`TraceError::NoCallInstruction`], [`TraceError::Ended`], and
    /// failures of ptrace and /proc.
    pub fn caller(&mut self) -> Result<RemoteCaller<'_>, TraceError> {
        let tid = self.thread_to_call_with()?;
        self.caller_in(tid)
    }

    /// The same with a thread of choice, for calls about the thread itself.
    ///
    /// # Errors
    /// Those of [`Self::caller`]; [`TraceError::NoSuchProcess`] for a thread that is not one of this process.
    pub fn caller_in(&mut self, tid: i32) -> Result<RemoteCaller<'_>, TraceError> {
        let pid = self.pid();
        let thread = self
            .thread_mut(tid)
            .ok_or(TraceError::NoSuchProcess { pid: tid })?;
        RemoteCaller::new(pid, thread)
    }

    /// One that no signal is just being delivered to, and that is not in a call which our stop has made fail. All of them get
    /// everything back, but the less there is to give back the better.
    fn thread_to_call_with(&self) -> Result<i32, TraceError> {
        const BEST: (bool, Occupation) = (false, Occupation::UserMode);
        let mut best = None;
        for thread in self.all_threads() {
            let registers = thread.registers()?;
            if !registers.is_64_bit() {
                continue;
            }
            let signalled = matches!(thread.cause(), StopCause::Signal(_));
            let rank = (signalled, registers.occupation());
            if best.is_none_or(|(best, _)| rank < best) {
                best = Some((rank, thread.tid().as_raw()));
            }
            if rank == BEST {
                break;
            }
        }
        best.map(|(_, tid)| tid)
            .ok_or(TraceError::Not64Bit { pid: self.pid() })
    }
}

impl<'p> RemoteCaller<'p> {
    fn new(pid: i32, thread: &'p mut Stopped) -> Result<Self, TraceError> {
        let registers = thread.registers()?;
        if !registers.is_64_bit() {
            return Err(TraceError::Not64Bit { pid });
        }
        let memory = TargetMemory::open(thread.tid().as_raw())?;
        let instruction = instruction::find(pid, &registers, &memory)?;
        let registers = leave_sequence(thread, registers, &memory)?;
        let mask = sys::signal_mask(thread.tid())
            .map_err(|errno| thread.failed("read the signal mask of", errno))?;
        // From here on there is something to undo.
        let mut caller = Self {
            pid,
            thread,
            memory,
            instruction,
            registers,
            mask_before: mask,
            mask,
            progress: Progress::Idle,
            restored: false,
        };
        caller.suspend_filters()?;
        caller.block_signals()?;
        Ok(caller)
    }

    /// A filter was written for what the program does, and may kill it for what we do.
    fn suspend_filters(&mut self) -> Result<(), TraceError> {
        let tid = self.thread.tid();
        let failed = |errno| self.thread.failed("set the trace options of", errno);
        let basic = sys::TELL_CALLS_FROM_TRAPS | self.thread.lasting_options;
        match sys::set_options(tid, basic | sys::SUSPEND_SECCOMP) {
            Ok(()) => return Ok(()),
            // Not permitted, or a kernel without.
            Err(Errno::EPERM | Errno::EINVAL) => {}
            Err(errno) => return Err(failed(errno)),
        }
        if ThreadStatus::read(tid.as_raw())?.filtered {
            return Err(TraceError::Filtered {
                pid: self.pid,
                tid: tid.as_raw(),
            });
        }
        sys::set_options(tid, basic).map_err(failed)
    }

    /// Has the thread make a system call, and returns its result.
    ///
    /// The call must not wait for anything that this thread or the target would have to provide: all of the target stands
    /// still.
    ///
    /// # Errors
    /// [`RemoteCallError::Refused`] with the error that the target got; [`RemoteCallError::Trace`] when it is not known
    /// whether the call was made, above all because the target was killed.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, RemoteCallError> {
        /// A stop signal for the whole process interrupts a call that sleeps. Nobody sends that many.
        const MOST_INTERRUPTIONS: u32 = 1000;
        let calling = self.registers.to_call(self.instruction, number, arguments);
        for _ in 0..MOST_INTERRUPTIONS {
            match self.call_once(&calling, number)? {
                Outcome::Returned(result) => return Ok(result),
                Outcome::Refused(errno) => return Err(RemoteCallError::Refused(errno)),
                Outcome::Interrupted => {}
            }
        }
        Err(RemoteCallError::Refused(Errno::EINTR))
    }

    fn call_once(&mut self, calling: &Registers, number: i64) -> Result<Outcome, TraceError> {
        // After a failure, which may have been one that nobody looked at.
        self.come_back()?;
        self.thread.set_registers(calling)?;
        self.enter(self.instruction, number)?;
        self.leave(number)?;
        let after = self.thread.registers()?;
        after
            .outcome_of(self.instruction, number)
            .ok_or_else(|| self.disturbed(number, 0))
    }

    pub(super) fn disturbed(&self, number: i64, signal: i32) -> TraceError {
        TraceError::CallDisturbed {
            pid: self.pid,
            tid: self.thread.tid().as_raw(),
            number,
            signal,
        }
    }

    /// Maps anonymous memory, at `address` or, if that is 0, where the kernel likes. `flags` are those of mmap(2), without
    /// `MAP_ANONYMOUS` which goes without saying.
    ///
    /// # Errors
    /// Those of [`Self::call`].
    pub fn map_anonymous(
        &mut self,
        address: u64,
        len: u64,
        protection: i32,
        flags: i32,
    ) -> Result<u64, RemoteCallError> {
        const NO_FILE: u64 = u64::MAX;
        let arguments = [
            address,
            len,
            u64::from(protection.cast_unsigned()),
            u64::from((flags | libc::MAP_ANONYMOUS).cast_unsigned()),
            NO_FILE,
            0,
        ];
        self.call(libc::SYS_mmap, arguments)
    }

    /// munmap(2).
    ///
    /// # Errors
    /// Those of [`Self::call`].
    pub fn unmap(&mut self, start: u64, len: u64) -> Result<(), RemoteCallError> {
        self.call(libc::SYS_munmap, [start, len, 0, 0, 0, 0])
            .map(drop)
    }

    /// madvise(2).
    ///
    /// # Errors
    /// Those of [`Self::call`].
    pub fn advise(&mut self, start: u64, len: u64, advice: i32) -> Result<(), RemoteCallError> {
        let advice = u64::from(advice.cast_unsigned());
        self.call(libc::SYS_madvise, [start, len, advice, 0, 0, 0])
            .map(drop)
    }

    /// The process that makes the calls.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The thread that makes the calls.
    #[must_use]
    pub fn tid(&self) -> i32 {
        self.thread.tid().as_raw()
    }

    /// The target's memory.
    #[must_use]
    pub fn memory(&self) -> &TargetMemory {
        &self.memory
    }

    /// Gives the thread back what it had, and says whether that worked. Dropping does the same silently.
    ///
    /// # Errors
    /// [`TraceError::Ended`], [`TraceError::Ptrace`].
    pub fn finish(mut self) -> Result<(), TraceError> {
        self.restore()
    }

    /// Every part is tried, whatever becomes of the others.
    fn restore(&mut self) -> Result<(), TraceError> {
        let tid = self.thread.tid();
        let idle = self.come_back();
        let registers = self.thread.set_registers(&self.registers);
        let mask = sys::set_signal_mask(tid, self.mask_before)
            .map_err(|errno| self.thread.failed("restore the signal mask of", errno));
        let options = sys::set_options(tid, self.thread.lasting_options)
            .map_err(|errno| self.thread.failed("reset the trace options of", errno));
        self.restored = true;
        idle.and(registers).and(mask).and(options)
    }
}

impl Drop for RemoteCaller<'_> {
    /// The way out of errors and panics. A failure has nobody left to go to.
    fn drop(&mut self) {
        if !self.restored {
            drop(self.restore());
        }
    }
}
