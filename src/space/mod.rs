//! What the snapshot still owes one address space: pure.
//!
//! The model of an address space is the set of extents that it is owed. Installed, removed and unmapped are the same
//! operation on it, *settle*; mremap moves extents, fork clones them; a fault outside them is a zero page; and when there
//! are none left the restore is finished.
//!
//! Beside what is owed it knows which memory is registered, because that is what moves, and what order events come in.
//! A call that raises several events queues them one after the other, and those of two threads interleave. So the model
//! remembers what happened (`moves.rs`), and puts what is told late where it belongs (`order.rs`), until the kernel says
//! that everything has been told ([`AddressSpace::quiescent`]).

mod doubts;
mod extents;
mod moves;
mod order;
mod steps;

pub use extents::{Cut, Extents};
pub use order::{Order, Place};
pub use steps::Remap;

use serde::{Deserialize, Serialize};
use snapshot_format::{PAGE_BYTES, PageNo};

use self::moves::{Moves, There};
use self::steps::What;
use crate::addr::{Addr, AddrRange};

/// More steps than this are not remembered without asking whether that is needed.
const LONG_MEMORY: usize = 256;

/// What is owed at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kind {
    /// Bytes in a page of the mapping: 4 KiB, or 2 MiB of hugetlbfs.
    pub page_bytes: u64,
    /// The mapping is shared: a page that was installed is there for all who map the file.
    pub shared: bool,
    /// `MADV_WIPEONFORK`: a child finds zeros.
    pub wiped_on_fork: bool,
    /// Of shared memory: what the mapping shows. The same page may be owed to several mappings, and to several processes.
    pub file: Option<FileAt>,
}

/// A place in a file of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileAt {
    /// What names the file: device and inode.
    pub file: (u64, u64),
    /// Offset in bytes.
    pub offset: u64,
}

impl Kind {
    /// Private memory of small pages.
    pub const PRIVATE: Self = Self {
        page_bytes: PAGE_BYTES,
        shared: false,
        wiped_on_fork: false,
        file: None,
    };

    /// Pages of the snapshot in a page of the mapping.
    #[must_use]
    pub const fn snapshot_pages(self) -> u64 {
        self.page_bytes / PAGE_BYTES
    }
}

impl Cut for Kind {
    fn cut(self, bytes: u64) -> Self {
        let file = self.file.map(|at| FileAt {
            offset: at.offset + bytes,
            ..at
        });
        Self { file, ..self }
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressSpace {
    registered: Extents<Kind>,
    owed: Extents<Debt>,
    /// Bytes of `owed` that are poisoned.
    poisoned: u64,
    moves: Moves,
    /// What came by moves to where memory has been unmapped, most likely before.
    perhaps_unmapped: Extents<There>,
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

    /// True when a part of a range is registered, as far as is known.
    #[must_use]
    pub fn any_registered_in(&self, range: AddrRange) -> bool {
        self.registered.any_in(range)
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
        let (mut settled, mut poisoned) = (0, 0);
        self.owed.remove_each(range, |part, debt| match debt {
            Debt::Page(_) => settled += part.len(),
            Debt::Poisoned => poisoned += part.len(),
        });
        self.poisoned -= poisoned;
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
        self.happened(What::Remove(range))
    }

    /// The parts of files that a range shows, and their lengths.
    #[must_use]
    pub fn files_in(&self, range: AddrRange) -> Vec<(FileAt, u64)> {
        let mut files = Vec::new();
        let mut rest = range;
        while let Some((part, kind)) = self.registered.first_in(rest) {
            files.extend(kind.file.map(|at| (at, part.len())));
            rest.start = part.end;
        }
        files
    }

    /// A part of a file was removed, wherever it is mapped. Returns how many bytes had been owed.
    pub fn remove_from_file(&mut self, removed: FileAt, len: u64) -> u64 {
        let end = removed.offset.saturating_add(len);
        let shown: Vec<AddrRange> = self
            .registered
            .iter()
            .filter_map(|(range, kind)| {
                let at = kind.file.filter(|at| at.file == removed.file)?;
                let first = removed.offset.max(at.offset);
                let last = end.min(at.offset + range.len());
                (first < last)
                    .then(|| AddrRange::at(range.start.plus(first - at.offset), last - first))
            })
            .collect();
        shown.into_iter().map(|range| self.settle(range)).sum()
    }

    /// From which step on nothing has happened in a child that was just forked. `is_there` says whether memory is registered at
    /// an address of it. For [`AddressSpace::fork`].
    #[must_use]
    pub fn diverged(&self, mut is_there: impl FnMut(Addr, Kind) -> Option<bool>) -> Option<usize> {
        self.moves.not_in_child(&mut is_there)
    }

    /// The child that was forked at this point of the messages, or before a step. What its parent has yet to tell of may have
    /// taken place in it too: see [`AddressSpace::half_told`].
    #[must_use]
    pub fn fork(&self, diverged: Option<usize>) -> Self {
        let mut child = self.clone();
        if let Some(step) = diverged {
            child.undo_from(step);
        }
        child.moves = child.moves.of_child();
        child.wipe();
        child
    }

    /// Memory with `MADV_WIPEONFORK` is owed nothing in a child, wherever it has been moved.
    fn wipe(&mut self) {
        let wiped: Vec<AddrRange> = self
            .registered
            .iter()
            .filter(|(_, kind)| kind.wiped_on_fork)
            .map(|(range, _)| range)
            .collect();
        for range in wiped {
            self.settle(range);
        }
    }

    /// The kernel says that no call is under way that has not told everything.
    pub fn quiescent(&mut self) {
        self.settle_doubts();
        for (range, kind) in self.moves.left_behind() {
            self.registered.set(range, kind);
        }
        self.moves.clear();
        self.perhaps_unmapped = Extents::default();
    }

    /// The same, of a child, whose parent may yet tell of what happened before the fork.
    pub fn own_is_told(&mut self) {
        self.settle_doubts();
        self.moves.own_is_told();
    }

    /// True when it is worth asking whether [`AddressSpace::quiescent`] holds.
    #[must_use]
    pub fn remembers(&self) -> bool {
        !self.moves.steps.is_empty()
    }

    /// True when it must be asked until it does.
    #[must_use]
    pub fn remembers_much(&self) -> bool {
        self.moves.steps.len() > LONG_MEMORY
    }

    /// Where something may have happened that has been told in part: memory may be at these addresses that the model does
    /// not know of yet, and it may have left others.
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
mod order_tests;
#[cfg(test)]
mod tests;
