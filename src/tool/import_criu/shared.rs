//! Pages that an earlier process has at the same address: forked from it, or from the same parent.

use super::overlap::{Overlap, overlaps};
use crate::addr::{Addr, AddrRange};
use crate::criu::{Process, Stored};
use snapshot_format::{PAGE_BYTES, PAGE_SIZE};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use twox_hash::XxHash3_64;

/// Pages that have been written: their numbers, addresses, and where they were read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source {
    pub(super) first: u64,
    pub(super) at: AddrRange,
    pub(super) stored: Stored,
}

/// Remembers pages that a later process may have too.
///
/// A page takes about 20 bytes here, and only if a later process has a lazy page at its address: less than 1 % of the memory
/// that could be shared, and nothing for processes that have nothing to do with each other.
#[derive(Debug)]
pub(super) struct Shared {
    overlaps: Vec<Overlap>,
    /// From address and content to the number of the page.
    pages: HashMap<u64, u64, BuildHasherDefault<AsItIs>>,
    /// Ascending by first page.
    sources: Vec<Source>,
}

/// What may be done about pages of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Chance {
    /// How many bytes of memory this is about.
    pub(super) len: u64,
    /// An earlier process may have the same.
    pub(super) look: bool,
    /// A later one may.
    pub(super) remember: bool,
}

impl Shared {
    pub(super) fn of(processes: &[Process]) -> Self {
        Self {
            overlaps: overlaps(processes),
            pages: HashMap::default(),
            sources: Vec::new(),
        }
    }

    /// What there is to be done about the memory of process `number` that begins at the start of `at`.
    pub(super) fn chance(&self, number: usize, at: AddrRange) -> Chance {
        let next = self
            .overlaps
            .partition_point(|overlap| overlap.at.end <= at.start);
        let alone = |end: Addr| Chance {
            len: end.min(at.end).since(at.start),
            look: false,
            remember: false,
        };
        match self.overlaps.get(next) {
            Some(overlap) if overlap.at.contains(at.start) => Chance {
                look: overlap.first < number,
                remember: number < overlap.last,
                ..alone(overlap.at.end)
            },
            Some(overlap) => alone(overlap.at.start),
            None => alone(at.end),
        }
    }

    /// Pages that were written, in the order of their numbers.
    pub(super) fn written(&mut self, source: Source) {
        self.sources.push(source);
    }

    /// The page with this number may be met again.
    pub(super) fn remember(&mut self, key: u64, page: u64) {
        self.pages.entry(key).or_insert(page);
    }

    /// The earlier page at `at` that probably has the content, and where it was read.
    pub(super) fn find(&self, key: u64, at: Addr) -> Option<(u64, Stored)> {
        let page = *self.pages.get(&key)?;
        let behind = self.sources.partition_point(|source| source.first <= page);
        let source = self.sources.get(behind.checked_sub(1)?)?;
        let into = page - source.first;
        let found = source.at.start.plus(into * PAGE_BYTES);
        // Another address that happens to give the same key.
        (found == at && source.at.contains(found)).then_some((
            page,
            Stored {
                file: source.stored.file,
                page: source.stored.page + into,
            },
        ))
    }
}

/// What stands for a page at an address.
pub(super) fn key(at: Addr, page: &[u8]) -> u64 {
    let number = at.0 / PAGE_BYTES;
    XxHash3_64::oneshot(page) ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Zero, or one word all over: takes no room in the snapshot as it is.
pub(super) fn is_uniform(page: &[u8]) -> bool {
    page.len() == PAGE_SIZE && page[8..] == page[..PAGE_SIZE - 8]
}

/// The keys are hashes already.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = XxHash3_64::oneshot(bytes);
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
