//! One address space of a session.

use std::collections::VecDeque;

use super::waiting::Waiting;
use super::{Installer, SpaceId};
use crate::addr::{Addr, AddrRange};
use crate::space::{AddressSpace, Remap};
use crate::uffd::Stop;

/// An address space, and everything that is known about it.
#[derive(Debug)]
pub(super) struct Member<I> {
    pub(super) installer: I,
    pub(super) space: AddressSpace,
    pub(super) waiting: Waiting,
    /// How it came to be, as long as that matters.
    pub(super) birth: Birth,
    /// Moves that the parent told of after the fork, and that may have taken place before it.
    pub(super) echoes: VecDeque<Remap>,
    /// Children forked since it was last known that nothing is half told.
    pub(super) open_children: Vec<SpaceId>,
    /// The page that was last found occupied when a zero page was to be installed.
    pub(super) occupied: Option<Addr>,
    /// Where the next page to fill is looked for.
    pub(super) fill_from: Addr,
    /// No page can be served any more; those who wait, wait.
    pub(super) broken: bool,
}

/// Whether a child may have memory that its parent has not told of yet.
///
/// A child is forked with what its parent's threads have done so far, also where they have told only the first half of it,
/// and the second half is told to the parent alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Birth {
    /// All is known.
    Settled,
    /// Where things may have been in the middle of moving to when it was forked.
    HalfTold(Vec<AddrRange>),
    /// The same, and nobody will ever tell: the parent is gone.
    Orphaned(Vec<AddrRange>),
}

impl<I: Installer> Member<I> {
    pub(super) fn new(installer: I, space: AddressSpace) -> Self {
        Self {
            installer,
            space,
            waiting: Waiting::default(),
            birth: Birth::Settled,
            echoes: VecDeque::new(),
            open_children: Vec::new(),
            occupied: None,
            fill_from: Addr(0),
            broken: false,
        }
    }

    /// The child that was forked now.
    pub(super) fn fork(&self, installer: I) -> Self {
        let mut half_told = self.space.half_told();
        if let Birth::HalfTold(inherited) | Birth::Orphaned(inherited) = &self.birth {
            half_told.extend(inherited);
        }
        let mut child = Self::new(installer, self.space.fork());
        child.birth = Birth::HalfTold(half_told);
        child.echoes.clone_from(&self.echoes);
        child
    }

    /// Nothing that happened before the fork will be told any more, because all has been.
    pub(super) fn born(&mut self) {
        if matches!(self.birth, Birth::HalfTold(_)) {
            self.birth = Birth::Settled;
        }
    }

    /// Nothing that happened before the fork will be told any more, because nobody is left to tell.
    pub(super) fn orphaned(&mut self) {
        if let Birth::HalfTold(places) = &mut self.birth {
            let places = std::mem::take(places);
            self.birth = if places.is_empty() {
                Birth::Settled
            } else {
                Birth::Orphaned(places)
            };
        }
    }

    /// True when the model may be behind what the child really has.
    pub(super) fn may_be_behind(&self) -> bool {
        matches!(self.birth, Birth::HalfTold(_)) || !self.echoes.is_empty()
    }

    /// True when something may be at `page` that the model does not know of.
    pub(super) fn may_have_been_moved_to(&self, page: Addr) -> bool {
        let (Birth::HalfTold(places) | Birth::Orphaned(places)) = &self.birth else {
            return !self.echoes.is_empty() && self.space.kind_at(page).is_none();
        };
        let echoed = self
            .echoes
            .iter()
            .any(|echo| echo.destination().contains(page));
        self.space.kind_at(page).is_none()
            && (echoed || places.iter().any(|place| place.contains(page)))
    }

    /// Bytes of a page at an address, 4 KiB where nothing is known.
    pub(super) fn page_bytes(&self, address: Addr) -> u64 {
        self.space
            .kind_at(address)
            .map_or(snapshot_format::PAGE_BYTES, |kind| kind.page_bytes)
    }

    /// Carries out the moves that took place in this child before it was forked. False when the kernel does not say now.
    pub(super) fn resolve_echoes(&mut self) -> bool {
        while let Some(&echo) = self.echoes.front() {
            if let Some((part, kind)) = self.first_registered(echo.source()) {
                match self.installer.probe(part.start, kind) {
                    Some(Stop::Changing) => return false,
                    // The source is not here any more, although the child did not move it itself: its messages have been
                    // read.
                    Some(Stop::Unmapped) => self.space.echo(echo),
                    _ => {}
                }
            }
            self.echoes.pop_front();
        }
        true
    }

    fn first_registered(&self, range: AddrRange) -> Option<(AddrRange, u64)> {
        self.space
            .registered()
            .find(|(registered, _)| registered.overlaps(range))
            .map(|(registered, kind)| (registered.common(range), kind.page_bytes))
    }
}
