//! Letting go of memory whose owner keeps a descriptor of the userfaultfd, as Firecracker does.
//!
//! Closing ours would not unregister anything: whoever touches a page that is not there would wait for ever. And a madvise(2)
//! whose REMOVE nobody reads would never return.

use std::time::Duration;

use nix::errno::Errno;
use snapshot_format::PAGE_BYTES;

use crate::addr::{Addr, AddrRange};
use crate::uffd::{Event, Message, Stop, Userfaultfd};

/// Unregisters ranges, which wakes whoever waits there, and then reads what was still to be told. Nothing may be owed to them
/// any more: what is not there reads as zeros from now on.
pub(super) fn unregister(userfaultfd: &Userfaultfd, ranges: &[AddrRange]) {
    if ranges.is_empty() {
        return;
    }
    for &range in ranges {
        unregister_in_parts(userfaultfd, range);
    }
    // The kernel wakes who waits in a range and only then takes it out of the registered ones. A fault that holds the lock of
    // its mapping alone, not of the whole address space, can come in between, and would wait for ever (`userfaultfd_unregister` of
    // fs/userfaultfd.c).
    for &range in ranges {
        let _ = userfaultfd.wake(range);
    }
    // Who found memory registered before that waits until its event is read. Nothing new can come, but who has been told may
    // take its time to go on: it may be stopped.
    let mut patience = Duration::from_micros(50);
    while !all_is_told(userfaultfd) {
        std::thread::sleep(patience);
        patience = (2 * patience).min(Duration::from_millis(20));
    }
}

/// Poisons whatever is missing in ranges, so that the descriptor can be closed. False if that could not be done everywhere.
#[must_use]
pub fn poison(userfaultfd: &Userfaultfd, ranges: &[AddrRange]) -> bool {
    ranges.iter().all(|&range| poison_range(userfaultfd, range))
}

fn poison_range(userfaultfd: &Userfaultfd, range: AddrRange) -> bool {
    /// An address space that changes all the time.
    const TRIES: u32 = 20_000;
    let (mut rest, mut tries) = (range, 0);
    while !rest.is_empty() {
        let outcome = userfaultfd.poison(rest);
        rest.start = rest.start.plus(outcome.done);
        match outcome.stop {
            None | Some(Stop::Gone) => return true,
            Some(Stop::Partial) => {}
            // One that is there, or is no memory, is no zero page.
            Some(Stop::Present | Stop::Unmapped | Stop::Fault) => {
                rest.start = rest.start.plus(PAGE_BYTES);
            }
            Some(Stop::Changing | Stop::NoMemory) if tries < TRIES => {
                tries += 1;
                let _ = all_is_told(userfaultfd);
                std::thread::sleep(Duration::from_micros(50));
            }
            Some(_) => return false,
        }
    }
    true
}

fn all_is_told(userfaultfd: &Userfaultfd) -> bool {
    let mut messages = Vec::new();
    while matches!(userfaultfd.read(&mut messages), Ok(1..)) {}
    for message in messages {
        if let Message::Event(Event::Fork { descriptor }) = message {
            // Nothing of it is registered any more.
            drop(Userfaultfd::of_forked(descriptor));
        }
    }
    userfaultfd.probe(Addr::NOWHERE, PAGE_BYTES) != Some(Stop::Changing)
}

/// The kernel refuses a range as a whole if it cannot be registered in one place, such as a file mapped over it.
fn unregister_in_parts(userfaultfd: &Userfaultfd, range: AddrRange) {
    /// Borders of mappings are multiples of this in the ranges of huge pages.
    const SMALLEST: u64 = 2 << 20;
    if userfaultfd.unregister(range) != Err(Errno::EINVAL) {
        return;
    }
    let unit = if range.len() > SMALLEST {
        SMALLEST
    } else {
        PAGE_BYTES
    };
    let half = (range.len() / 2).next_multiple_of(unit);
    if half == 0 || half >= range.len() {
        return;
    }
    let middle = range.start.plus(half);
    for part in [
        AddrRange {
            end: middle,
            ..range
        },
        AddrRange {
            start: middle,
            ..range
        },
    ] {
        unregister_in_parts(userfaultfd, part);
    }
}
