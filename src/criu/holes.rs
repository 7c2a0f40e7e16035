//! Lazy pages that were taken out of their files.

use std::ops::Range;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use snapshot_format::PAGE_BYTES;

use super::{Images, ImagesError, PagesFile};

impl Images {
    /// Refuses images some of whose lazy pages lie in holes of their files: they were delivered and then taken out (`--auto-dedup`), or
    /// the file is a sparse copy.
    ///
    /// # Errors
    /// [`ImagesError::Holes`], [`ImagesError::Io`].
    pub fn refuse_holes(&self) -> Result<(), ImagesError> {
        for (file, used) in self.files.iter().zip(self.used()) {
            let holes = holes_among(file, &used).map_err(|errno| ImagesError::Io {
                doing: "find the holes of",
                path: file.path.clone(),
                source: errno.into(),
            })?;
            if let Some(first) = holes.first {
                return Err(ImagesError::Holes {
                    path: file.path.clone(),
                    pages: holes.pages,
                    first,
                });
            }
        }
        Ok(())
    }

    /// The pages of each file that lazy runs lie in, ascending.
    fn used(&self) -> Vec<Vec<Range<u64>>> {
        let mut used = vec![Vec::new(); self.files.len()];
        let runs = self.processes.iter().flat_map(|process| &process.lazy);
        for run in runs {
            if let Some(stored) = run.stored
                && let Some(used) = used.get_mut(stored.file)
            {
                used.push(stored.page..stored.page.saturating_add(run.at.len() / PAGE_BYTES));
            }
        }
        for used in &mut used {
            used.sort_unstable_by_key(|pages: &Range<u64>| pages.start);
        }
        used
    }
}

/// Pages in holes.
#[derive(Debug, Default)]
struct Holes {
    pages: u64,
    first: Option<u64>,
}

/// Those of the used pages that are in a hole, or partly in one.
fn holes_among(file: &PagesFile, used: &[Range<u64>]) -> Result<Holes, Errno> {
    let mut found = Holes::default();
    let mut hole = 0..0;
    // Not twice what two processes use.
    let mut done = 0;
    for used in used {
        let mut page = used.start.max(done);
        while page < used.end {
            if page >= hole.end {
                hole = next_hole(file, page)?;
            }
            let start = hole.start.max(page);
            let end = hole.end.min(used.end);
            if start < end {
                found.pages += end - start;
                found.first.get_or_insert(start);
            }
            page = end.max(page + 1);
        }
        done = done.max(used.end);
    }
    Ok(found)
}

/// The next hole at or behind a page. The end of the file is one.
fn next_hole(file: &PagesFile, page: u64) -> Result<Range<u64>, Errno> {
    let Some(start) = seek(file, page.saturating_mul(PAGE_BYTES), Whence::SeekHole)? else {
        return Ok(page..u64::MAX);
    };
    let end = seek(file, start, Whence::SeekData)?;
    let first = (start / PAGE_BYTES).max(page);
    Ok(first..end.map_or(u64::MAX, |end| end.div_ceil(PAGE_BYTES)))
}

/// `None` when there is no such place before the end of the file.
fn seek(file: &PagesFile, at: u64, whence: Whence) -> Result<Option<u64>, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    // This moves the position of the file, which nobody uses: all reading is by position.
    match lseek(&file.file, at, whence) {
        Ok(found) => u64::try_from(found).map(Some).map_err(|_| Errno::EOVERFLOW),
        Err(Errno::ENXIO) => Ok(None),
        Err(errno) => Err(errno),
    }
}
