//! Where the pages of a restore come from.
//!
//! | file          | holds                                                    |
//! |---------------|----------------------------------------------------------|
//! | `opened.rs`   | [`open`]: what a file is, by its first bytes             |
//! | `snapshot.rs` | [`SnapshotSource`]: a snapshot file                      |
//! | `frames.rs`   | [`FrameCache`]: decoded frames, shared                   |
//! | `raw.rs`      | [`RawSource`]: memory as it is, without a format         |
//! | `joined.rs`   | [`JoinedSource`]: several of those, one behind the other |
//! | `extents.rs`  | where a file has data and where holes                    |

mod extents;
mod frames;
mod joined;
mod opened;
mod raw;
mod snapshot;

use std::ops::Range;

use snapshot_format::PageNo;

pub use frames::{CacheCounts, FrameCache};
pub use joined::JoinedSource;
pub use opened::{FileKind, OpenError, Opened, open};
pub use raw::RawSource;
pub use snapshot::SnapshotSource;

use crate::session::Block;

/// Zero pages that are given with one that is wanted: at a tenth of a microsecond each they cost less than a fault.
const ZEROS_AT_ONCE: u64 = 32;

/// Pages by number, for several threads.
pub trait PageSource: Send + Sync {
    /// One thread's way to read pages.
    fn reader(&self) -> Box<dyn PageReader>;

    /// Pages that come together, at most: reading one page costs decoding so many.
    fn granularity(&self) -> u64;

    /// Pages around a wanted one, aligned, that come with it for nothing.
    fn around(&self) -> u64 {
        self.granularity()
    }
}

/// One thread's way to read pages.
pub trait PageReader: Send {
    /// Puts into `block` the `needed` pages from `page` on, as one piece, and with them what costs nothing more, as far as it
    /// is `welcome`. A page that cannot be had is [`crate::session::What::Bad`]. Nothing is allocated once the block has grown, except what a cache is
    /// to keep.
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block);

    /// All pages of a range are about to be read, part by part: where that helps, reading begins.
    fn announce(&mut self, _pages: &Range<u64>) {}

    /// Puts all pages of a range into `block`.
    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block);
}
