//! What a capture tells about itself while it runs and when it is done.

use std::time::Duration;

use snapshot_format::Region;

use super::identity::TargetIdentity;

/// Something that happened during a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The target stands still and the memory to capture is known. Comes once, first.
    Planned {
        /// Regions to capture.
        regions: usize,
        /// Pages of 4 KiB in them, whether or not they have content.
        pages: u64,
    },
    /// So many more pages are done (copied, found to be zero, or lost). The numbers sum to that of `Planned`.
    Pages(u64),
    /// All memory has been read and the target runs again (or is stopped, if that was asked for).
    Released,
}

/// How many pages of 4 KiB were what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageCounts {
    /// Pages that were read. They may contain zeros only.
    pub content: u64,
    /// Pages known to be zero without having been read.
    pub zero: u64,
    /// Pages whose content is gone: poisoned, or lost to a memory error.
    pub lost: u64,
}

/// A run of pages whose content is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostPages {
    /// Index of the region, in [`Report::regions`].
    pub region: usize,
    /// Address of the first page.
    pub address: u64,
    /// Number of pages of 4 KiB.
    pub pages: u64,
}

/// The result of a capture.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whose memory it is.
    pub target: TargetIdentity,
    /// How long the target stood still: from the first interrupt to the last detach.
    pub stood_still: Duration,
    /// Threads that were stopped.
    pub threads: usize,
    /// The regions captured, in address order.
    pub regions: Vec<Region>,
    /// All pages of all regions.
    pub pages: PageCounts,
    /// Where the lost pages are: the first [`Report::LISTED_LOST`] runs.
    pub lost: Vec<LostPages>,
}

impl Report {
    /// At most so many runs are in [`Report::lost`]; [`PageCounts::lost`] counts all.
    pub const LISTED_LOST: usize = 64;
}
