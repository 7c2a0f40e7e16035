//! The real kernel behind the rules.
#![expect(
    unsafe_code,
    reason = "taking ownership of a descriptor that a message brought"
)]

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use crate::addr::{Addr, AddrRange};
use crate::session::Installer;
use crate::uffd::{Inbox, Outcome, Put, ReadError, Receipt, Stop, Userfaultfd};

/// Shared with the threads that install beside the loop.
impl Installer for Arc<Userfaultfd> {
    fn read(&mut self, inbox: &Inbox) -> Result<usize, ReadError> {
        inbox.take_from(self)
    }

    fn number(&self) -> RawFd {
        self.as_raw_fd()
    }

    fn install(&mut self, range: AddrRange, put: Put<'_>, receipt: &Receipt) -> Outcome {
        self.as_ref().install(range, put, receipt)
    }

    fn wake(&mut self, range: AddrRange) {
        // It fails for addresses that no thread can wait at, and for no other reason.
        let _ = self.as_ref().wake(range);
    }

    fn probe(&mut self, at: Addr, page_bytes: u64) -> Option<Stop> {
        self.as_ref().probe(at, page_bytes)
    }

    fn of_child(&mut self, descriptor: RawFd) -> Self {
        Self::new(Userfaultfd::of_forked(descriptor))
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
