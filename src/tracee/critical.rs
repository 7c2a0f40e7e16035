//! Threads that were stopped in a restartable sequence (rseq(2), `kernel/rseq.c`).
//!
//! Such a sequence is code that the kernel promises to abort when the thread is preempted in the middle of it: on the
//! way back to user mode the instruction pointer is moved to an abort handler. The promise is a pointer in the
//! thread's memory, which the kernel clears as soon as it sees the thread outside of the sequence. A system call
//! made on the thread's behalf takes it outside. Put back to where it was, the thread would finish the sequence
//! unprotected, on data of a processor that may no longer be its own. So the abort, which being stopped has earned it
//! anyway, is done here.

use super::arch::Registers;
use super::error::TraceError;
use super::remote_memory::TargetMemory;
use super::sys;
use super::thread::Stopped;

/// Offset of the pointer to the current sequence in `struct rseq` of `<linux/rseq.h>`.
const SEQUENCE: u64 = 8;
/// Size of `struct rseq_cs`: version and flags, then start, length and abort handler.
const DESCRIPTION: usize = 32;

/// The registers that the thread would have had back in user mode: its own, or at the abort handler.
pub(super) fn leave_sequence(
    thread: &Stopped,
    registers: Registers,
    memory: &TargetMemory,
) -> Result<Registers, TraceError> {
    // System calls are forbidden in a sequence.
    if registers.call_instruction().is_some() {
        return Ok(registers);
    }
    let area = sys::rseq_configuration(thread.tid())
        .map_err(|errno| thread.failed("ask for the rseq area of", errno))?
        .map_or(0, |configuration| configuration.address);
    if area == 0 {
        return Ok(registers);
    }
    let sequence = memory.read_word(area + SEQUENCE)?;
    if sequence == 0 {
        return Ok(registers);
    }
    let mut description = [0; DESCRIPTION];
    memory.read(sequence, &mut description)?;
    Ok(abort_handler(&description, registers.instruction_pointer())
        .map_or(registers, |handler| registers.at(handler)))
}

/// Where to go if the instruction pointer is inside of the sequence.
fn abort_handler(description: &[u8; DESCRIPTION], instruction_pointer: u64) -> Option<u64> {
    let word = |index: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&description[index * 8..][..8]);
        u64::from_le_bytes(bytes)
    };
    let (start, len, handler) = (word(1), word(2), word(3));
    (instruction_pointer.wrapping_sub(start) < len).then_some(handler)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_is_from_the_start_to_before_the_end() {
        let mut description = [0; DESCRIPTION];
        for (index, word) in [0_u64, 0x1000, 0x10, 0x2000].into_iter().enumerate() {
            description[index * 8..][..8].copy_from_slice(&word.to_le_bytes());
        }
        for (at, handler) in [
            (0xfff, None),
            (0x1000, Some(0x2000)),
            (0x100f, Some(0x2000)),
            (0x1010, None),
        ] {
            assert_eq!(abort_handler(&description, at), handler, "{at:#x}");
        }
    }
}
