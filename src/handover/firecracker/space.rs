//! From a VM's regions and a snapshot to what is owed: pure.

use bytesize::ByteSize;
use snapshot_format::{PAGE_BYTES, PageNo};

use super::region::{self, Region, RegionError};
use crate::space::{AddressSpace, Kind};

/// Why the snapshot cannot be that of this VM. Nothing has been done to it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatchError {
    /// The regions contradict themselves.
    #[error(transparent)]
    Region(#[from] RegionError),
    /// Another amount of memory.
    #[error(
        "the VM has {vm} bytes of memory ({}) and the snapshot has {snapshot} ({}): it is not a snapshot of this VM's memory: give \
         the one that was packed from the memory file that belongs to the VM state (snapshot_path), a full snapshot",
        people(*vm), people(*snapshot)
    )]
    Size {
        /// Bytes of the VM.
        vm: u64,
        /// Bytes of the snapshot.
        snapshot: u64,
    },
    /// A region that goes on behind the end of the snapshot.
    #[error(
        "region {region} of the VM ends at byte {end} ({}) of its memory file and the snapshot has {snapshot} bytes ({}): it is not a \
         snapshot of this VM's memory: give the one that was packed from the memory file that belongs to the VM state",
        people(*end), people(*snapshot)
    )]
    Outside {
        /// The region, numbered from 1.
        region: usize,
        /// One past its last byte in the memory file.
        end: u64,
        /// Bytes of the snapshot.
        snapshot: u64,
    },
}

/// What a snapshot of `pages_of_snapshot` pages (of 4 KiB) owes a VM with these regions: all of itself, each region from its offset
/// on. The peer has registered them already.
///
/// # Errors
/// [`MatchError`] when the snapshot is not as long as the VM's memory, or not all of that lies in it.
pub fn address_space(
    regions: &[Region],
    pages_of_snapshot: u64,
) -> Result<AddressSpace, MatchError> {
    region::check(regions)?;
    let snapshot = pages_of_snapshot.saturating_mul(PAGE_BYTES);
    // Regions do not overlap, so their sum is a number.
    let vm = regions.iter().map(|region| region.size).sum();
    if vm != snapshot {
        return Err(MatchError::Size { vm, snapshot });
    }
    for (number, region) in (1..).zip(regions) {
        let end = region.offset + region.size;
        if end > snapshot {
            return Err(MatchError::Outside {
                region: number,
                end,
                snapshot,
            });
        }
    }
    Ok(owed_everything(regions))
}

/// What regions are owed by a snapshot that has all of their memory.
#[must_use]
pub fn owed_everything(regions: &[Region]) -> AddressSpace {
    let mut space = AddressSpace::new();
    for region in regions {
        let kind = Kind {
            page_bytes: region.page_bytes,
            ..Kind::PRIVATE
        };
        space.register(region.addresses(), kind);
        space.owe(region.addresses(), PageNo(region.offset / PAGE_BYTES));
    }
    space
}

fn people(bytes: u64) -> String {
    ByteSize(bytes).display().iec().to_string()
}
