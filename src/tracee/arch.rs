//! Registers: the only file that knows the processor. One section per architecture.

#[cfg(not(target_arch = "x86_64"))]
compile_error!(
    "tracee: registers are written down for x86_64 only; add a section to src/tracee/arch.rs"
);

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// A system call that returned EINTR and whose thread has not yet gone back to user mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InterruptedCall {
    /// The system call's number.
    pub(super) number: i64,
    /// Its first argument: for the calls on descriptors, the descriptor.
    pub(super) first_argument: u64,
}

/// The general-purpose registers of a stopped thread.
#[derive(Debug, Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

/// `ERESTARTNOHAND` of the kernel's `include/linux/errno.h`: "make the call again if no handler runs". User mode never sees
/// it.
const ERESTARTNOHAND: i64 = 514;
/// The first and the last of the numbers with which the kernel tells itself to make a call again; ERESTARTNOHAND is one of them.
const ERESTARTSYS: u64 = 512;
const ERESTART_RESTARTBLOCK: u64 = 516;
/// Selector of 64-bit user code (`__USER_CS`). The calls of 32-bit code have other numbers.
const USER_CODE_64: u64 = 0x33;
/// The flag with which a processor traps after each instruction (EFLAGS.TF).
const TRAP_FLAG: u64 = 0x100;
/// "Not in a system call", in the register that says which.
const NO_CALL: u64 = u64::MAX;
/// The largest error number that a result can be: `MAX_ERRNO` of the kernel's `include/linux/err.h`.
const LARGEST_ERROR: u64 = 4095;

/// The machine code of `syscall`.
pub(super) const CALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];
/// Its length, as a difference between addresses.
pub(super) const CALL_INSTRUCTION_LEN: u64 = 2;
/// One past the last address that user code can use without five-level page tables; the kernel's legacy vsyscall page lies beyond.
pub(super) const USER_END: u64 = 0x7fff_ffff_f000;

/// How a system call ended that was made on a thread's behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With this result.
    Returned(u64),
    /// With this error.
    Refused(Errno),
    /// It did nothing, and the kernel would make it again by itself.
    Interrupted,
}

/// What a stopped thread was doing, as far as it matters to somebody who wants it to do something else meanwhile. In the
/// order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Occupation {
    /// It ran its own code, or was about to return to it.
    UserMode,
    /// It waited in a system call that the kernel itself makes again.
    RestartableCall,
    /// It was in a system call that has been interrupted, and that only `letting_go.rs` can save.
    InterruptedCall,
}

impl Registers {
    pub(super) fn read(tid: Pid) -> Result<Self, Errno> {
        ptrace::getregs(tid).map(Self)
    }

    pub(super) fn write(&self, tid: Pid) -> Result<(), Errno> {
        ptrace::setregs(tid, self.0)
    }

    /// Address of the next instruction.
    #[must_use]
    pub fn instruction_pointer(&self) -> u64 {
        self.0.rip
    }

    /// The stack pointer.
    #[must_use]
    pub fn stack_pointer(&self) -> u64 {
        self.0.rsp
    }

    /// The base of the segment that points to the thread's own data (the thread control block).
    #[must_use]
    pub fn thread_pointer(&self) -> u64 {
        self.0.fs_base
    }

    /// True for 64-bit code, the only one whose system calls are known here.
    pub(super) fn is_64_bit(&self) -> bool {
        self.0.cs == USER_CODE_64
    }

    /// Where the system call instruction of the current call stands, if the thread is in one.
    pub(super) fn call_instruction(&self) -> Option<u64> {
        let in_call = self.0.orig_rax.cast_signed() >= 0;
        in_call.then(|| self.0.rip.wrapping_sub(CALL_INSTRUCTION_LEN))
    }

    pub(super) fn occupation(&self) -> Occupation {
        const EINTR: u64 = libc::EINTR.cast_unsigned() as u64;
        if self.0.orig_rax.cast_signed() < 0 {
            return Occupation::UserMode;
        }
        match self.0.rax.wrapping_neg() {
            ERESTARTSYS..=ERESTART_RESTARTBLOCK => Occupation::RestartableCall,
            EINTR => Occupation::InterruptedCall,
            _ => Occupation::UserMode,
        }
    }

    /// The same registers with another instruction to go on at.
    pub(super) fn at(self, instruction_pointer: u64) -> Self {
        Self(libc::user_regs_struct {
            rip: instruction_pointer,
            ..self.0
        })
    }

    /// The same registers, about to make a system call by the instruction at `instruction`. That the thread may have been in another call
    /// is hidden from the kernel, which would else make that one again on the way.
    pub(super) fn to_call(self, instruction: u64, number: i64, arguments: [u64; 6]) -> Self {
        let [rdi, rsi, rdx, r10, r8, r9] = arguments;
        Self(libc::user_regs_struct {
            rip: instruction,
            rax: number.cast_unsigned(),
            orig_rax: NO_CALL,
            eflags: self.0.eflags & !TRAP_FLAG,
            rdi,
            rsi,
            rdx,
            r10,
            r8,
            r9,
            ..self.0
        })
    }

    /// The same registers, at the entry of a system call that the kernel is to leave out.
    pub(super) fn without_call(self) -> Self {
        Self(libc::user_regs_struct {
            orig_rax: NO_CALL,
            ..self.0
        })
    }

    /// How call `number`, made by the instruction at `instruction`, ended: None if it is not what just returned.
    pub(super) fn outcome_of(&self, instruction: u64, number: i64) -> Option<Outcome> {
        let returned = self.0.orig_rax.cast_signed() == number
            && self.0.rip == instruction.wrapping_add(CALL_INSTRUCTION_LEN);
        returned.then(|| match self.0.rax.wrapping_neg() {
            ERESTARTSYS..=ERESTART_RESTARTBLOCK => Outcome::Interrupted,
            error @ 1..=LARGEST_ERROR => {
                Outcome::Refused(Errno::from_raw(i32::try_from(error).unwrap_or_default()))
            }
            _ => Outcome::Returned(self.0.rax),
        })
    }

    /// The system call that is about to return EINTR, if there is one.
    ///
    /// Outside a system call `orig_rax` is negative. A signal handler's frame has `rax` 0, and rt_sigreturn(2) leaves
    /// `orig_rax` -1, so neither is taken for an interrupted call.
    pub(super) fn interrupted_call(&self) -> Option<InterruptedCall> {
        let number = self.0.orig_rax.cast_signed();
        let returns = self.0.rax.cast_signed();
        let interrupted = number >= 0
            && returns == -i64::from(libc::EINTR)
            && self.0.cs == USER_CODE_64
            && self.0.rip >= 2;
        interrupted.then_some(InterruptedCall {
            number,
            first_argument: self.0.rdi,
        })
    }

    /// The same registers, with a result of the current call that makes the kernel call it again, or return EINTR if it
    /// delivers a signal first.
    pub(super) fn to_restart_call(self) -> Self {
        Self(libc::user_regs_struct {
            rax: (-ERESTARTNOHAND).cast_unsigned(),
            ..self.0
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers(number: i64, returns: i64) -> Registers {
        // Field by field would be 27 lines, so: any registers, here those of nobody.
        let mut regs = libc::user_regs_struct {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 5,
            orig_rax: 0,
            rip: 0x1000,
            cs: USER_CODE_64,
            eflags: 0,
            rsp: 0,
            ss: 0,
            fs_base: 0,
            gs_base: 0,
            ds: 0,
            es: 0,
            fs: 0,
            gs: 0,
        };
        regs.orig_rax = number.cast_unsigned();
        regs.rax = returns.cast_unsigned();
        Registers(regs)
    }

    #[test]
    fn only_eintr_inside_a_64_bit_call_counts() {
        let eintr = -i64::from(libc::EINTR);
        let call = registers(libc::SYS_epoll_wait, eintr)
            .interrupted_call()
            .expect("test data is good");
        assert_eq!(
            (call.number, call.first_argument),
            (libc::SYS_epoll_wait, 5)
        );
        assert_eq!(
            registers(-1, eintr).interrupted_call(),
            None,
            "not in a call"
        );
        assert_eq!(
            registers(libc::SYS_epoll_wait, 0).interrupted_call(),
            None,
            "returned"
        );
        assert_eq!(
            registers(libc::SYS_poll, -516).interrupted_call(),
            None,
            "the kernel restarts it"
        );
        let mut compat = registers(libc::SYS_epoll_wait, eintr);
        compat.0.cs = 0x23;
        assert_eq!(compat.interrupted_call(), None, "32-bit code");
    }

    #[test]
    fn a_call_hides_the_one_before_it_and_is_recognised_when_it_returns() {
        let before = registers(libc::SYS_read, -512);
        assert_eq!(before.call_instruction(), Some(0xffe));
        let mut calling = before.to_call(0xffe, libc::SYS_munmap, [1, 2, 3, 4, 5, 6]);
        assert_eq!(
            (calling.0.orig_rax, calling.0.rip, calling.0.rax),
            (u64::MAX, 0xffe, 11)
        );
        assert_eq!(calling.outcome_of(0xffe, libc::SYS_munmap), None, "not yet");
        calling.0.orig_rax = 11;
        calling.0.rip = 0x1000;
        for (rax, outcome) in [
            (0_i64, Outcome::Returned(0)),
            (0x7f00_0000_0000, Outcome::Returned(0x7f00_0000_0000)),
            (-9, Outcome::Refused(Errno::EBADF)),
            (-4095, Outcome::Refused(Errno::UnknownErrno)),
            (-4096, Outcome::Returned((-4096_i64).cast_unsigned())),
            (-512, Outcome::Interrupted),
            (-516, Outcome::Interrupted),
        ] {
            calling.0.rax = rax.cast_unsigned();
            assert_eq!(calling.outcome_of(0xffe, libc::SYS_munmap), Some(outcome));
        }
        assert_eq!(calling.outcome_of(0xffe, libc::SYS_mmap), None, "another");
    }

    #[test]
    fn threads_that_nothing_can_happen_to_are_preferred() {
        let occupation = |number, result| registers(number, result).occupation();
        assert_eq!(occupation(-1, -4), Occupation::UserMode);
        assert_eq!(occupation(0, 17), Occupation::UserMode, "has its result");
        assert_eq!(occupation(0, -516), Occupation::RestartableCall);
        assert_eq!(occupation(232, -4), Occupation::InterruptedCall);
        assert!(Occupation::UserMode < Occupation::RestartableCall);
        assert!(Occupation::RestartableCall < Occupation::InterruptedCall);
    }

    #[test]
    fn a_restart_changes_the_result_only() {
        let before = registers(libc::SYS_epoll_wait, -i64::from(libc::EINTR));
        let after = before.to_restart_call();
        assert_eq!(after.0.rax.cast_signed(), -514);
        assert_eq!(
            (after.0.rip, after.0.orig_rax, after.0.rdi),
            (before.0.rip, before.0.orig_rax, before.0.rdi)
        );
        assert_eq!(after.interrupted_call(), None, "done only once");
    }
}
