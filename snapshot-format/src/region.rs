//! A region: one mapping of the source's address space (or one range of a raw memory file).

use crate::page::pages_for;

/// How the memory of a region was mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RegionKind {
    /// Private memory: anonymous, heap, or a private file mapping.
    Private,
    /// Shared memory: `MAP_SHARED|MAP_ANONYMOUS`, memfd, tmpfs file.
    Shared,
    /// Memory of hugetlbfs, private or shared.
    Hugetlb,
    /// The stack of the main thread (`[stack]`, grows down).
    Stack,
    /// A range of a raw memory file; `start` is the offset in that file.
    Raw,
}

/// The size of the pages that the region's mapping was made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB (hugetlbfs).
    Huge2M,
}

impl PageSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Small => 1 << 12,
            Self::Huge2M => 1 << 21,
        }
    }
}

/// Access rights of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Protection {
    /// `PROT_READ`.
    pub read: bool,
    /// `PROT_WRITE`.
    pub write: bool,
    /// `PROT_EXEC`.
    pub exec: bool,
}

/// A mapping at capture time, or a range of a raw memory file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Address of the first byte in the source's address space; for [`RegionKind::Raw`] the offset in the raw file.
    pub start: u64,
    /// Length in bytes. A multiple of the page size, except that a raw range may end in the middle of a page.
    pub len: u64,
    /// Offset of the mapping in the file behind it, in bytes; 0 for anonymous memory.
    pub offset: u64,
    /// Access rights.
    pub protection: Protection,
    /// What kind of memory.
    pub kind: RegionKind,
    /// True for `MAP_SHARED`.
    pub shared: bool,
    /// Page size of the mapping.
    pub page_size: PageSize,
    /// The mapping's name as in `/proc/PID/maps`, possibly empty; bytes that are not UTF-8 are replaced by U+FFFD.
    pub name: String,
}

impl Region {
    /// A range of a raw memory file.
    #[must_use]
    pub fn raw(offset: u64, len: u64) -> Self {
        Self {
            start: offset,
            len,
            offset,
            protection: Protection {
                read: true,
                write: true,
                exec: false,
            },
            kind: RegionKind::Raw,
            shared: false,
            page_size: PageSize::Small,
            name: String::new(),
        }
    }

    /// Pages of 4 KiB that the region takes in a snapshot; the last one of a raw range may be partly used.
    #[must_use]
    pub const fn pages(&self) -> u64 {
        pages_for(self.len)
    }
}

impl std::fmt::Display for Protection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (set, letter) in [(self.read, 'r'), (self.write, 'w'), (self.exec, 'x')] {
            write!(f, "{}", if set { letter } else { '-' })?;
        }
        Ok(())
    }
}
