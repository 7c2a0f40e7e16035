//! Letting go of memory: poisoned, where it has not been restored; unregistered, where its owner keeps a descriptor of the
//! userfaultfd, as Firecracker does.
//!
//! Closing ours would not unregister anything: whoever touches a page that is not there would wait for ever. And a madvise(2)
//! whose REMOVE nobody reads would never return.

use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use snapshot_format::PAGE_BYTES;

use crate::addr::{Addr, AddrRange};
use crate::session::{OnFailure, Session, SpaceId, Turn};
use crate::space::AddressSpace;
use crate::uffd::{Event, Message, Stop, Userfaultfd};

/// How long a change of an address space may hold up its poisoning before something else is done.
const STUCK: Duration = Duration::from_secs(5);

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

/// Poisons everything that an address space is owed, which nobody is going to serve, so that the descriptor can be closed. Returned
/// if that could not be done: closed, it would turn what is missing into zeros.
///
/// # Errors
/// The descriptor.
pub fn poison(
    userfaultfd: Userfaultfd,
    space: AddressSpace,
) -> Result<(), Option<Arc<Userfaultfd>>> {
    let mut session = Session::new(OnFailure::Poison);
    let id = session.add(Arc::new(userfaultfd), space);
    if poison_all(&mut session, id, "it is not served") {
        Ok(())
    } else {
        Err(session.end(id))
    }
}

/// True when nothing is owed to an address space any more.
pub(super) fn poison_all(session: &mut Session<Arc<Userfaultfd>>, id: SpaceId, why: &str) -> bool {
    let until = Instant::now() + STUCK;
    loop {
        match session.abandon(id, why, Instant::now()) {
            Turn::Idle | Turn::Gone => return true,
            Turn::Soon | Turn::Later if Instant::now() > until => return false,
            Turn::Soon | Turn::Later => std::thread::sleep(Duration::from_micros(100)),
        }
    }
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
