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
/// Selector of 64-bit user code (`__USER_CS`). The calls of 32-bit code have other numbers.
const USER_CODE_64: u64 = 0x33;

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
