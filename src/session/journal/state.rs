//! The whole state of a session, as a checkpoint has it.

use std::collections::VecDeque;
use std::os::fd::RawFd;

use serde::{Deserialize, Serialize};

use crate::session::SpaceId;
use crate::session::member::{Birth, Echo};
use crate::space::{AddressSpace, Place};

/// To be written. [`OwnedState`] is what is read: the same fields in the same order.
#[derive(Debug, Serialize)]
pub(in crate::session) struct State<'a> {
    pub(in crate::session) next_id: u64,
    pub(in crate::session) members: Vec<MemberState<'a>>,
    /// What whoever runs the session has to remember beside it.
    pub(in crate::session) about: &'a [u8],
    /// Parents and children of whom that does not know.
    pub(in crate::session) forks: &'a [(SpaceId, SpaceId)],
}

/// To be written.
#[derive(Debug, Serialize)]
pub(in crate::session) struct MemberState<'a> {
    pub(in crate::session) id: SpaceId,
    /// The number of its userfaultfd.
    pub(in crate::session) descriptor: RawFd,
    pub(in crate::session) space: &'a AddressSpace,
    pub(in crate::session) birth: &'a Birth,
    pub(in crate::session) echoes: &'a VecDeque<Echo>,
    pub(in crate::session) forked_at: Place,
    pub(in crate::session) parent_may_tell: bool,
    pub(in crate::session) open_children: &'a [SpaceId],
    pub(in crate::session) broken: bool,
}

#[derive(Debug, Deserialize)]
pub(in crate::session) struct OwnedState {
    pub(in crate::session) next_id: u64,
    pub(in crate::session) members: Vec<OwnedMember>,
    pub(in crate::session) about: Vec<u8>,
    pub(in crate::session) forks: Vec<(SpaceId, SpaceId)>,
}

#[derive(Debug, Deserialize)]
pub(in crate::session) struct OwnedMember {
    pub(in crate::session) id: SpaceId,
    pub(in crate::session) descriptor: RawFd,
    pub(in crate::session) space: AddressSpace,
    pub(in crate::session) birth: Birth,
    pub(in crate::session) echoes: VecDeque<Echo>,
    pub(in crate::session) forked_at: Place,
    pub(in crate::session) parent_may_tell: bool,
    pub(in crate::session) open_children: Vec<SpaceId>,
    pub(in crate::session) broken: bool,
}
