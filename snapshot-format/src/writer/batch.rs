//! Pages on their way to a worker.

use crate::entry::Content;
use crate::header::MAX_FRAME_PAGES;
use crate::page::{PAGE_SIZE, PageNo};

/// Most pages of a batch.
pub(super) const MAX_BATCH_PAGES: usize = MAX_FRAME_PAGES as usize;

/// What is said of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// What it is.
    Is(Content),
    /// It is what this earlier page is.
    As(PageNo),
}

impl Said {
    /// What is said of the page `pages` behind one of which this is said, in the same run.
    pub(super) fn offset_by(self, pages: u64) -> Self {
        match self {
            Self::Is(content) => Self::Is(content.offset_by(pages)),
            Self::As(first) => Self::As(PageNo(first.0.saturating_add(pages))),
        }
    }
}

/// What is known of a run of pages of a batch before anyone has looked at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunKind {
    /// The batch's memory holds their bytes.
    Data,
    /// This, without looking; never a frame.
    Known(Said),
}

/// Consecutive pages of one region, starting at a frame boundary.
#[derive(Debug)]
pub(super) struct Batch {
    /// Room for the bytes of every page; those of [`RunKind::Known`] runs are garbage.
    pub(super) bytes: Vec<u8>,
    pub(super) runs: Vec<(RunKind, usize)>,
    pub(super) pages: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; MAX_BATCH_PAGES * PAGE_SIZE],
            runs: Vec::new(),
            pages: 0,
        }
    }

    /// One whose memory is there already, and not only promised.
    pub(super) fn touched() -> Self {
        let mut batch = Self::new();
        for page in batch.bytes.chunks_mut(PAGE_SIZE) {
            // Not a zero, which the allocator has put there for nothing and the compiler could leave out.
            page[0] = 1;
        }
        batch
    }

    pub(super) fn clear(&mut self) {
        self.runs.clear();
        self.pages = 0;
    }

    pub(super) fn push(&mut self, kind: RunKind, pages: usize) {
        match (self.runs.last_mut(), kind) {
            (Some((RunKind::Data, last)), RunKind::Data) => *last += pages,
            _ => self.runs.push((kind, pages)),
        }
        self.pages += pages;
    }
}

/// A piece of work, in the order of the pages.
#[derive(Debug)]
pub(super) enum Job {
    /// Pages to look at and to compress.
    Batch(Batch),
    /// Pages that need neither.
    Run(Said, u64),
}
