//! What happened, one by one, as far as it can be undone.

use serde::{Deserialize, Serialize};

use super::{Debt, Kind};
use crate::addr::{Addr, AddrRange};

/// Memory moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remap {
    /// Where it was.
    pub from: Addr,
    /// Where it is.
    pub to: Addr,
    /// Length in bytes; 0 if a shared mapping has got a second place, beside the one it has. How much of it, nobody tells.
    pub len: u64,
}

impl Remap {
    /// Where it was.
    #[must_use]
    pub fn source(&self) -> AddrRange {
        AddrRange::at(self.from, self.len)
    }

    /// Where it is.
    #[must_use]
    pub fn destination(&self) -> AddrRange {
        AddrRange::at(self.to, self.len)
    }

    /// Where a part of the source is now.
    #[must_use]
    pub fn moved(&self, part: AddrRange) -> AddrRange {
        AddrRange::at(self.to.plus(part.start.since(self.from)), part.len())
    }

    /// The way back.
    pub(super) fn reversed(&self) -> Self {
        Self {
            from: self.to,
            to: self.from,
            len: self.len,
        }
    }
}

/// Something that happened, as far as it can be undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Step {
    pub(super) what: What,
    /// What it took away.
    pub(super) registered: Vec<(AddrRange, Kind)>,
    pub(super) owed: Vec<(AddrRange, Debt)>,
    /// How what it moved was registered, where that was.
    pub(super) moved: Vec<(AddrRange, Kind)>,
    /// How little it fits to what was there: 0 if it does, 1 if something that has yet to be told may explain it.
    pub(super) oddity: u32,
}

impl Step {
    pub(super) fn new(what: What) -> Self {
        Self {
            what,
            registered: Vec::new(),
            owed: Vec::new(),
            moved: Vec::new(),
            oddity: 0,
        }
    }
}

impl Step {
    /// Whether it has happened in an address space where nothing has happened since, as far as what is registered there shows.
    pub(super) fn happened_in(
        &self,
        is_there: &mut impl FnMut(Addr, Kind) -> Option<bool>,
    ) -> Option<bool> {
        match &self.what {
            What::Move {
                remap, onto: None, ..
            } => {
                let &(part, kind) = self.moved.first()?;
                let there = remap.moved(AddrRange::at(part.start, 1)).start;
                // With MREMAP_DONTUNMAP it is in both places; in neither, if another move has taken it away.
                Some(is_there(there, kind)? || !is_there(part.start, kind)?)
            }
            // An UNMAP may be the first word of a move, and something be there for that reason. And the second word of a move
            // does not overtake.
            What::Move { .. }
            | What::Unmap { .. }
            | What::Alias { .. }
            | What::Tail(_)
            | What::Remove(_) => None,
        }
    }

    pub(super) fn moved_from(&self) -> Option<AddrRange> {
        match &self.what {
            What::Move { remap, .. } => Some(remap.source()),
            _ => None,
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum What {
    /// Unmapped. May be the first word of a move onto it, unless it is known to be something else.
    Unmap { range: AddrRange, may_be_move: bool },
    /// The UNMAP of the source of a move, most likely: it says nothing new.
    Tail(AddrRange),
    /// Pages were dropped.
    Remove(AddrRange),
    /// Memory moved.
    Move {
        remap: Remap,
        /// What was unmapped to make room, where that was told.
        onto: Option<AddrRange>,
    },
    /// A shared mapping got a second place. It is taken to be as long as what is known at the first, as far as there is
    /// room: what is assumed beyond the true end is found to be unmapped when it is to be installed.
    Alias {
        from: Addr,
        place: AddrRange,
        /// What was unmapped to make room, where that was told.
        onto: Option<AddrRange>,
    },
}

impl What {
    pub(super) fn is_move(&self, it: &Remap) -> bool {
        match self {
            Self::Move { remap, .. } => remap == it,
            Self::Alias { from, place, .. } => {
                it.len == 0 && *from == it.from && place.start == it.to
            }
            _ => false,
        }
    }

    /// What an UNMAP was about.
    pub(super) fn unmapped(&self) -> Option<AddrRange> {
        match self {
            Self::Unmap { range, .. } | Self::Tail(range) => Some(*range),
            _ => None,
        }
    }

    /// Where something else is registered afterwards than before.
    pub(super) fn places(&self) -> Vec<AddrRange> {
        match self {
            Self::Tail(_) | Self::Remove(_) => Vec::new(),
            Self::Unmap { range, .. } => vec![*range],
            Self::Alias { place, .. } => vec![*place],
            Self::Move { remap, onto, .. } => {
                vec![remap.source(), onto.unwrap_or(remap.destination())]
            }
        }
    }
}
