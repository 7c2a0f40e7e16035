//! Checking a snapshot: what its pages are, and whether every one of them can be read.

use crate::codec::Codec;
use crate::cursor::Cursor;
use crate::entry::{Content, FrameRef};
use crate::error::Error;
use crate::met::Met;
use crate::ordered::{Work, in_order};
use crate::page::PageNo;
use crate::snapshot::Snapshot;
use crate::spans::{Entries, Span, Spans, fetch};
use crate::storage::ReadAt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Frames of one codec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameCount {
    /// Frames.
    pub frames: u64,
    /// Pages of content in them.
    pub pages: u64,
    /// Bytes of their payloads.
    pub payload_len: u64,
}

/// What the pages of a range are. A frame counts once, however many pages name it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Survey {
    /// Zero pages.
    pub zero_pages: u64,
    /// Pages of one repeated word.
    pub filled_pages: u64,
    /// Pages with content in a frame.
    pub content_pages: u64,
    /// Pages that live in the parent.
    pub parent_pages: u64,
    /// Pages that could not be captured.
    pub lost_pages: u64,
    /// Frames that are stored.
    pub stored: FrameCount,
    /// Frames of LZ4.
    pub lz4: FrameCount,
    /// Frames of zstd.
    pub zstd: FrameCount,
}

impl Survey {
    fn add(&mut self, content: Content, pages: u64, new_frame: bool) {
        match content {
            Content::Zero => self.zero_pages += pages,
            Content::Fill(_) => self.filled_pages += pages,
            Content::Parent(_) => self.parent_pages += pages,
            Content::Lost => self.lost_pages += pages,
            Content::Frame { frame, .. } => {
                self.content_pages += pages;
                let count = match frame.codec {
                    Codec::Stored => &mut self.stored,
                    Codec::Lz4 => &mut self.lz4,
                    Codec::Zstd => &mut self.zstd,
                };
                if new_frame {
                    count.frames += 1;
                    count.pages += u64::from(frame.pages);
                    count.payload_len += u64::from(frame.payload_len);
                }
            }
        }
    }

    /// Pages with content that the frames have no room of their own for: they are what other pages are, and in the file once.
    #[must_use]
    pub fn repeated_pages(&self) -> u64 {
        let in_frames = self.stored.pages + self.lz4.pages + self.zstd.pages;
        self.content_pages.saturating_sub(in_frames)
    }

    /// The sum of two surveys; frames that are in both count twice.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.zero_pages += other.zero_pages;
        self.filled_pages += other.filled_pages;
        self.content_pages += other.content_pages;
        self.parent_pages += other.parent_pages;
        self.lost_pages += other.lost_pages;
        for (sum, add) in [
            (&mut self.stored, other.stored),
            (&mut self.lz4, other.lz4),
            (&mut self.zstd, other.zstd),
        ] {
            sum.frames += add.frames;
            sum.pages += add.pages;
            sum.payload_len += add.payload_len;
        }
        self
    }
}

/// Count what the pages of `range` are. Reads the index only, decodes nothing.
///
/// # Errors
/// The first error in the index.
pub fn survey<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, range: Range<u64>) -> Result<Survey, Error> {
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let mut entries = Entries::of(&cursor);
    let mut survey = Survey::default();
    let mut frames = New::default();
    let mut page = range.start;
    while page < range.end {
        let (content, pages) = cursor.run(PageNo(page))?;
        if !entries.meet(pages) {
            return Err(Entries::too_many());
        }
        let pages = pages.min(range.end - page);
        survey.add(content, pages, frames.has(content));
        page += pages;
    }
    Ok(survey)
}

/// Tells frames that are met for the first time.
#[derive(Default)]
struct New {
    last: Option<FrameRef>,
    met: Met,
}

impl New {
    /// Whether `content` is in such a frame.
    fn has(&mut self, content: Content) -> bool {
        match content {
            // Of consecutive pages of a frame only the first is looked up.
            Content::Frame { frame, .. } => {
                self.last.replace(frame) != Some(frame) && self.met.add(frame)
            }
            _ => false,
        }
    }
}

/// Consecutive pages that cannot be read.
#[derive(Debug)]
pub struct BadPages {
    /// The first.
    pub first: PageNo,
    /// How many.
    pub pages: u64,
    /// Why.
    pub error: Error,
}

/// Read, decode and check every page on `threads` threads. `bad` is told of every run of pages that cannot be read, in
/// page order; `progress` of the pages done since it was last called. Pages lost at capture are not bad: the file says so
/// of them; pages in a parent are not looked up there.
pub fn verify<S: ReadAt>(
    snapshot: &Arc<Snapshot<S>>,
    threads: usize,
    mut bad: impl FnMut(BadPages),
    mut progress: impl FnMut(u64),
) {
    let work = Check {
        snapshot,
        good: Mutex::default(),
    };
    let cursor = Cursor::new(Arc::clone(snapshot));
    let units = Spans::new(cursor, 0..snapshot.pages(), |_| true);
    let Ok(()) = in_order::<_, std::convert::Infallible>(&work, threads, units, |found| {
        found.bad.drain(..).for_each(&mut bad);
        progress(found.pages);
        Ok(())
    });
}

struct Check<'a, S> {
    snapshot: &'a Arc<Snapshot<S>>,
    /// Frames that have been decoded and are good.
    good: Mutex<Met>,
}

/// How far the check of a unit is.
struct Checking {
    unit: Range<u64>,
    fetched: bool,
    last_good: Option<FrameRef>,
}

impl<S: ReadAt> Check<'_, S> {
    /// Check the page, and say how many pages the check was good for. A good frame is not read again, whoever names it.
    fn page(
        &self,
        cursor: &mut Cursor<S>,
        checking: &mut Checking,
        page: PageNo,
    ) -> Result<u64, Error> {
        let (content, pages) = cursor.run(page)?;
        if let Content::Frame { frame, .. } = content
            && checking.last_good != Some(frame)
        {
            let good = || self.good.lock().unwrap_or_else(PoisonError::into_inner);
            if !good().has(&frame) {
                if !std::mem::replace(&mut checking.fetched, true) {
                    fetch(cursor, &checking.unit);
                }
                cursor.frame_content(&frame)?;
                good().add(frame);
            }
            checking.last_good = Some(frame);
        }
        Ok(pages)
    }
}

#[derive(Default)]
struct Found {
    pages: u64,
    bad: Vec<BadPages>,
}

impl Found {
    fn push(&mut self, page: u64, pages: u64, error: Error) {
        match self.bad.last_mut() {
            Some(last)
                if last.first.0 + last.pages == page
                    && last.error.to_string() == error.to_string() =>
            {
                last.pages += pages;
            }
            _ => self.bad.push(BadPages {
                first: PageNo(page),
                pages,
                error,
            }),
        }
    }
}

impl<S: ReadAt> Work for Check<'_, S> {
    type Unit = Span;
    type State = Cursor<S>;
    type Room = Found;

    fn state(&self) -> Cursor<S> {
        Cursor::new(Arc::clone(self.snapshot))
    }

    fn room(&self) -> Found {
        Found::default()
    }

    fn unit(&self, cursor: &mut Cursor<S>, span: Span, found: &mut Found) {
        let unit = match span {
            Span::Unit(unit) => unit,
            Span::TooMany(rest) => {
                found.pages = rest.end - rest.start;
                found.push(rest.start, found.pages, Entries::too_many());
                return;
            }
        };
        found.pages = unit.end - unit.start;
        let mut checking = Checking {
            unit: unit.clone(),
            fetched: false,
            last_good: None,
        };
        let mut page = unit.start;
        while page < unit.end {
            match self.page(cursor, &mut checking, PageNo(page)) {
                Ok(pages) => page += pages,
                Err(error) => {
                    let pages = together(cursor, page..unit.end);
                    found.push(page, pages, error);
                    page += pages;
                }
            }
        }
    }
}

/// How many pages from the start of `pages` on are in the frame that the first one is in, and so are as bad as that one
/// without being decoded again; 1 if it is in none.
fn together<S: ReadAt>(cursor: &mut Cursor<S>, pages: Range<u64>) -> u64 {
    let mut frame_of = |page| match cursor.content(PageNo(page)) {
        Ok(Content::Frame { frame, .. }) => Some(frame),
        _ => None,
    };
    let Some(frame) = frame_of(pages.start) else {
        return 1;
    };
    let behind = pages.start.saturating_add(1)..pages.end;
    let alike = behind.take_while(|&page| frame_of(page) == Some(frame));
    1 + alike.count() as u64
}
