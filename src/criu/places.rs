//! Where the memory of a process of a dump is in a snapshot.

use std::ops::Range;

use snapshot_format::{PAGE_BYTES, PageNo, PlacedRegion};

/// Addresses and the number of the first page of each region, ascending.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Places(Vec<(Range<u64>, u64)>);

impl Places {
    /// Those of a process's regions.
    #[must_use]
    pub fn of(regions: &[PlacedRegion]) -> Self {
        let place = |region: &PlacedRegion| {
            let start = region.region.start;
            (start..start + region.region.len, region.first_page.0)
        };
        let mut places: Vec<_> = regions.iter().map(place).collect();
        places.sort_unstable_by_key(|(addresses, _)| addresses.start);
        Self(places)
    }

    /// The page at an address, and how many pages from it on follow it in the snapshot.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(PageNo, u64)> {
        let behind = self
            .0
            .partition_point(|(addresses, _)| addresses.start <= address);
        let (addresses, first) = self.0.get(behind.checked_sub(1)?)?;
        let into = (address - addresses.start) / PAGE_BYTES;
        let left = addresses.end.saturating_sub(address) / PAGE_BYTES;
        (left > 0).then_some((PageNo(first + into), left))
    }
}
