//! One address space of a session.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use snapshot_format::PAGE_BYTES;

use super::ahead::Streams;
use super::journal::Op;
use super::waiting::Waiting;
use super::{Installer, SpaceId};
use crate::addr::{Addr, AddrRange};
use crate::space::{AddressSpace, Kind, Order, Place, Remap};
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
    pub(super) echoes: VecDeque<Echo>,
    /// What it has in common with its parent ends here.
    pub(super) forked_at: Place,
    /// Its parent may yet tell of what happened before the fork.
    pub(super) parent_may_tell: bool,
    /// Children forked since it was last known that nothing is half told.
    pub(super) open_children: Vec<SpaceId>,
    /// The page that was last found occupied when a zero page was to be installed.
    pub(super) occupied: Option<Addr>,
    /// Who reads in order.
    pub(super) streams: Streams,
    /// Where the next page to fill is looked for.
    pub(super) fill_from: Addr,
    /// The thread that faults here, where the kernel does not say; 0 if that is not known.
    pub(super) only_thread: u32,
    /// No page can be served any more; those who wait, wait.
    pub(super) broken: bool,
}

/// A move that an ancestor told of late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Echo {
    /// Where it belongs in what the ancestor and the child have in common.
    pub(super) order: Order,
    pub(super) remap: Remap,
    /// Nothing of it was told before the fork.
    pub(super) overtaken: bool,
}

/// Whether a child may have memory that its parent has not told of yet.
///
/// A child is forked with what its parent's threads have done so far, also where they have told only the first half of it,
/// and the second half is told to the parent alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
            forked_at: Place::default(),
            parent_may_tell: false,
            open_children: Vec::new(),
            occupied: None,
            streams: Streams::default(),
            fill_from: Addr(0),
            only_thread: 0,
            broken: false,
        }
    }

    /// From which step on nothing has happened in a child that was forked now: its kernel is asked.
    pub(super) fn diverged(&self, child: &mut I) -> Option<usize> {
        let is_there = |at, kind: Kind| match child.probe(at, kind.page_bytes) {
            Some(Stop::Changing | Stop::Gone) => None,
            stop => Some(stop != Some(Stop::Unmapped)),
        };
        self.space.diverged(is_there)
    }

    /// The child that was forked now, without what has not happened in it.
    pub(super) fn fork(&self, installer: I, diverged: Option<usize>) -> Self {
        let space = self.space.fork(diverged);
        let mut child = Self::new(installer, space);
        child.parent_may_tell = true;
        let half_told = child.space.half_told();
        if let Birth::Orphaned(places) = &self.birth {
            child.birth = Birth::Orphaned(places.clone());
        }
        if !half_told.is_empty() {
            child.birth = Birth::HalfTold(half_told);
        }
        child.forked_at = child.space.now();
        // Both go through what they have in common at the same time: it is decoded once.
        child.fill_from = self.fill_from;
        child.echoes.clone_from(&self.echoes);
        child
    }

    /// Nothing that happened before the fork will be told any more, because all has been.
    pub(super) fn born(&mut self) {
        self.parent_may_tell = false;
        if matches!(self.birth, Birth::HalfTold(_)) {
            self.birth = Birth::Settled;
        }
    }

    /// Nothing that happened before the fork will be told any more, because nobody is left to tell.
    pub(super) fn orphaned(&mut self) {
        self.parent_may_tell = false;
        if let Birth::HalfTold(places) = &mut self.birth {
            let places = std::mem::take(places);
            self.birth = if places.is_empty() {
                Birth::Settled
            } else {
                Birth::Orphaned(places)
            };
        }
    }

    /// True when nothing is owed, and nothing that has yet to be told can change that, here or in a child.
    pub(super) fn is_finished(&self) -> bool {
        self.space.owes() == 0
            && !self.space.remembers()
            && !self.may_be_behind()
            && self.open_children.is_empty()
    }

    /// True when the model may be behind what the child really has.
    pub(super) fn may_be_behind(&self) -> bool {
        matches!(self.birth, Birth::HalfTold(_)) || !self.echoes.is_empty()
    }

    /// True when something may be at `page` that the model will never know of.
    pub(super) fn may_have_been_moved_to(&self, page: Addr) -> bool {
        let Birth::Orphaned(places) = &self.birth else {
            return false;
        };
        self.space.kind_at(page).is_none() && places.iter().any(|place| place.contains(page))
    }

    /// Bytes of a page at an address, 4 KiB where nothing is known.
    pub(super) fn page_bytes(&self, address: Addr) -> u64 {
        self.space
            .kind_at(address)
            .map_or(PAGE_BYTES, |kind| kind.page_bytes)
    }

    /// Finds out what is left of memory that may have been unmapped. Returns how many bytes had been owed to what is not there, or
    /// `None` when the kernel does not say now.
    pub(super) fn ask_what_is_there(&mut self, mut note: impl FnMut(Op)) -> Option<u64> {
        let mut unmapped = 0;
        while let Some((part, kind)) = self.space.perhaps_unmapped() {
            let stop = self.installer.probe(part.start, kind.page_bytes);
            let there = match stop {
                Some(Stop::Changing) => return None,
                // It may just have begun to move, and nobody told. Then the kernel refuses now.
                Some(Stop::Unmapped)
                    if self.installer.probe(Addr::NOWHERE, PAGE_BYTES) == Some(Stop::Changing) =>
                {
                    return None;
                }
                stop => stop != Some(Stop::Unmapped),
            };
            unmapped += self.space.is_there(part, there);
            note(Op::Found(part, there));
        }
        Some(unmapped)
    }

    /// True when all is known that happened before this child was forked. Until then no page can be answered: it may have
    /// been moved away, or something may have been moved there.
    pub(super) fn is_up_to_date(&mut self, mut note: impl FnMut(Op)) -> bool {
        while let Some(&echo) = self.echoes.front() {
            let Some(happened) = self.took_place_here(echo) else {
                return false;
            };
            self.hear_echo(happened);
            note(Op::Echo(happened));
        }
        !self.may_be_behind()
    }

    /// The oldest move that an ancestor told of late took place here, or did not.
    pub(super) fn hear_echo(&mut self, happened: bool) {
        if let Some(echo) = self.echoes.pop_front()
            && happened
        {
            self.space.took_place_at(echo.order, echo.remap);
        }
    }

    /// True when it makes a difference to know that everything has been told.
    pub(super) fn is_to_be_told(&self) -> bool {
        self.space.remembers()
            || self.space.is_in_doubt()
            || self.may_be_behind()
            || !self.open_children.is_empty()
    }

    /// The same, with another installer.
    pub(super) fn with<J>(self, installer: J) -> Member<J> {
        Member {
            installer,
            space: self.space,
            waiting: self.waiting,
            birth: self.birth,
            echoes: self.echoes,
            forked_at: self.forked_at,
            parent_may_tell: self.parent_may_tell,
            open_children: self.open_children,
            occupied: self.occupied,
            streams: self.streams,
            fill_from: self.fill_from,
            only_thread: self.only_thread,
            broken: self.broken,
        }
    }

    /// Whether a move took place before this child was forked, or afterwards in its parent alone. The parent's messages are
    /// the same: UNMAP X, FORK, REMAP Z→X is what one call tells that moves Z onto X, and what munmap(X) tells and a
    /// later move. And FORK, REMAP Z→X is also what is told if the fork overtakes the move: then Z must be gone as well, because
    /// something may be at X that an earlier move has left behind (MREMAP_DONTUNMAP).
    /// `None` when the kernel does not say now.
    fn took_place_here(&mut self, echo: Echo) -> Option<bool> {
        let remap = echo.remap;
        // Something was there that had come without a word.
        let place = remap.destination();
        if !echo.overtaken && self.space.met_unknown_memory(echo.order, place) {
            return Some(true);
        }
        // What was moved onto X is registered there, and not where it was; unless the child has done something there itself.
        let page = self.page_bytes(remap.from);
        let untouched = |range| self.space.untouched_since(self.forked_at, range);
        let there = untouched(remap.destination())
            .into_iter()
            .find(|part| !self.space.any_registered_in(*part));
        if let Some(part) = there {
            match self.installer.probe(part.start, page) {
                Some(Stop::Changing) => return None,
                Some(Stop::Unmapped) if echo.overtaken => return Some(false),
                Some(Stop::Unmapped) => {}
                None if echo.overtaken => {}
                stop => return Some(stop.is_none()),
            }
        } else if echo.overtaken {
            return Some(false);
        }
        let left = untouched(remap.source())
            .into_iter()
            .find(|part| self.space.kind_at(part.start).is_some());
        let Some(part) = left else {
            return Some(false);
        };
        match self.installer.probe(part.start, page) {
            Some(Stop::Changing) => None,
            stop => Some(stop == Some(Stop::Unmapped)),
        }
    }
}
