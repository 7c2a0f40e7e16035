//! Writing a snapshot: pages in order in, a file out, in bounded memory, on as many threads as asked for.
//!
//! The caller's thread fills batches of up to 2 MiB; workers classify and compress them; a collector brings the results
//! into the order of the pages, writes the frames and builds the index. Frames are cut by page number alone, so the file
//! is the same whatever the number of threads and whatever their luck.

mod batch;
mod collect;
mod encode;
mod stream;
mod tail;
mod threads;
mod worker;

pub use collect::Summary;

use crate::codec::Compression;
use crate::entry::Content;
use crate::error::WriteError;
use crate::header::{MAX_FRAME_PAGES, SnapshotId};
use crate::metadata::Metadata;
use crate::page::{PAGE_SIZE, PageNo};
use crate::processes::Processes;
use crate::region::Region;
use crate::region_map::RegionMap;
use crate::section::{MAX_PARENT_PATH, ParentLayer};
use batch::{Batch, Job, MAX_BATCH_PAGES, RunKind, Said};
use std::fmt;
use std::io::{Seek, Write};
use std::path::PathBuf;
use threads::Threads;

/// How to write.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Codec, level and frame size.
    pub compression: Compression,
    /// Compressing threads, 1 to 1024 (0 is taken for 1). Each takes about 8 MiB.
    pub jobs: usize,
    /// Bytes of pages that may wait to be compressed; at least 2 MiB per thread are allowed whatever it says.
    pub buffer: u64,
    /// Where an index of more than 8 MiB waits until the frames are written; the system's temporary folder by default.
    pub spool_dir: PathBuf,
    /// The snapshot that pages of [`Writer::parent`] live in.
    pub parent: Option<ParentLayer>,
    /// Allocate and touch all of `buffer` at once, so that whoever is in a hurry to fill it does not wait for memory.
    pub touch_buffer: bool,
    /// Called by each compressing thread before its first work; to lower its priority, for example.
    pub on_thread_start: fn(),
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            compression: Compression::default(),
            jobs: 1,
            buffer: 0,
            spool_dir: std::env::temp_dir(),
            parent: None,
            touch_buffer: false,
            on_thread_start: || {},
        }
    }
}

/// Most compressing threads.
const MAX_JOBS: usize = 1024;

/// Writes a snapshot. Regions come one after the other, the pages of each in order.
pub struct Writer<W> {
    regions: RegionMap,
    parent: Option<ParentLayer>,
    processes: Option<Processes>,
    compression: Compression,
    /// Pages of the current region that have not come yet.
    pages_left: u64,
    /// While a stream is open: `pages_left` at its beginning.
    stream_pages: Option<u64>,
    batch_pages: usize,
    batch: Option<Batch>,
    threads: Threads<W>,
}

impl<W: Write + Seek + Send + 'static> Writer<W> {
    /// Begin a snapshot at the start of `out`, which should be empty.
    ///
    /// # Errors
    /// [`WriteError::Usage`] for options out of range, [`WriteError::Output`].
    pub fn new(mut out: W, options: WriterOptions) -> Result<Self, WriteError> {
        let compression = options.compression;
        if !(1..=MAX_FRAME_PAGES).contains(&compression.frame_pages) {
            return Err(WriteError::Usage(format!(
                "a frame of {} pages: 1 to {MAX_FRAME_PAGES} are possible",
                compression.frame_pages
            )));
        }
        if options.jobs > MAX_JOBS {
            return Err(WriteError::Usage(format!(
                "{} compressing threads: 1 to {MAX_JOBS} are possible",
                options.jobs
            )));
        }
        if let Some(parent) = &options.parent
            && parent.path.len() > MAX_PARENT_PATH
        {
            return Err(WriteError::Usage(format!(
                "the path of the parent is over {MAX_PARENT_PATH} bytes"
            )));
        }
        // Zeros until everything else is written: half a snapshot does not begin like one.
        out.write_all(&[0; PAGE_SIZE]).map_err(WriteError::Output)?;
        let threads = Threads::start(out, &options)?;
        let frame_pages = usize::from(compression.frame_pages);
        Ok(Self {
            regions: RegionMap::default(),
            parent: options.parent,
            processes: None,
            compression,
            pages_left: 0,
            stream_pages: None,
            batch_pages: MAX_BATCH_PAGES / frame_pages * frame_pages,
            batch: None,
            threads,
        })
    }

    /// The next pages are those of `region`. The last region must be complete.
    ///
    /// # Errors
    /// [`WriteError::Usage`] for a region that the format does not allow.
    pub fn begin_region(&mut self, region: Region) -> Result<(), WriteError> {
        if !self.is_complete() {
            return Err(usage("a region begins before the last one is complete"));
        }
        let pages = region.pages();
        if self.regions.pages().saturating_add(pages) > crate::header::MAX_PAGES {
            return Err(usage("the snapshot has more pages than the format allows"));
        }
        self.regions.push(region).map_err(usage)?;
        self.pages_left = pages;
        Ok(())
    }

    /// Room for the next pages of the region: at least one page, at most 2 MiB. What it holds is not defined.
    ///
    /// # Errors
    /// [`WriteError::Usage`] when the region is complete; the error that ended the writer's threads.
    pub fn space(&mut self) -> Result<&mut [u8], WriteError> {
        if self.pages_left == 0 {
            return Err(usage("the region has no more pages"));
        }
        let left = usize::try_from(self.pages_left).unwrap_or(usize::MAX);
        let batch_pages = self.batch_pages;
        let batch = self.batch()?;
        let end = batch_pages.min(batch.pages.saturating_add(left));
        Ok(&mut batch.bytes[batch.pages * PAGE_SIZE..end * PAGE_SIZE])
    }

    /// The first `pages` pages of [`Writer::space`] are the next pages of the region.
    ///
    /// # Errors
    /// [`WriteError::Usage`] when they are more than there was room for; the error that ended the writer's threads.
    pub fn commit(&mut self, pages: usize) -> Result<(), WriteError> {
        let room = self.space()?.len() / PAGE_SIZE;
        if pages > room {
            return Err(usage("more pages are committed than there was room for"));
        }
        self.push(RunKind::Data, pages)
    }

    /// The next `pages` pages of the region are zero.
    ///
    /// # Errors
    /// As for [`Writer::commit`].
    pub fn zeros(&mut self, pages: u64) -> Result<(), WriteError> {
        self.known(Said::Is(Content::Zero), pages)
    }

    /// The next `pages` pages of the region could not be read. They will never be served as zero.
    ///
    /// # Errors
    /// As for [`Writer::commit`].
    pub fn lost(&mut self, pages: u64) -> Result<(), WriteError> {
        self.known(Said::Is(Content::Lost), pages)
    }

    /// The next `pages` pages of the region are those of the parent snapshot from page `first` on.
    ///
    /// # Errors
    /// As for [`Writer::commit`]; [`WriteError::Usage`] when the parent does not have them.
    pub fn parent(&mut self, first: PageNo, pages: u64) -> Result<(), WriteError> {
        let parent_pages = self.parent.as_ref().map_or(0, |parent| parent.pages);
        match first.0.checked_add(pages) {
            Some(end) if end <= parent_pages => self.known(Said::Is(Content::Parent(first)), pages),
            _ => Err(usage("the parent snapshot does not have these pages")),
        }
    }

    /// The next `pages` pages of the region are those from page `first` of this snapshot on, all of which have been given
    /// before. What they are is in the file once: these pages take an entry of the index each, and no room in a frame.
    ///
    /// # Errors
    /// As for [`Writer::commit`]; [`WriteError::Usage`] when they have not all been given.
    pub fn repeat(&mut self, first: PageNo, pages: u64) -> Result<(), WriteError> {
        match first.0.checked_add(pages) {
            Some(end) if end <= self.given() => self.known(Said::As(first), pages),
            _ => Err(usage("pages are repeated that have not been given")),
        }
    }

    /// Which processes the regions belong to. May be said at any time; what was said last counts.
    pub fn processes(&mut self, processes: Processes) {
        self.processes = Some(processes);
    }

    /// Write index, region map and metadata, and at last the header. The output is not synced to disk.
    ///
    /// # Errors
    /// [`WriteError::Usage`] when the last region is not complete, or the processes are not those of the regions; any error
    /// on the way.
    pub fn finish(
        mut self,
        id: SnapshotId,
        metadata: &Metadata,
    ) -> Result<(W, Summary), WriteError> {
        if !self.is_complete() {
            return Err(usage("the last region is not complete"));
        }
        if let Some(processes) = &self.processes {
            let regions = self.regions.as_slice().len() as u64;
            processes.check(regions).map_err(usage)?;
        }
        let collected = self.threads.join()?;
        tail::write(
            collected,
            &tail::Tail {
                id,
                regions: &self.regions,
                metadata,
                parent: self.parent.as_ref(),
                processes: self.processes.as_ref(),
                max_frame_pages: self.compression.frame_pages,
            },
        )
    }

    /// No region and no stream waits for anything.
    fn is_complete(&self) -> bool {
        self.pages_left == 0 && self.stream_pages.is_none()
    }

    /// Pages that have been given, of all regions.
    fn given(&self) -> u64 {
        let whole = match self.stream_pages {
            Some(begun_with) => self.regions.pages() + begun_with,
            None => self.regions.pages(),
        };
        whole - self.pages_left
    }

    fn known(&mut self, said: Said, pages: u64) -> Result<(), WriteError> {
        if pages > self.pages_left {
            return Err(usage("more pages are given than the region has"));
        }
        let mut done = 0;
        while done < pages {
            let here = said.offset_by(done);
            let left = pages - done;
            let in_batch = self.batch.as_ref().map_or(0, |batch| batch.pages);
            let step = if in_batch == 0 && left >= self.batch_pages as u64 {
                // Whole batches of the same need no batch.
                let whole = left - left % self.batch_pages as u64;
                self.pages_left -= whole;
                self.threads.send(Job::Run(here, whole))?;
                whole
            } else {
                let room = (self.batch_pages - in_batch) as u64;
                let step = room.min(left);
                self.batch()?;
                self.push(
                    RunKind::Known(here),
                    usize::try_from(step).unwrap_or(usize::MAX),
                )?;
                step
            };
            done += step;
        }
        Ok(())
    }

    /// The batch being filled.
    fn batch(&mut self) -> Result<&mut Batch, WriteError> {
        if self.batch.is_none() {
            self.batch = Some(self.threads.batch()?);
        }
        self.batch.as_mut().ok_or(WriteError::Worker)
    }

    fn push(&mut self, kind: RunKind, pages: usize) -> Result<(), WriteError> {
        self.pages_left -= pages as u64;
        // A batch never reaches into the next region, so no frame does.
        let ended = self.pages_left == 0;
        let batch_pages = self.batch_pages;
        let batch = self.batch()?;
        batch.push(kind, pages);
        if ended || batch.pages == batch_pages {
            self.dispatch()?;
        }
        Ok(())
    }

    /// Give the batch being filled, if there is one, to the workers.
    fn dispatch(&mut self) -> Result<(), WriteError> {
        match self.batch.take() {
            Some(batch) => self.threads.send(Job::Batch(batch)),
            None => Ok(()),
        }
    }
}

fn usage(message: &str) -> WriteError {
    WriteError::Usage(message.into())
}

impl<W> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("pages", &self.regions.pages())
            .finish_non_exhaustive()
    }
}
