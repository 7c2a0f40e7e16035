//! What a session has to say to whoever runs it.

use snapshot_format::PageNo;

use super::SpaceId;
use crate::addr::AddrRange;

/// What becomes of a page that cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// Whoever touches it gets SIGBUS.
    #[default]
    Poison,
    /// The process that touched it is killed.
    Kill,
}

/// Something that an operator, or the caller, must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// A child was forked and is being served.
    Forked {
        /// Who forked it.
        parent: SpaceId,
        /// The child.
        child: SpaceId,
    },
    /// Pages were poisoned, because they cannot be served.
    Poisoned {
        /// Whose.
        space: SpaceId,
        /// Where.
        range: AddrRange,
        /// The first of them, in the snapshot.
        page: PageNo,
        /// Why.
        why: String,
    },
    /// A page that a thread waits for cannot be served, and the process is to be killed for it.
    Kill {
        /// Whose.
        space: SpaceId,
        /// Where.
        range: AddrRange,
        /// A thread that waits, as it is numbered in its own pid namespace; 0 if not known.
        thread: u32,
        /// Why.
        why: String,
    },
    /// The address space ceased to exist: exit or exec.
    Gone(SpaceId),
    /// The kernel answered as it never should: this address space cannot be served any more.
    Broken {
        /// Whose.
        space: SpaceId,
        /// What happened.
        what: String,
    },
    /// A FORK cannot be read for want of descriptors; the target stands still.
    NoDescriptor(SpaceId),
    /// A page cannot be installed for want of memory; the thread waits.
    NoMemory(SpaceId),
}
