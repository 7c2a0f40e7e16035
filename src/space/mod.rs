//! What the snapshot still owes one address space: pure.
//!
//! The model of an address space is the set of extents that it is owed. Installed, removed and unmapped are the same
//! operation on it, *settle*; mremap moves extents, fork clones them; a fault outside them is a zero page; and when there
//! are none left the restore is finished.
//!
//! Beside what is owed it knows which memory is registered, because that is what moves, and what order events come in.
//! A call that raises several events queues them one after the other, and those of two threads interleave. So the model
//! keeps what it knows to be half told (`moves.rs`) until the kernel says that nothing is ([`AddressSpace::quiescent`]).

mod extents;
mod moves;

pub use extents::{Cut, Extents};
pub use moves::Remap;

use snapshot_format::{PAGE_BYTES, PageNo};

use self::moves::Moves;
use crate::addr::{Addr, AddrRange};

/// What is owed at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Debt {
    /// This page of the snapshot, and those after it at the addresses after it.
    Page(PageNo),
    /// A page that could not be served, and has been poisoned. It must never be given a zero page instead.
    Poisoned,
}

impl Cut for Debt {
    fn cut(self, bytes: u64) -> Self {
        match self {
            Self::Page(first) => Self::Page(PageNo(first.0 + bytes / PAGE_BYTES)),
            Self::Poisoned => Self::Poisoned,
        }
    }
}

/// How memory is registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// Bytes in a page of the mapping: 4 KiB, or 2 MiB of hugetlbfs.
    pub page_bytes: u64,
    /// The mapping is shared: a page that was installed is there for all who map the file.
    pub shared: bool,
    /// `MADV_WIPEONFORK`: a child finds zeros.
    pub wiped_on_fork: bool,
}

impl Kind {
    /// Private memory of small pages.
    pub const PRIVATE: Self = Self {
        page_bytes: PAGE_BYTES,
        shared: false,
        wiped_on_fork: false,
    };

    /// Pages of the snapshot in a page of the mapping.
    #[must_use]
    pub const fn snapshot_pages(self) -> u64 {
        self.page_bytes / PAGE_BYTES
    }
}

impl Cut for Kind {
    fn cut(self, _: u64) -> Self {
        self
    }
}

/// What the model says of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// This page of the snapshot belongs at the start of the mapping's page.
    Owed(PageNo),
    /// Poisoned.
    Poisoned,
    /// Nothing is owed: zeros.
    Nothing,
}

/// One address space.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSpace {
    registered: Extents<Kind>,
    owed: Extents<Debt>,
    /// Bytes of `owed` that are poisoned.
    poisoned: u64,
    moves: Moves,
}

impl AddressSpace {
    /// Nothing is registered, nothing is owed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a range.
    pub fn register(&mut self, range: AddrRange, kind: Kind) {
        self.registered.set(range, kind);
    }

    /// Owes the pages of the snapshot from `first` on to a registered range.
    pub fn owe(&mut self, range: AddrRange, first: PageNo) {
        self.settle(range);
        self.owed.set(range, Debt::Page(first));
    }

    /// Bytes that are owed and can still be served.
    #[must_use]
    pub fn owes(&self) -> u64 {
        self.owed.bytes() - self.poisoned
    }

    /// The registered memory.
    pub fn registered(&self) -> impl Iterator<Item = (AddrRange, Kind)> + '_ {
        self.registered.iter()
    }

    /// How the memory at an address is registered, as far as is known: memory that grew is registered, and nobody told.
    #[must_use]
    pub fn kind_at(&self, address: Addr) -> Option<Kind> {
        self.registered.at(address).map(|(_, kind)| kind)
    }

    /// What belongs into the page that starts at `page`.
    #[must_use]
    pub fn at(&self, page: Addr) -> Found {
        match self.owed.at(page) {
            Some((range, debt)) => match debt.cut(page.since(range.start)) {
                Debt::Page(page) => Found::Owed(page),
                Debt::Poisoned => Found::Poisoned,
            },
            None => Found::Nothing,
        }
    }

    /// The run of consecutive pages owed around the page at `page`, inside the mapping it lies in; and the snapshot's page
    /// that belongs at its start.
    #[must_use]
    pub fn run_around(&self, page: Addr) -> Option<(AddrRange, PageNo)> {
        let (whole, _) = self.owed.at(page)?;
        let (mapping, _) = self.registered.at(page)?;
        self.next_run(whole.common(mapping))
            .filter(|(run, _)| run.contains(page))
    }

    /// The first run of consecutive pages owed in a range, inside one mapping; and the snapshot's page that belongs at its
    /// start.
    #[must_use]
    pub fn next_run(&self, within: AddrRange) -> Option<(AddrRange, PageNo)> {
        let mut rest = within;
        loop {
            let (part, debt) = self.owed.first_in(rest)?;
            match (debt, self.registered.at(part.start)) {
                (Debt::Page(first), Some((mapping, _))) => {
                    return Some((part.common(mapping), first));
                }
                // Owed where nothing is registered cannot be, but must not be an endless loop either.
                _ => rest.start = part.end,
            }
        }
    }

    /// Takes note that nothing is owed to a range any more. Returns how many bytes were.
    pub fn settle(&mut self, range: AddrRange) -> u64 {
        let mut settled = 0;
        for (part, debt) in self.owed.take(range) {
            match debt {
                Debt::Page(_) => settled += part.len(),
                Debt::Poisoned => self.poisoned -= part.len(),
            }
        }
        settled
    }

    /// Takes note that a range has been poisoned, as far as it was owed.
    pub fn poison(&mut self, range: AddrRange) {
        for (part, debt) in self.owed.take(range) {
            if debt == Debt::Poisoned {
                self.poisoned -= part.len();
            }
            self.poisoned += part.len();
            self.owed.set(part, Debt::Poisoned);
        }
    }

    /// Pages are dropped (REMOVE): from now on they are zero. Returns how many bytes had been owed.
    pub fn remove(&mut self, range: AddrRange) -> u64 {
        let mut settled = 0;
        let mut rest = range;
        while let Some((part, kind)) = self.registered.first_in(rest) {
            rest.start = part.end;
            settled += self.settle(whole_pages(part, kind.page_bytes));
        }
        settled
    }

    /// A range was unmapped (UNMAP). Returns how many bytes had been owed.
    pub fn unmap(&mut self, range: AddrRange) -> u64 {
        if self.moves.is_tail_of_a_move(range) {
            return 0;
        }
        self.moves.unmapped(range);
        self.forget(range)
    }

    /// Memory moved (REMAP). Returns how many bytes had been owed to what was there before.
    pub fn remap(&mut self, remap: Remap) -> u64 {
        self.moves.arrived(remap);
        self.try_move(remap)
    }

    /// A shared mapping got a second place (mremap with an old length of 0, which the kernel reports without the new one).
    /// It is taken to be as long as what is known from `from` on, as far as there is room: what is assumed beyond the
    /// true end is found to be unmapped when it is to be installed.
    pub fn alias(&mut self, from: Addr, to: Addr) {
        let Some((mapping, kind)) = self.registered.at(from) else {
            return;
        };
        let source = AddrRange {
            start: from,
            ..mapping
        };
        let place = AddrRange::at(to, source.len());
        let room = self
            .registered
            .first_in(place)
            .map_or(place.end, |(next, _)| next.start);
        let len = room.since(to).min(source.len());
        let owed = self.owed.clone().take(AddrRange::at(from, len));
        self.registered.set(AddrRange::at(to, len), kind);
        let copy = Remap { from, to, len };
        for (part, debt) in owed {
            self.owed.set(copy.moved(part), debt);
            if debt == Debt::Poisoned {
                self.poisoned += part.len();
            }
        }
    }

    /// A move that another address space reported, and that took place in this one too, before it was forked.
    pub fn echo(&mut self, remap: Remap) {
        self.try_move(remap);
    }

    /// Moves what the source has, then what waited for that; or lets the move wait.
    fn try_move(&mut self, remap: Remap) -> u64 {
        let mut settled = 0;
        let mut next = Some(remap);
        while let Some(remap) = next {
            let source = remap.source();
            if !self.registered.any_in(source) && self.moves.may_move_to(source) {
                self.moves.defer(remap);
                return settled;
            }
            settled += self.carry_out(remap);
            next = self
                .moves
                .take_deferred(|source| self.registered.any_in(source));
        }
        settled
    }

    fn carry_out(&mut self, remap: Remap) -> u64 {
        let settled = self.forget(remap.destination());
        for (part, kind) in self.registered.take(remap.source()) {
            self.registered.set(remap.moved(part), kind);
        }
        for (part, debt) in self.owed.take(remap.source()) {
            self.owed.set(remap.moved(part), debt);
        }
        settled
    }

    fn forget(&mut self, range: AddrRange) -> u64 {
        self.registered.remove(range);
        self.settle(range)
    }

    /// The child that was forked at this point of the messages. What moves later in the parent's messages may already have
    /// moved in the child: see [`AddressSpace::half_told`].
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut child = self.clone();
        // The rest of what the parent's threads were in the middle of is told to the parent alone.
        child.moves = self.moves.of_child();
        let wiped: Vec<AddrRange> = child
            .registered
            .iter()
            .filter(|(_, kind)| kind.wiped_on_fork)
            .map(|(range, _)| range)
            .collect();
        for range in wiped {
            child.settle(range);
        }
        child
    }

    /// The kernel says that no call is under way that has not told everything. What still waits for more is void.
    pub fn quiescent(&mut self) {
        self.moves.clear();
    }

    /// True when it matters to know whether [`AddressSpace::quiescent`] holds.
    #[must_use]
    pub fn wants_quiescence(&self) -> bool {
        self.moves.any_deferred()
    }

    /// Where something may have happened that has been told in part: memory may be at these addresses that the model does
    /// not know of yet.
    #[must_use]
    pub fn half_told(&self) -> Vec<AddrRange> {
        self.moves.half_told()
    }
}

/// The part of a range that consists of whole pages; the kernel drops no parts of huge pages.
fn whole_pages(range: AddrRange, page_bytes: u64) -> AddrRange {
    let start = Addr(range.start.0.next_multiple_of(page_bytes));
    AddrRange {
        start,
        end: range.end.page(page_bytes).max(start),
    }
}

#[cfg(test)]
mod tests;
