//! Page tables, small enough to be looked at: a slot is a place for one page.

use std::ops::Range;

use uffd_restore::addr::{Addr, AddrRange};

/// Slots of 4 KiB, in areas of four with one of room behind each, so that mappings can grow.
pub(crate) const SMALL: usize = 25;
/// Slots of an area and the room behind it.
pub(crate) const AREA: usize = 5;
/// Slots of an area.
pub(crate) const AREA_LEN: usize = 4;
/// Slots in all. Those behind the small ones are huge.
pub(crate) const SLOTS: usize = SMALL + 4;
/// Bytes of a small page.
pub(crate) const UNIT: u64 = 0x1000;
/// Bytes of a huge page.
pub(crate) const HUGE: u64 = 0x20_0000;

const SMALL_BASE: u64 = 0x100_0000;
const HUGE_BASE: u64 = 0x4000_0000;

pub(crate) type Slots = Range<usize>;

pub(crate) fn is_huge(slot: usize) -> bool {
    slot >= SMALL
}

pub(crate) fn bytes(slot: usize) -> u64 {
    if is_huge(slot) { HUGE } else { UNIT }
}

/// Slots of the same size as `slot`.
pub(crate) fn alike(slot: usize) -> Slots {
    if is_huge(slot) {
        SMALL..SLOTS
    } else {
        0..SMALL
    }
}

pub(crate) fn address(slot: usize) -> Addr {
    Addr(if is_huge(slot) {
        HUGE_BASE + ((slot - SMALL) as u64) * HUGE
    } else {
        SMALL_BASE + (slot as u64) * UNIT
    })
}

/// The addresses of slots of one size.
pub(crate) fn range(slots: &Slots) -> AddrRange {
    let len = (slots.len() as u64) * bytes(slots.start);
    AddrRange::at(address(slots.start), len)
}

/// The slot an address lies in.
pub(crate) fn slot_at(address: Addr) -> Option<usize> {
    let index = |base: u64, bytes: u64| {
        let offset = address.0.checked_sub(base)?;
        usize::try_from(offset / bytes).ok()
    };
    index(HUGE_BASE, HUGE)
        .map(|slot| slot + SMALL)
        .or_else(|| index(SMALL_BASE, UNIT).filter(|&slot| slot < SMALL))
        .filter(|&slot| slot < SLOTS)
}

/// The slots of a range of addresses, whole ones; `None` if it does not begin and end with one.
pub(crate) fn slots_of(range: AddrRange) -> Option<Slots> {
    let start = slot_at(range.start)?;
    let count = usize::try_from(range.len() / bytes(start)).ok()?;
    let whole = address(start) == range.start && range.len().is_multiple_of(bytes(start));
    (whole && start + count <= alike(start).end).then_some(start..start + count)
}

/// What a page holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// This page of the snapshot.
    Page(u64),
    /// What a thread wrote.
    Value(u32),
}

/// An entry of the page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    Missing,
    Holds(Content),
    Poison,
}

/// What a page must be found to hold: the oracle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Truth {
    Is(Content),
    /// A poisoned page was dropped without a word. It may stay poisoned or be zero.
    PoisonOrZero,
}

/// How a slot is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) registered: bool,
    pub(crate) wiped_on_fork: bool,
    /// The page of the file behind a shared mapping.
    pub(crate) file: Option<usize>,
}

impl Mapping {
    pub(crate) const PLAIN: Self = Self {
        registered: false,
        wiped_on_fork: false,
        file: None,
    };
}

/// A slot of an address space.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    pub(crate) mapping: Option<Mapping>,
    /// Another mapping begins here, although it is of the same kind.
    pub(crate) border: bool,
    pub(crate) entry: Entry,
    pub(crate) truth: Truth,
    /// Nobody has told that it is registered: it grew, or a move with `MREMAP_DONTUNMAP` has left it behind.
    pub(crate) unknown: bool,
}

impl Slot {
    pub(crate) const UNMAPPED: Self = Self {
        mapping: None,
        border: false,
        entry: Entry::Missing,
        truth: Truth::Is(Content::Zero),
        unknown: false,
    };

    /// A missing page that is to read as zeros.
    pub(crate) fn empty(mapping: Mapping) -> Self {
        Self {
            mapping: Some(mapping),
            ..Self::UNMAPPED
        }
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.mapping.is_some_and(|mapping| mapping.registered)
    }

    pub(crate) fn is_shared(&self) -> bool {
        self.mapping.is_some_and(|mapping| mapping.file.is_some())
    }
}
