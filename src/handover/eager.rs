//! Pages that cannot wait for a fault.
//!
//! Nearly all memory may be absent when a target runs: whoever touches it waits, and gets it. But the kernel uses some
//! memory of a thread at moments when it does not wait, and goes on without it, in silence. A page of these that is absent at
//! the wrong moment is a thread that is never joined or a lock that is never released. So they must be in place before
//! the target runs. Others are asked for at once by every thread, and bringing them early saves a round trip each.

use std::collections::BTreeSet;

use nix::errno::Errno;

use super::error::HandoverError;
use super::guests::argument;
use crate::capture::maps::MapsLine;
use crate::tracee::{
    RemoteCallError, RemoteCaller, Stopped, StoppedProcess, TargetMemory, TraceError,
};

const PAGE: u64 = 4096;
/// What a function of x86-64 may use below its stack pointer (System V ABI).
const RED_ZONE: u64 = 128;
/// More than the thread control block of any C library: `struct pthread` of glibc has 2304 bytes.
const CONTROL_BLOCK: u64 = 2304;
/// A signal frame with all registers of the processor (`AT_MINSIGSTKSZ`) is below this on all processors without AMX.
const SIGNAL_FRAME: u64 = 4096;
/// Arguments and environment are 128 KiB at most in nearly all programs.
const MOST_ARGUMENT_PAGES: u64 = 64;
/// `ROBUST_LIST_LIMIT` of `<linux/futex.h>`, after which the kernel stops too.
const MOST_ROBUST_FUTEXES: usize = 2048;

/// The addresses of all pages of a stopped process that must be in place before it runs. Sorted, each once, and mapped all
/// of them.
///
/// For each thread:
///
/// * the page of the stack pointer, and of the red zone below it: the first thing that it touches;
/// * the thread control block at its thread pointer: the same;
/// * its `struct rseq` (rseq(2)): the kernel writes the number of the processor there whenever the thread has been moved
///   to another one, and kills the thread with SIGSEGV if it cannot (`kernel/rseq.c`);
/// * the word that the kernel clears when the thread ends, to wake whoever joins it (set_tid_address(2)): a thread that is ending
///   does not wait for pages (`mm_release` of `kernel/fork.c`), so the joining thread would wait for ever;
/// * the list of robust futexes that it holds, and these (get_robust_list(2)): the same (`exit_robust_list` of
///   `kernel/futex/core.c`), so their next owner would wait for ever;
/// * the top of its alternate signal stack (sigaltstack(2)), which is for the moment when nothing else works.
///
/// And for the process its arguments and environment, which ps(1) reads through `/proc/PID/cmdline`, where absent
/// pages read as nothing.
///
/// Of what the target's memory says about itself (the robust futexes) only that can be followed which is in place already. So this is to be
/// called before the target's memory is dropped.
///
/// # Errors
/// [`HandoverError`]; the process is left as it was. What the kernel is too old to tell is no error.
pub fn must_be_present(process: &mut StoppedProcess) -> Result<Vec<u64>, HandoverError> {
    let mut pages = Pages::default();
    let threads = process.thread_ids();
    let page = {
        let mut caller = process.caller()?;
        map_answer_page(&mut caller)?
    };
    let gathered = threads
        .iter()
        .try_for_each(|tid| of_thread(process, *tid, page, &mut pages));
    let unmapped = unmap_answer_page(process, page);
    gathered.and(unmapped)?;
    pages.add_arguments(process)?;
    pages.only_mapped(process)
}

/// Memory for the answers of calls, one page for all threads.
fn map_answer_page(caller: &mut RemoteCaller<'_>) -> Result<u64, HandoverError> {
    let pid = caller.pid();
    caller
        .map_anonymous(
            0,
            PAGE,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE,
        )
        .map_err(|error| HandoverError::remote("map memory", pid, error))
}

fn unmap_answer_page(process: &mut StoppedProcess, page: u64) -> Result<(), HandoverError> {
    let mut caller = process.caller()?;
    let pid = caller.pid();
    caller
        .unmap(page, PAGE)
        .map_err(|error| HandoverError::remote("unmap memory", pid, error))
}

fn of_thread(
    process: &mut StoppedProcess,
    tid: i32,
    answer: u64,
    pages: &mut Pages,
) -> Result<(), HandoverError> {
    let thread = process
        .thread(tid)
        .ok_or(TraceError::NoSuchProcess { pid: tid })?;
    pages.add_registers(thread)?;
    if let Some((address, len)) = thread.rseq_area()? {
        pages.add(address, len);
    }
    if let Some(head) = thread.robust_list()? {
        pages.add_robust_list(head, &TargetMemory::open(tid)?);
    }
    let mut caller = process.caller_in(tid)?;
    pages.add_word_cleared_at_end(&mut caller, answer)?;
    pages.add_signal_stack(&mut caller, answer)?;
    caller.finish()?;
    Ok(())
}

#[derive(Debug, Default)]
struct Pages(BTreeSet<u64>);

impl Pages {
    /// The pages of `len` bytes from `address` on; nothing for addresses that cannot be.
    fn add(&mut self, address: u64, len: u64) {
        let Some(last) = address.checked_add(len.max(1) - 1) else {
            return;
        };
        let mut page = address & !(PAGE - 1);
        while page <= last {
            self.0.insert(page);
            page += PAGE;
        }
    }

    fn add_registers(&mut self, thread: &Stopped) -> Result<(), TraceError> {
        let registers = thread.registers()?;
        let stack = registers.stack_pointer();
        self.add(stack.saturating_sub(RED_ZONE), RED_ZONE + 8);
        if let control_block @ 1.. = registers.thread_pointer() {
            self.add(control_block, CONTROL_BLOCK);
        }
        Ok(())
    }

    /// The head of the list, its entries, and the futex word of each, which lies at the same distance from each entry
    /// (`struct robust_list_head` of `<linux/futex.h>`).
    fn add_robust_list(&mut self, head: u64, memory: &TargetMemory) {
        const HEAD_LEN: u64 = 24;
        /// Marks futexes with priority inheritance.
        const FLAG: u64 = 1;
        self.add(head, HEAD_LEN);
        let word = |address: u64| memory.read_word(address).ok();
        let (Some(first), Some(distance), Some(pending)) =
            (word(head), word(head + 8), word(head + 16))
        else {
            return;
        };
        let mut add_entry = |entry: u64| {
            self.add(entry, 8);
            self.add(entry.wrapping_add(distance), 4);
        };
        if pending & !FLAG != 0 {
            add_entry(pending & !FLAG);
        }
        let mut entry = first & !FLAG;
        for _ in 0..MOST_ROBUST_FUTEXES {
            if entry == head || entry == 0 {
                return;
            }
            add_entry(entry);
            let Some(next) = word(entry) else { return };
            entry = next & !FLAG;
        }
    }

    fn add_word_cleared_at_end(
        &mut self,
        caller: &mut RemoteCaller<'_>,
        answer: u64,
    ) -> Result<(), HandoverError> {
        let request = argument(libc::PR_GET_TID_ADDRESS);
        match caller.call(libc::SYS_prctl, [request, answer, 0, 0, 0, 0]) {
            Ok(_) => {
                if let word @ 1.. = caller.memory().read_word(answer)? {
                    self.add(word, 4);
                }
                Ok(())
            }
            // A kernel without CONFIG_CHECKPOINT_RESTORE does not tell. C libraries have the word in the control block.
            Err(RemoteCallError::Refused(Errno::EINVAL)) => Ok(()),
            Err(error) => Err(HandoverError::remote(
                "ask a thread for its end's address",
                caller.pid(),
                error,
            )),
        }
    }

    fn add_signal_stack(
        &mut self,
        caller: &mut RemoteCaller<'_>,
        answer: u64,
    ) -> Result<(), HandoverError> {
        let pid = caller.pid();
        caller
            .call(libc::SYS_sigaltstack, [0, answer, 0, 0, 0, 0])
            .map_err(|error| {
                HandoverError::remote("ask a thread for its signal stack", pid, error)
            })?;
        // stack_t: base, flags (and 4 bytes to fill up), size.
        let [base, flags, size] =
            [answer, answer + 8, answer + 16].map(|address| caller.memory().read_word(address));
        let (base, flags, size) = (base?, flags? & 0xffff_ffff, size?);
        if flags & argument(libc::SS_DISABLE) == 0 && size > 0 {
            let used = size.min(SIGNAL_FRAME);
            self.add(base.saturating_add(size - used), used);
        }
        Ok(())
    }

    fn add_arguments(&mut self, process: &StoppedProcess) -> Result<(), HandoverError> {
        let path = format!("/proc/{}/stat", process.memory_tid());
        let stat = std::fs::read(&path).map_err(|source| TraceError::Proc {
            path: path.clone().into(),
            source,
        })?;
        let Some(bounds) = argument_bounds(&String::from_utf8_lossy(&stat)) else {
            return Ok(());
        };
        for (start, end) in bounds {
            if let len @ 1.. = end.saturating_sub(start) {
                self.add(start, len.min(MOST_ARGUMENT_PAGES * PAGE));
            }
        }
        Ok(())
    }

    /// A pointer may point to where nothing is: a thread with an odd stack pointer, a list that is just being changed.
    fn only_mapped(self, process: &StoppedProcess) -> Result<Vec<u64>, HandoverError> {
        let path = format!("/proc/{}/maps", process.memory_tid());
        let maps = std::fs::read(&path).map_err(|source| TraceError::Proc {
            path: path.into(),
            source,
        })?;
        let mapped: Vec<MapsLine> = maps
            .split(|byte| *byte == b'\n')
            .filter_map(MapsLine::parse)
            .collect();
        let is_mapped = |page: &u64| {
            let after = mapped.partition_point(|line| line.start <= *page);
            after > 0 && *page < mapped[after - 1].end
        };
        if mapped.is_empty() {
            return Err(TraceError::Ended { pid: process.pid() }.into());
        }
        Ok(self.0.into_iter().filter(is_mapped).collect())
    }
}

/// Fields 48 to 51 of proc_pid_stat(5): where arguments and environment start and end.
fn argument_bounds(stat: &str) -> Option<[(u64, u64); 2]> {
    let (_, tail) = stat.rsplit_once(')')?;
    // The first field after the name is number 3.
    let mut fields = tail.split_ascii_whitespace().skip(48 - 3);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some([(next()?, next()?), (next()?, next()?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_become_their_pages() {
        let mut pages = Pages::default();
        pages.add(0x1fff, 2);
        pages.add(0x5000, 0);
        pages.add(u64::MAX - 1, 8);
        pages.add(0x1008, 8);
        assert_eq!(
            pages.0.into_iter().collect::<Vec<_>>(),
            [0x1000, 0x2000, 0x5000]
        );
    }

    #[test]
    fn arguments_are_fields_48_to_51() {
        let fields: Vec<String> = (3..=52).map(|number| number.to_string()).collect();
        let stat = format!("1 (a) b) {}", fields.join(" "));
        assert_eq!(argument_bounds(&stat), Some([(48, 49), (50, 51)]));
        assert_eq!(argument_bounds("1 (a) S 1"), None);
    }
}
