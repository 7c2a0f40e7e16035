//! What a userfaultfd says, as values.

use std::os::fd::RawFd;

use super::abi::{
    UFFD_EVENT_FORK, UFFD_EVENT_PAGEFAULT, UFFD_EVENT_REMAP, UFFD_EVENT_REMOVE, UFFD_EVENT_UNMAP,
    UFFD_PAGEFAULT_FLAG_MINOR, UFFD_PAGEFAULT_FLAG_WP, UFFD_PAGEFAULT_FLAG_WRITE, UffdMsg,
};
use crate::addr::{Addr, AddrRange};

/// A thread waits for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fault {
    /// The address, aligned to 4 KiB or exact; never trusted to be aligned to the mapping's page size.
    pub address: Addr,
    /// The thread, as numbered in its own pid namespace; 0 if the kernel does not say.
    pub thread: u32,
    /// It wants to write.
    pub write: bool,
    /// The page is present and write-protected: not a missing page.
    pub write_protect: bool,
    /// The page is in the page cache and only not mapped.
    pub minor: bool,
}

/// Something happened to the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A child was forked. Its userfaultfd is open in the process that read this.
    Fork {
        /// The descriptor's number. Whoever reads the message owns it.
        descriptor: RawFd,
    },
    /// Memory moved; already done when this is read.
    Remap {
        /// Where it was.
        from: Addr,
        /// Where it is.
        to: Addr,
        /// Length in bytes; 0 for the duplicate of a shared mapping, whose length nobody tells.
        len: u64,
    },
    /// Pages are being dropped; will be done after this is read.
    Remove(AddrRange),
    /// A range was unmapped; already done when this is read.
    Unmap(AddrRange),
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// A thread waits for a page.
    Fault(Fault),
    /// The address space changed.
    Event(Event),
    /// A number that no kernel known here sends.
    Unknown(u8),
}

impl From<UffdMsg> for Message {
    fn from(message: UffdMsg) -> Self {
        let [first, second, third] = message.word;
        match message.event {
            UFFD_EVENT_PAGEFAULT => Self::Fault(Fault {
                address: Addr(second),
                thread: low(third),
                write: first & UFFD_PAGEFAULT_FLAG_WRITE != 0,
                write_protect: first & UFFD_PAGEFAULT_FLAG_WP != 0,
                minor: first & UFFD_PAGEFAULT_FLAG_MINOR != 0,
            }),
            UFFD_EVENT_FORK => Self::Event(Event::Fork {
                descriptor: low(first).cast_signed(),
            }),
            UFFD_EVENT_REMAP => Self::Event(Event::Remap {
                from: Addr(first),
                to: Addr(second),
                len: third,
            }),
            UFFD_EVENT_REMOVE => Self::Event(Event::Remove(AddrRange::new(first, second))),
            UFFD_EVENT_UNMAP => Self::Event(Event::Unmap(AddrRange::new(first, second))),
            other => Self::Unknown(other),
        }
    }
}

impl From<Message> for UffdMsg {
    /// As the kernel says it.
    fn from(message: Message) -> Self {
        let (event, word) = match message {
            Message::Fault(fault) => {
                let flags = [
                    (fault.write, UFFD_PAGEFAULT_FLAG_WRITE),
                    (fault.write_protect, UFFD_PAGEFAULT_FLAG_WP),
                    (fault.minor, UFFD_PAGEFAULT_FLAG_MINOR),
                ];
                let flags = flags.into_iter().filter(|(set, _)| *set);
                let flags = flags.map(|(_, flag)| flag).sum();
                let thread = as_low(fault.thread);
                (UFFD_EVENT_PAGEFAULT, [flags, fault.address.0, thread])
            }
            Message::Event(Event::Fork { descriptor }) => {
                (UFFD_EVENT_FORK, [as_low(descriptor.cast_unsigned()), 0, 0])
            }
            Message::Event(Event::Remap { from, to, len }) => {
                (UFFD_EVENT_REMAP, [from.0, to.0, len])
            }
            Message::Event(Event::Remove(range)) => {
                (UFFD_EVENT_REMOVE, [range.start.0, range.end.0, 0])
            }
            Message::Event(Event::Unmap(range)) => {
                (UFFD_EVENT_UNMAP, [range.start.0, range.end.0, 0])
            }
            Message::Unknown(event) => (event, [0; 3]),
        };
        let mut raw = Self::default();
        raw.event = event;
        raw.word = word;
        raw
    }
}

/// The other way round than [`low`].
#[expect(
    clippy::host_endian_bytes,
    reason = "the kernel writes numbers of this machine"
)]
fn as_low(number: u32) -> u64 {
    let [a, b, c, d] = number.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0])
}

/// The union holds 32-bit numbers in its first bytes, on machines that keep the low bytes first as on others.
#[expect(
    clippy::host_endian_bytes,
    reason = "the kernel writes numbers of this machine"
)]
fn low(word: u64) -> u32 {
    let [a, b, c, d, ..] = word.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: u8, word: [u64; 3]) -> Message {
        let mut raw = UffdMsg::default();
        raw.event = event;
        raw.word = word;
        raw.into()
    }

    #[test]
    fn each_kind() {
        assert_eq!(
            message(0x12, [1, 0x7000, 0xffff_ffff_0000_0007]),
            Message::Fault(Fault {
                address: Addr(0x7000),
                thread: 7,
                write: true,
                ..Fault::default()
            })
        );
        assert_eq!(
            message(0x13, [0xdead_0000_0000_0005, 0, 0]),
            Message::Event(Event::Fork { descriptor: 5 })
        );
        assert_eq!(
            message(0x14, [0x1000, 0x2000, 0x3000]),
            Message::Event(Event::Remap {
                from: Addr(0x1000),
                to: Addr(0x2000),
                len: 0x3000
            })
        );
        let range = AddrRange::new(0x1000, 0x5000);
        assert_eq!(
            message(0x15, [0x1000, 0x5000, 9]),
            Message::Event(Event::Remove(range))
        );
        assert_eq!(
            message(0x16, [0x1000, 0x5000, 9]),
            Message::Event(Event::Unmap(range))
        );
        assert_eq!(
            message(0x17, [0; 3]),
            Message::Unknown(0x17),
            "EVENT_EXIT was never released"
        );
        assert_eq!(message(0, [0; 3]), Message::Unknown(0));
    }

    #[test]
    fn flags_of_faults() {
        let Message::Fault(fault) = message(0x12, [2 | 4, 0x7123, 0]) else {
            panic!("a fault");
        };
        assert!(fault.write_protect && fault.minor && !fault.write);
        assert_eq!(fault.address, Addr(0x7123), "low bits are kept");
    }
}
