//! Where a file has data and where holes, as far as one thread has asked.

use std::fs::File;
use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use snapshot_format::PAGE_BYTES;

/// The stretch of a file that was looked at last: most faults are near the one before, and need no system call.
#[derive(Debug, Default)]
pub(super) struct Extents {
    pages: Range<u64>,
    is_hole: bool,
}

impl Extents {
    /// The end of the hole that a page is in, in pages. `None` when the page may have data, or the file ends before it: whoever
    /// reads it will see.
    pub(super) fn hole_at(&mut self, file: &File, page: u64) -> Option<u64> {
        if !self.pages.contains(&page) {
            self.look(file, page);
        }
        if !self.is_hole {
            return None;
        }
        // A hole that has been cut off since is no hole: what is behind the end is not zero, it is not known any more.
        let end = self.pages.end.min(whole_pages(file));
        (end > page).then_some(end)
    }

    /// The end of the stretch that was looked at last, in pages.
    pub(super) fn known_end(&self) -> u64 {
        self.pages.end
    }

    /// Finds out what is from a page on.
    fn look(&mut self, file: &File, page: u64) {
        // A file system or a device without holes, or a file that has become shorter: reading will tell.
        let (end, is_hole) = stretch(file, page).unwrap_or((u64::MAX, false));
        self.pages = page..end.max(page + 1);
        self.is_hole = is_hole;
    }
}

/// Where what begins at a page ends, and whether it is a hole. Only whole pages are a hole.
fn stretch(file: &File, page: u64) -> Result<(u64, bool), Errno> {
    let at = page.checked_mul(PAGE_BYTES).ok_or(Errno::EOVERFLOW)?;
    let data = match seek(file, at, Whence::SeekData) {
        Ok(data) => data / PAGE_BYTES,
        // No data any more. It may be that the file ends before the page: then this is empty.
        Err(Errno::ENXIO) => whole_pages(file),
        Err(errno) => return Err(errno),
    };
    if data > page {
        return Ok((data, true));
    }
    let hole = seek(file, at, Whence::SeekHole)?;
    Ok((hole.div_ceil(PAGE_BYTES), false))
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    // This moves the position of the file, which nobody uses: all reading is by position.
    let found = lseek(file, at, whence)?;
    u64::try_from(found).map_err(|_| Errno::EOVERFLOW)
}

/// Pages that a file has now.
fn whole_pages(file: &File) -> u64 {
    file.metadata()
        .map_or(0, |metadata| metadata.len() / PAGE_BYTES)
}
