//! A region of a VM's memory, as a VMM describes it, and what must hold of all regions of a VM: pure.

use std::ops::Range;

use snapshot_format::PAGE_BYTES;

use crate::addr::{Addr, AddrRange};

/// Bytes of a page of hugetlbfs, of the smaller size.
pub(super) const HUGE: u64 = 2 << 20;
/// Bytes of a page of hugetlbfs, of the larger size.
const GIGANTIC: u64 = 1 << 30;

/// The end of the largest address space that a process can have: x86-64 with five levels of page tables, without the last page.
const USER_END: u64 = (1 << 56) - PAGE_BYTES;

/// Memory of a VM that lies in one piece in the VMM and in the memory file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it starts in the VMM's address space.
    pub base: Addr,
    /// Its length in bytes.
    pub size: u64,
    /// Where it starts in the file of the VM's memory, in bytes. Not a guest's physical address.
    pub offset: u64,
    /// Bytes in a page of the mapping: 4 KiB, or 2 MiB of hugetlbfs.
    pub page_bytes: u64,
}

impl Region {
    /// Its addresses in the VMM.
    #[must_use]
    pub const fn addresses(&self) -> AddrRange {
        AddrRange::at(self.base, self.size)
    }

    const fn offsets(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.size)
    }
}

/// What is wrong with the regions of a VM. They are numbered from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegionError {
    /// Pages of 1 GiB.
    #[error(
        "region {region}: {field} is {GIGANTIC}: pages of 1 GiB cannot be restored lazily, a single fault would take seconds: \
         let the VM use pages of 2 MiB"
    )]
    Gigantic {
        /// The region.
        region: usize,
        /// What said so.
        field: &'static str,
    },
    /// A page size that does not exist.
    #[error("region {region}: {field} is {value}: pages have {PAGE_BYTES} or {HUGE} bytes")]
    PageSize {
        /// The region.
        region: usize,
        /// What said so.
        field: &'static str,
        /// Bytes.
        value: u64,
    },
    /// All regions of a VM have pages of one size.
    #[error(
        "region {region}: its pages have {value} bytes, those of region 1 have {first}: the regions of a VM have the same"
    )]
    Mixed {
        /// The region.
        region: usize,
        /// Bytes in its pages.
        value: u64,
        /// Bytes in those of the first region.
        first: u64,
    },
    /// A region without memory.
    #[error("region {region}: size is 0: a region has at least a page")]
    Empty {
        /// The region.
        region: usize,
    },
    /// Not a multiple of the page size.
    #[error(
        "region {region}: {field} is {value}, which is not a multiple of its page size, {page_bytes} bytes"
    )]
    Unaligned {
        /// The region.
        region: usize,
        /// What is not.
        field: &'static str,
        /// Its value, in bytes.
        value: u64,
        /// Bytes in a page.
        page_bytes: u64,
    },
    /// No process can have memory there.
    #[error(
        "region {region}: base_host_virt_addr is {base} and size is {size}: no process has memory behind {end:#x}",
        end = USER_END
    )]
    TooHigh {
        /// The region.
        region: usize,
        /// Where it starts.
        base: u64,
        /// Bytes.
        size: u64,
    },
    /// No file is that long.
    #[error("region {region}: offset is {offset} and size is {size}: no file is that long")]
    TooFar {
        /// The region.
        region: usize,
        /// Where it starts in the file.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// Two regions have the same memory.
    #[error(
        "regions {first} and {second} overlap: {field} {} and {}, sizes {} and {}", values.0, values.1, sizes.0, sizes.1
    )]
    Overlap {
        /// A region.
        first: usize,
        /// Another one.
        second: usize,
        /// In what they do.
        field: &'static str,
        /// Where both start.
        values: (u64, u64),
        /// Their lengths in bytes.
        sizes: (u64, u64),
    },
}

/// Checks a page size.
pub(super) fn page_size(
    region: usize,
    field: &'static str,
    value: u64,
) -> Result<u64, RegionError> {
    match value {
        PAGE_BYTES | HUGE => Ok(value),
        GIGANTIC => Err(RegionError::Gigantic { region, field }),
        _ => Err(RegionError::PageSize {
            region,
            field,
            value,
        }),
    }
}

/// Checks each region, and all of them together.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(regions: &[Region]) -> Result<(), RegionError> {
    for (region, it) in (1..).zip(regions) {
        check_one(region, it)?;
        let first = regions[0].page_bytes;
        if it.page_bytes != first {
            let value = it.page_bytes;
            return Err(RegionError::Mixed {
                region,
                value,
                first,
            });
        }
    }
    apart(regions, "base_host_virt_addr", |region| {
        region.base.0..region.addresses().end.0
    })?;
    apart(regions, "offset", Region::offsets)
}

fn check_one(region: usize, it: &Region) -> Result<(), RegionError> {
    let Region {
        base,
        size,
        offset,
        page_bytes,
    } = *it;
    page_size(region, "page_size", page_bytes)?;
    if size == 0 {
        return Err(RegionError::Empty { region });
    }
    for (field, value) in [
        ("base_host_virt_addr", base.0),
        ("size", size),
        ("offset", offset),
    ] {
        if !value.is_multiple_of(page_bytes) {
            return Err(RegionError::Unaligned {
                region,
                field,
                value,
                page_bytes,
            });
        }
    }
    let end = base.0.checked_add(size);
    if end.is_none_or(|end| end > USER_END) {
        let base = base.0;
        return Err(RegionError::TooHigh { region, base, size });
    }
    let end = offset.checked_add(size);
    // Of the type of offsets, off_t.
    if end.is_none_or(|end| i64::try_from(end).is_err()) {
        return Err(RegionError::TooFar {
            region,
            offset,
            size,
        });
    }
    Ok(())
}

/// No two regions have anything in common of what `of` says.
fn apart(
    regions: &[Region],
    field: &'static str,
    of: impl Fn(&Region) -> Range<u64>,
) -> Result<(), RegionError> {
    let mut sorted: Vec<(usize, Range<u64>)> = (1..).zip(regions.iter().map(of)).collect();
    sorted.sort_by_key(|(_, range)| range.start);
    for pair in sorted.windows(2) {
        let [(first, a), (second, b)] = pair else {
            continue;
        };
        if b.start < a.end {
            return Err(RegionError::Overlap {
                first: *first,
                second: *second,
                field,
                values: (a.start, b.start),
                sizes: (a.end - a.start, b.end - b.start),
            });
        }
    }
    Ok(())
}
