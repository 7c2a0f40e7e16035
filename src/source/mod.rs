//! Where the pages of a restore come from.
//!
//! | file          | holds                                                    |
//! |---------------|----------------------------------------------------------|
//! | `snapshot.rs` | [`SnapshotSource`]: a snapshot file                      |

mod snapshot;

use std::ops::Range;

use snapshot_format::PageNo;

pub use snapshot::SnapshotSource;

use crate::session::Block;

/// Pages by number, for several threads.
pub trait PageSource: Send + Sync {
    /// One thread's way to read pages.
    fn reader(&self) -> Box<dyn PageReader>;

    /// Pages that come together, at most: reading one page costs decoding so many.
    fn granularity(&self) -> u64;
}

/// One thread's way to read pages.
pub trait PageReader: Send {
    /// Puts into `block` the `needed` pages from `page` on, as one piece, and with them what costs nothing more, as far as it
    /// is `welcome`. A page that cannot be had is [`crate::session::What::Bad`]. Nothing is allocated once the block has grown.
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block);

    /// Puts all pages of a range into `block`.
    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block);
}
