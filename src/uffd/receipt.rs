//! What is being installed, and what came of it: written where somebody else can find it, and by the kernel.
//!
//! The kernel writes into the structure that an install is asked with how far it came, before the call returns; and a process that is
//! killed while it is in the call dies when that returns. So if the structure lies in memory that outlives the process, whoever goes on
//! knows what was installed, without a word more having been written for it; and need not ask the kernel, which of forked children,
//! and of huge pages, does not say (EEXIST is also the answer if there is none left).

use super::abi::{self, UffdioCopy, UffdioFill};
use crate::addr::{Addr, AddrRange};
use crate::shared_memory::{Room, WORD};

/// What to install.
#[derive(Debug, Clone, Copy)]
pub enum Put<'a> {
    /// This content.
    Bytes(&'a [u8]),
    /// Zeros.
    Zero,
    /// A marker that makes accesses fail.
    Poison,
}

/// Room for one install at a time.
#[derive(Debug, Clone)]
pub struct Receipt(Room);

/// What was installed, and nobody has taken note of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installed {
    /// The number of the address space.
    pub space: u64,
    /// Where.
    pub range: AddrRange,
    /// It is poison.
    pub poison: bool,
}

// By number. What was going to be done; 0 if nothing was.
const KIND: usize = 0;
const SPACE: usize = 1;
/// The kernel's structure.
const ARGUMENT: usize = 2;
const COPY: u64 = 1;
const ZERO: u64 = 2;
const POISON: u64 = 3;

const COPY_WORDS: usize = size_of::<UffdioCopy>() / WORD;
const FILL_WORDS: usize = size_of::<UffdioFill>() / WORD;

impl Receipt {
    /// Words that it takes up: a processor's cache line.
    pub const WORDS: usize = 8;

    /// In this room, which is empty, or has what another process left there.
    #[must_use]
    pub const fn new(room: Room) -> Self {
        Self(room)
    }

    /// What is installed from now on is of this address space.
    pub fn of(&self, space: u64) {
        self.0.store(SPACE, space);
    }

    /// Something is going to be installed. Returns the request for the kernel, and the address of its structure.
    pub(super) fn begin(&self, range: AddrRange, put: Put<'_>) -> (libc::Ioctl, *mut libc::c_void) {
        let write = |words: &[u64]| {
            for (index, &word) in words.iter().enumerate() {
                self.0.store(ARGUMENT + index, word);
            }
        };
        let fill = [range.start.0, range.len(), 0, 0];
        let (kind, request) = match put {
            Put::Bytes(bytes) => {
                let source = bytes.as_ptr().addr() as u64;
                let len = range.len().min(bytes.len() as u64);
                write(&[range.start.0, source, len, 0, 0]);
                (COPY, abi::UFFDIO_COPY)
            }
            Put::Zero => {
                write(&fill);
                (ZERO, abi::UFFDIO_ZEROPAGE)
            }
            Put::Poison => {
                write(&fill);
                (POISON, abi::UFFDIO_POISON)
            }
        };
        self.0.store(KIND, kind);
        (request, self.0.address(ARGUMENT, COPY_WORDS))
    }

    /// What a kernel writes: bytes done, or a negative error.
    pub(super) fn field(&self) -> i64 {
        let (_, _, done) = self.places();
        self.0.load(ARGUMENT + done).cast_signed()
    }

    /// As if a kernel had installed so much of what was going to be.
    pub fn pretend(&self, range: AddrRange, put: Put<'_>, done: u64) {
        self.begin(range, put);
        let (_, _, field) = self.places();
        self.0.store(ARGUMENT + field, done);
    }

    /// What was installed since it was empty.
    #[must_use]
    pub fn installed(&self) -> Option<Installed> {
        let kind = self.0.load(KIND);
        if !(COPY..=POISON).contains(&kind) {
            return None;
        }
        let (start, len, _) = self.places();
        let most = self.0.load(ARGUMENT + len);
        let done = u64::try_from(self.field()).unwrap_or(0).min(most);
        (done > 0).then(|| Installed {
            space: self.0.load(SPACE),
            range: AddrRange::at(Addr(self.0.load(ARGUMENT + start)), done),
            poison: kind == POISON,
        })
    }

    /// What came of it is written down elsewhere.
    pub fn clear(&self) {
        self.0.store(KIND, 0);
    }

    /// Start, length and bytes done, by word of the structure.
    fn places(&self) -> (usize, usize, usize) {
        match self.0.load(KIND) {
            COPY => (0, 2, COPY_WORDS - 1),
            _ => (0, 1, FILL_WORDS - 1),
        }
    }
}

impl Default for Receipt {
    /// In this process's own memory, for who need not outlive it.
    fn default() -> Self {
        Self(Room::private(Self::WORDS))
    }
}

const _: () = {
    use std::mem::offset_of;
    assert!(ARGUMENT + COPY_WORDS <= Receipt::WORDS && FILL_WORDS <= COPY_WORDS);
    assert!(offset_of!(UffdioCopy, dst) == 0 && offset_of!(UffdioCopy, src) == WORD);
    assert!(offset_of!(UffdioCopy, len) == 2 * WORD && offset_of!(UffdioCopy, mode) == 3 * WORD);
    assert!(offset_of!(UffdioCopy, copy) == (COPY_WORDS - 1) * WORD);
    assert!(offset_of!(UffdioFill, mode) == 2 * WORD);
    assert!(offset_of!(UffdioFill, done) == (FILL_WORDS - 1) * WORD);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_installed_is_known_until_it_is_written_down() {
        let receipt = Receipt::default();
        assert_eq!(receipt.installed(), None);
        receipt.of(7);
        let range = AddrRange::new(0x4000, 0x8000);
        for (put, poison) in [
            (Put::Bytes(&[0; 0x4000]), false),
            (Put::Zero, false),
            (Put::Poison, true),
        ] {
            receipt.begin(range, put);
            assert_eq!(receipt.installed(), None, "nothing has been done yet");
            receipt.pretend(range, put, 0x1000);
            let installed = Installed {
                space: 7,
                range: AddrRange::new(0x4000, 0x5000),
                poison,
            };
            assert_eq!(receipt.installed(), Some(installed));
            receipt.clear();
            assert_eq!(receipt.installed(), None);
        }
        receipt.pretend(range, Put::Zero, (-17_i64).cast_unsigned());
        assert_eq!(receipt.installed(), None, "an error is no number of bytes");
    }
}
