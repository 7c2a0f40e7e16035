//! Unit arithmetic: bytes, pages and page numbers. Nothing else.

/// Bytes in a page, the unit of the page index, whatever the page size of the memory described.
pub const PAGE_SIZE: usize = 4096;

/// [`PAGE_SIZE`] as a length in bytes.
pub const PAGE_BYTES: u64 = 4096;

/// One page's content.
pub type Page = [u8; PAGE_SIZE];

/// Index of a page in a snapshot: pages of all regions are numbered in one sequence, from 0.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct PageNo(pub u64);

impl std::fmt::Display for PageNo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Pages needed to hold `len` bytes; the last one may be partly used.
#[must_use]
pub const fn pages_for(len: u64) -> u64 {
    len.div_ceil(PAGE_BYTES)
}
