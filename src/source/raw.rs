//! Pages of a raw memory file, such as Firecracker's: page number N is at byte 4096 × N.

use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use snapshot_format::{PAGE_BYTES, PAGE_SIZE, PageNo, ReadAt};

use super::extents::Extents;
use super::{OpenError, PageReader, PageSource, ZEROS_AT_ONCE};
use crate::session::{Block, Piece, What};

/// Pages that are read together for a fault, aligned: as many as a lone fault may cost without being handed to the pool.
const WINDOW: u64 = 16;
/// A page of many takes less than half of this from the page cache, and more from a disk.
const FROM_A_DISK: Duration = Duration::from_micros(2);
/// Pages that take hardly longer than one, to read and to install.
const FEW: u64 = 4;

/// A raw memory file. It is read with `pread(2)`: a file that is truncated underneath is an error for the page that was there,
/// and neither a signal for everybody nor zeros. Nobody may write to it while it is served: nothing would notice.
#[derive(Debug, Clone)]
pub struct RawSource(Arc<RawFile>);

#[derive(Debug)]
struct RawFile {
    file: File,
    /// For errors.
    path: PathBuf,
    /// Pages it had when it was opened.
    pages: u64,
}

impl RawSource {
    /// The pages of an open file, or block device. `path` is what errors call it.
    ///
    /// # Errors
    /// [`OpenError::Empty`], [`OpenError::Length`] if its length is not a multiple of 4096, [`OpenError::Io`].
    pub fn new(file: File, path: &Path) -> Result<Self, OpenError> {
        let path = path.to_path_buf();
        match ReadAt::len(&file) {
            Ok(0) => Err(OpenError::Empty(path)),
            Ok(len) if !len.is_multiple_of(PAGE_BYTES) => Err(OpenError::Length { path, len }),
            Ok(len) => Ok(Self(Arc::new(RawFile {
                file,
                path,
                pages: len / PAGE_BYTES,
            }))),
            Err(source) => Err(OpenError::Io { path, source }),
        }
    }

    /// Pages of the file when it was opened.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.0.pages
    }
}

impl PageSource for RawSource {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(RawReader {
            raw: Arc::clone(&self.0),
            extents: Extents::default(),
            is_slow: true,
        })
    }

    fn granularity(&self) -> u64 {
        WINDOW
    }

    fn around(&self) -> u64 {
        FEW
    }
}

struct RawReader {
    raw: Arc<RawFile>,
    extents: Extents,
    /// What was read last came from a disk.
    is_slow: bool,
}

impl PageReader for RawReader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        block.pieces.clear();
        if needed > 1 {
            self.read_together(page.0..page.0.saturating_add(needed), block);
            return;
        }
        let page = page.0;
        if let Some(end) = self.hole_at(page) {
            let most = page.saturating_add(ZEROS_AT_ONCE).min(welcome.end);
            block.pieces.push(Piece {
                pages: page..end.min(most).max(page + 1),
                what: What::Zero,
            });
            return;
        }
        let window = window_of(page, welcome, self.raw.pages);
        let failures = self.raw.fill(&window, block);
        for other in window.clone() {
            let what = what_of(other, window.start, &failures, block);
            // A neighbour that cannot be read is nobody's business until somebody wants it.
            if other == page || !matches!(what, What::Bad(_)) {
                block.push(other, what);
            }
        }
    }

    /// Several threads that read different parts of a file in turn look to the kernel like somebody who reads at random.
    fn announce(&mut self, pages: &Range<u64>) {
        // Of what is in the page cache it would only take time to find that out.
        if !self.is_slow {
            return;
        }
        let [at, len] = [pages.start, pages.end.saturating_sub(pages.start)]
            .map(|pages| i64::try_from(pages.saturating_mul(PAGE_BYTES)).unwrap_or(i64::MAX));
        // What cannot be told so is read all the same.
        let _ = posix_fadvise(
            &self.raw.file,
            at,
            len,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        block.pieces.clear();
        // Every page has its place in the block, whatever it is.
        block.bytes.resize(byte_len(pages), 0);
        let mut page = pages.start;
        while page < pages.end {
            if let Some(end) = self.hole_at(page) {
                let end = end.min(pages.end);
                block.pieces.push(Piece {
                    pages: page..end,
                    what: What::Zero,
                });
                page = end;
                continue;
            }
            let data = page..self.end_of_data(page, pages.end);
            let room = byte_len(&(pages.start..page))..byte_len(&(pages.start..data.end));
            let room = block.bytes.get_mut(room).unwrap_or_default();
            let begun = Instant::now();
            let failures = self.raw.read(&data, room);
            let pages_read = u32::try_from(data.end - data.start).unwrap_or(u32::MAX);
            self.is_slow = begun.elapsed() > FROM_A_DISK.saturating_mul(pages_read);
            for page in data.clone() {
                let what = what_of(page, pages.start, &failures, block);
                block.push(page, what);
            }
            page = data.end;
        }
    }
}

impl RawReader {
    /// The end of the hole that a page of the file is in.
    fn hole_at(&mut self, page: u64) -> Option<u64> {
        let exists = page < self.raw.pages;
        let end = exists.then(|| self.extents.hole_at(&self.raw.file, page))??;
        Some(end.min(self.raw.pages))
    }

    /// How far to read from a page that is in no hole, `most` at most.
    fn end_of_data(&self, page: u64, most: u64) -> u64 {
        self.extents.known_end().min(most).max(page + 1)
    }

    /// Pages that must come as one piece: all zero, or all with their bytes. One that is bad makes all bad.
    fn read_together(&mut self, pages: Range<u64>, block: &mut Block) {
        let in_hole = self
            .hole_at(pages.start)
            .is_some_and(|end| end >= pages.end);
        let what = if in_hole {
            What::Zero
        } else {
            match self.raw.fill(&pages, block).into_iter().next() {
                Some(failure) => What::Bad(failure.why),
                None if is_zero(&block.bytes) => What::Zero,
                None => What::Bytes(0),
            }
        };
        block.pieces.push(Piece { pages, what });
    }
}

/// Pages that cannot be read.
struct ReadFailure {
    pages: Range<u64>,
    why: String,
}

impl RawFile {
    /// Makes the bytes of a block those of some pages. Returns which of them it could not read, whose bytes are anything.
    fn fill(&self, pages: &Range<u64>, block: &mut Block) -> Vec<ReadFailure> {
        // Not cleared first: that would write every byte twice.
        block.bytes.resize(byte_len(pages), 0);
        self.read(pages, &mut block.bytes)
    }

    /// Reads pages into a buffer of their length. Returns which of them it could not read, whose bytes are anything. With
    /// nothing to return, nothing is allocated.
    fn read(&self, pages: &Range<u64>, buffer: &mut [u8]) -> Vec<ReadFailure> {
        let mut failures = Vec::new();
        let existing = pages.end.min(self.pages).max(pages.start);
        let len = byte_len(&(pages.start..existing));
        let mut done = 0;
        while done < len {
            let at = pages.start * PAGE_BYTES + done as u64;
            let page = at / PAGE_BYTES;
            let room = buffer.get_mut(done..len).unwrap_or_default();
            match self.file.read_at(room, at) {
                Ok(0) => {
                    failures.push(ReadFailure {
                        pages: page..existing,
                        why: format!(
                            "{:?} ends before byte {at}, so it was truncated while it was open",
                            self.path
                        ),
                    });
                    break;
                }
                Ok(read) => done += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    failures.push(ReadFailure {
                        pages: page..page + 1,
                        why: format!("cannot read {:?} at byte {at}: {error}", self.path),
                    });
                    // What is behind it may be good.
                    done = byte_len(&(pages.start..page + 1));
                }
            }
        }
        if existing < pages.end {
            failures.push(ReadFailure {
                pages: existing..pages.end,
                why: format!("{:?} has only {} pages", self.path, self.pages),
            });
        }
        failures
    }
}

/// The pages to read for one that is wanted: all of its window that is welcome and exists.
fn window_of(page: u64, welcome: &Range<u64>, pages: u64) -> Range<u64> {
    let first = page / WINDOW * WINDOW;
    let window = first.max(welcome.start)..first.saturating_add(WINDOW).min(welcome.end).min(pages);
    if window.contains(&page) {
        window
    } else {
        page..page + 1
    }
}

/// What a page is that was read into a block whose bytes begin with page `first`.
fn what_of(page: u64, first: u64, failures: &[ReadFailure], block: &Block) -> What {
    if let Some(failure) = failures
        .iter()
        .find(|failure| failure.pages.contains(&page))
    {
        return What::Bad(failure.why.clone());
    }
    let offset = byte_len(&(first..page));
    match block.bytes.get(offset..offset + PAGE_SIZE) {
        Some(bytes) if is_zero(bytes) => What::Zero,
        Some(_) => What::Bytes(offset),
        None => What::Bad("there is no room for it".into()),
    }
}

/// Eight words at a time, which is made into vector instructions; most pages that are not zero are found out by the first.
fn is_zero(bytes: &[u8]) -> bool {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let any = |bytes: &[u8]| bytes.iter().fold(0, |any, byte| any | byte);
    chunks.iter().all(|chunk| any(chunk) == 0) && any(rest) == 0
}

/// Bytes of some pages.
fn byte_len(pages: &Range<u64>) -> usize {
    let pages = pages.end.saturating_sub(pages.start);
    usize::try_from(pages)
        .unwrap_or(usize::MAX)
        .saturating_mul(PAGE_SIZE)
}

#[cfg(test)]
mod tests;
