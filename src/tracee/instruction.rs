//! Where the target has a system call instruction. Nothing is ever written over its code: text may be shared, checked or
//! unwritable, and every process has the instruction somewhere.

use super::arch::{CALL_INSTRUCTION, Registers, USER_END};
use super::error::TraceError;
use super::procfs;
use super::remote_memory::TargetMemory;

/// How much is looked through at once.
const PIECE: u64 = 64 << 10;

/// The address of a system call instruction: the one that the thread has just used, else one of the vdso, else any.
pub(super) fn find(
    pid: i32,
    registers: &Registers,
    memory: &TargetMemory,
) -> Result<u64, TraceError> {
    if let Some(address) = registers.call_instruction()
        && is_call_instruction(memory, address)
    {
        return Ok(address);
    }
    let mut mappings = procfs::executable_mappings(memory.tid())?;
    // The vdso is small and always has one. Anonymous or file, the others are as good.
    mappings.sort_by_key(|(_, _, name)| name != "[vdso]");
    mappings
        .iter()
        .filter(|(_, end, _)| *end <= USER_END)
        .find_map(|(start, end, _)| search(memory, *start, *end))
        .ok_or(TraceError::NoCallInstruction { pid })
}

fn is_call_instruction(memory: &TargetMemory, address: u64) -> bool {
    let mut bytes = [0; CALL_INSTRUCTION.len()];
    memory.read(address, &mut bytes).is_ok() && bytes == CALL_INSTRUCTION
}

/// Memory that cannot be read is passed over.
fn search(memory: &TargetMemory, start: u64, end: u64) -> Option<u64> {
    let mut at = start;
    while at < end {
        // Whole pages: an instruction never lies on two, so that it is executable as a whole.
        let len = PIECE.min(end - at);
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        if memory.read(at, &mut bytes).is_ok()
            && let Some(offset) = position(&bytes)
        {
            return Some(at + offset as u64);
        }
        at += len;
    }
    None
}

fn position(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(CALL_INSTRUCTION.len())
        .position(|window| window == CALL_INSTRUCTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instruction_is_found_wherever_it_stands() {
        assert_eq!(position(&[0x0f, 0x05]), Some(0));
        assert_eq!(position(&[0x0f, 0x0f, 0x05]), Some(1));
        assert_eq!(position(&[0x90, 0xcd, 0x80, 0x0f]), None);
        assert_eq!(position(&[0x0f]), None);
    }
}
