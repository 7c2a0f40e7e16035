//! The real kernel behind the rules.
#![expect(
    unsafe_code,
    reason = "taking ownership of a descriptor that a message brought"
)]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use crate::addr::{Addr, AddrRange};
use crate::session::Installer;
use crate::uffd::{Message, Outcome, ReadError, Stop, Userfaultfd};

impl Installer for Userfaultfd {
    fn read(&mut self, messages: &mut Vec<Message>) -> Result<usize, ReadError> {
        Self::read(self, messages)
    }

    fn copy(&mut self, at: Addr, content: &[u8]) -> Outcome {
        Self::copy(self, at, content)
    }

    fn zero(&mut self, range: AddrRange) -> Outcome {
        Self::zero(self, range)
    }

    fn poison(&mut self, range: AddrRange) -> Outcome {
        Self::poison(self, range)
    }

    fn wake(&mut self, range: AddrRange) {
        // It fails for addresses that no thread can wait at, and for no other reason.
        let _ = Self::wake(self, range);
    }

    fn probe(&mut self, at: Addr, page_bytes: u64) -> Option<Stop> {
        Self::probe(self, at, page_bytes)
    }

    fn of_child(&mut self, descriptor: RawFd) -> Self {
        Self::of_forked(descriptor)
    }
}

impl Userfaultfd {
    /// That of a forked child, from the message that told of it, which is to be used once.
    pub(super) fn of_forked(descriptor: RawFd) -> Self {
        // SAFETY: the kernel opened this descriptor in this process when the message was read, and messages are read once:
        // nobody else owns it.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Self::from(owned)
    }
}
