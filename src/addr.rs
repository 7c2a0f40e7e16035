//! Addresses of another process. They are numbers, never pointers: nothing here can be dereferenced.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An address in a target's address space.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Addr(pub u64);

impl Addr {
    /// An address where hardly anybody has memory, and above what the kernel keeps free (vm.mmap_min_addr). Asking a
    /// userfaultfd about it tells of the address space as a whole.
    pub const NOWHERE: Self = Self(0x1_0000);

    /// The start of the page of `page_bytes` (a power of two) that the address lies in.
    #[must_use]
    pub const fn page(self, page_bytes: u64) -> Self {
        Self(self.0 & !(page_bytes - 1))
    }

    /// The address `bytes` further on; the highest there is when that does not exist.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// Bytes from `start` to here; 0 when `start` lies behind.
    #[must_use]
    pub const fn since(self, start: Self) -> u64 {
        self.0.saturating_sub(start.0)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Addresses from `start` up to, and without, `end`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct AddrRange {
    /// The first address.
    pub start: Addr,
    /// One past the last address.
    pub end: Addr,
}

impl AddrRange {
    /// Where a program can have pages, on a processor of four levels of page tables.
    pub const EVERYWHERE: Self = Self::new(Addr::NOWHERE.0, 0x7fff_ffff_f000);

    /// From `start` to `end`, numbers as /proc has them.
    #[must_use]
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            start: Addr(start),
            end: Addr(end),
        }
    }

    /// `len` bytes from `start` on.
    #[must_use]
    pub const fn at(start: Addr, len: u64) -> Self {
        Self {
            start,
            end: start.plus(len),
        }
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> u64 {
        self.end.since(self.start)
    }

    /// True when there is no address in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// True when `address` lies in it.
    #[must_use]
    pub fn contains(self, address: Addr) -> bool {
        self.start <= address && address < self.end
    }

    /// True when every address of `other` lies in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// True when they have an address in common.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        !self.common(other).is_empty()
    }

    /// The addresses in both, possibly none.
    #[must_use]
    pub fn common(self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self {
            start,
            end: self.end.min(other.end).max(start),
        }
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end)
    }
}

impl fmt::Debug for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_open() {
        let range = AddrRange::new(0x1000, 0x3000);
        assert!(range.contains(Addr(0x1000)) && !range.contains(Addr(0x3000)));
        assert!(!range.overlaps(AddrRange::new(0x3000, 0x4000)));
        assert!(range.overlaps(AddrRange::new(0x2fff, 0x4000)));
        assert_eq!(
            range.common(AddrRange::new(0x2000, 0x9000)),
            AddrRange::new(0x2000, 0x3000)
        );
        assert!(range.common(AddrRange::new(0x5000, 0x9000)).is_empty());
        assert!(range.covers(range) && !range.covers(AddrRange::new(0, 0x2000)));
    }

    #[test]
    fn pages_of_both_sizes() {
        assert_eq!(Addr(0x40_1234).page(0x1000), Addr(0x40_1000));
        assert_eq!(Addr(0x40_1234).page(0x20_0000), Addr(0x40_0000));
        assert_eq!(Addr(u64::MAX).plus(5), Addr(u64::MAX));
    }
}
