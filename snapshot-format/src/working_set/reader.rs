//! An open working set: header and frame table.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::header::{HEADER_LEN, Header};
use super::history::{History, Touched};
use super::opening::{check_table, read_table, too_short};
use super::tables::{Entry, Kind, MAX_ENTRY_PAGES, RUN_LEN, Run, decode_run};
use crate::codec::checksum;
use crate::entry::FrameRef;
use crate::error::{Error, Place};
use crate::header::SnapshotId;
use crate::page::{PAGE_SIZE, PageNo};
use crate::snapshot::Snapshot;
use crate::storage::ReadAt;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// An open working set, shared by all threads. Content is read through [`Frames`](super::Frames), one per thread.
pub struct WorkingSet<S> {
    storage: S,
    header: Header,
    /// Those that are replayed, and then those of faded pages.
    entries: Vec<Entry>,
}

/// Room for the runs of any entry.
const RUNS_ROOM: usize = RUN_LEN * MAX_ENTRY_PAGES as usize;

impl<S: ReadAt> WorkingSet<S> {
    /// Open a working set. Reads and checks the header and the frame table, and takes 40 bytes of memory for each frame.
    ///
    /// # Errors
    /// Every variant that says what is wrong with a file.
    pub fn open(storage: S) -> Result<Self, Error> {
        let at_header = |source| Error::read(Place::Header, source);
        let actual = storage.len().map_err(at_header)?;
        if actual < HEADER_LEN {
            return Err(too_short(&storage, actual));
        }
        let mut bytes = [0; PAGE_SIZE];
        storage.read_exact_at(&mut bytes, 0).map_err(at_header)?;
        let header = Header::decode(&bytes)?;
        let expected = header.file_len().unwrap_or(u64::MAX);
        if actual < expected {
            return Err(Error::Truncated { expected, actual });
        }
        let entries = read_table(&storage, &header)?;
        check_table(&header, &entries)?;
        Ok(Self {
            storage,
            header,
            entries,
        })
    }

    /// The snapshot that the set belongs to.
    pub fn snapshot(&self) -> SnapshotId {
        self.header.snapshot
    }

    /// True when the set belongs to this very file, and not to another one that was given the same id.
    pub fn belongs_to<T: ReadAt>(&self, snapshot: &Snapshot<T>) -> bool {
        let its = (self.header.snapshot, self.header.snapshot_checksum);
        its == (snapshot.id(), snapshot.header_checksum())
    }

    /// Recordings that the set knows of, 1 to 8.
    pub fn recordings(&self) -> u8 {
        self.header.recordings
    }

    /// Pages that are replayed: those with content and those that are zero.
    pub fn pages(&self) -> u64 {
        self.header.pages
    }

    /// Those of [`WorkingSet::pages`] that are zero.
    pub fn zero_pages(&self) -> u64 {
        self.header.zero_pages
    }

    /// Pages that are remembered but not replayed.
    pub fn faded_pages(&self) -> u64 {
        self.header.faded_pages
    }

    /// Frames; each has something to replay.
    pub fn frames(&self) -> usize {
        self.replayed().len()
    }

    /// Most pages of content in a frame.
    pub fn max_frame_pages(&self) -> u16 {
        let pages = self.replayed().iter().map(|entry| entry.frame.pages);
        pages.max().unwrap_or(0)
    }

    /// Bytes of the file, as its header says.
    pub fn file_len(&self) -> u64 {
        self.header.file_len().unwrap_or(u64::MAX)
    }

    /// The bytes of the file that frames lie in, in the order of replay: what to read ahead.
    pub fn frames_at(&self) -> Range<u64> {
        self.header.frames_at()
    }

    /// How the content of a frame is stored; of 0 pages when it has only zero pages. Its offset is that in the file. None
    /// when there is no such frame.
    pub fn stored(&self, frame: usize) -> Option<FrameRef> {
        self.replayed().get(frame).map(|entry| entry.frame)
    }

    /// The runs of a frame, in the order of their content. `runs` is cleared first; nothing is allocated when it has room.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Read`] naming the runs, [`Error::NoSuchFrame`]; `runs` is then empty.
    pub fn runs(&self, frame: usize, runs: &mut Vec<Run>) -> Result<(), Error> {
        runs.clear();
        let read = self
            .entry(frame)
            .and_then(|entry| self.each_run(frame, entry, false, |run| runs.push(run)));
        read.inspect_err(|_| runs.clear())
    }

    /// Everything that is known of the pages, faded ones included. Takes memory for each page.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Read`] naming the place.
    pub fn history(&self) -> Result<History, Error> {
        let (mut pages, mut known) = (Vec::new(), HashSet::new());
        let mut twice = false;
        for (number, entry) in self.entries.iter().enumerate() {
            let faded = number >= self.frames();
            self.each_run(number, entry, faded, |run| {
                for page in run.pages.map(PageNo) {
                    twice |= !known.insert(page);
                    pages.push(Touched {
                        page,
                        after_us: run.after_us,
                        seen: run.seen,
                    });
                }
            })?;
            let corrupt = |what| Error::corrupt(Place::Runs(number), what);
            if twice {
                return Err(corrupt("a page is there twice"));
            }
            // Before memory is taken for more pages than the header allows.
            let expected = if faded {
                self.header.pages.saturating_add(self.header.faded_pages)
            } else {
                self.header.pages
            };
            if pages.len() as u64 > expected {
                return Err(corrupt("there are more pages than the header says"));
            }
            if number.saturating_add(1) == self.frames() && pages.len() as u64 != expected {
                return Err(corrupt("there are fewer pages than the header says"));
            }
        }
        let all = self.header.pages.saturating_add(self.header.faded_pages);
        // That as many are zero as it says follows: the content has been counted when the set was opened.
        if pages.len() as u64 != all {
            return Err(Error::corrupt(
                Place::Header,
                "the pages are not as many as the runs have",
            ));
        }
        Ok(History::of_file(self.header.recordings, pages))
    }

    /// The storage behind the set.
    pub fn storage(&self) -> &S {
        &self.storage
    }

    /// The entry of a frame that is replayed.
    pub(super) fn entry(&self, frame: usize) -> Result<&Entry, Error> {
        let frames = self.frames();
        let entry = self.replayed().get(frame);
        entry.ok_or(Error::NoSuchFrame { frame, frames })
    }

    fn replayed(&self) -> &[Entry] {
        let frames = usize::try_from(self.header.frames).unwrap_or(usize::MAX);
        self.entries.get(..frames).unwrap_or(&self.entries)
    }

    /// Read, check and give out the runs of an entry.
    fn each_run(
        &self,
        number: usize,
        entry: &Entry,
        faded: bool,
        mut each: impl FnMut(Run),
    ) -> Result<(), Error> {
        let place = Place::Runs(number);
        let corrupt = |what| Error::corrupt(place, what);
        let mut room = [0; RUNS_ROOM];
        let bytes = room
            .get_mut(..RUN_LEN.saturating_mul(entry.runs.into()))
            .ok_or_else(|| corrupt("there are more than 512"))?;
        self.storage
            .read_exact_at(bytes, self.header.run_at(entry.first_run))
            .map_err(|source| Error::read(place, source))?;
        if checksum(bytes) ^ u64::from(entry.first_run) != entry.runs_checksum {
            return Err(corrupt("the checksum does not match"));
        }
        let (mut content, mut all) = (0u64, 0u64);
        for bytes in bytes.as_chunks::<RUN_LEN>().0 {
            let (run, kind) = decode_run(bytes, self.header.recordings).map_err(corrupt)?;
            if faded != (kind == Kind::Faded) {
                return Err(corrupt("faded pages and others are mixed up"));
            }
            all = all.saturating_add(run.count());
            if kind == Kind::Content {
                content = content.saturating_add(run.count());
            }
            if all > MAX_ENTRY_PAGES.into() {
                return Err(corrupt("there are more than 512 pages"));
            }
            each(run);
        }
        if content == u64::from(entry.frame.pages) {
            Ok(())
        } else {
            Err(corrupt("the content is not that of as many pages"))
        }
    }
}

impl<S> fmt::Debug for WorkingSet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkingSet")
            .field("header", &self.header)
            .finish_non_exhaustive()
    }
}
