//! Page ranges cut into units of work: pieces that are worth a thread's while, and long runs of the same as one.

use crate::cursor::Cursor;
use crate::entry::{Content, ENTRY_LEN, FRAME_CHECKSUM_LEN};
use crate::error::{Error, Place};
use crate::page::{PAGE_SIZE, PageNo};
use crate::storage::ReadAt;
use std::ops::Range;

/// Pages of a unit that is not one long run, in a file with such frames: whole frames, where the first one begins with the
/// range. 256 KiB are enough to be worth a thread's while, and few enough that what one thread decodes is still in the
/// CPU's cache when another one takes it.
pub(crate) fn unit_pages(max_frame_pages: u16) -> u64 {
    let frame = u64::from(max_frame_pages.max(1));
    (64 / frame).max(1) * frame
}

/// A piece of a range of pages.
pub(crate) enum Span {
    /// A unit of work.
    Unit(Range<u64>),
    /// The rest of the range, which is more than the index has entries for: see [`Entries`].
    TooMany(Range<u64>),
}

/// So many pieces of memory may have no readable entry: a damaged node can stand for many more pages than entries.
const UNREADABLE: u64 = 1 << 10;

/// Counts entries of the index, of which every one may be met once.
///
/// A node takes 4096 bytes of the file, and a writer refers to it once. A file that refers to its nodes again and again
/// could describe 2^36 pages with a few of them and keep whoever looks at each page busy for days.
pub(crate) struct Entries {
    left: u64,
}

impl Entries {
    pub(crate) fn of<S: ReadAt>(cursor: &Cursor<S>) -> Self {
        let entries = cursor.snapshot().limits().index_len / ENTRY_LEN as u64;
        Self {
            left: entries.saturating_add(UNREADABLE),
        }
    }

    /// The next `pages` pages have one entry. False when there cannot be so many.
    pub(crate) fn meet(&mut self, pages: u64) -> bool {
        // An entry for many pages is in one of the upper levels, which are small: no need to count them.
        match self.left.checked_sub(u64::from(pages == 1)) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// What is wrong with such a file.
    pub(crate) fn too_many() -> Error {
        Error::corrupt(
            Place::IndexRoot,
            "there are more pages than the index has entries for",
        )
    }
}

/// Cuts a range of pages. Terabytes of nothing, which one entry of the index describes, are one unit and not a billion.
pub(crate) struct Spans<S> {
    cursor: Cursor<S>,
    left: Range<u64>,
    unit_pages: u64,
    entries: Entries,
    /// Whether a run of this content may be one unit, however long.
    whole: fn(Content) -> bool,
}

impl<S: ReadAt> Spans<S> {
    pub(crate) fn new(cursor: Cursor<S>, range: Range<u64>, whole: fn(Content) -> bool) -> Self {
        Self {
            unit_pages: unit_pages(cursor.snapshot().max_frame_pages()),
            entries: Entries::of(&cursor),
            cursor,
            left: range,
            whole,
        }
    }
}

impl<S: ReadAt> Iterator for Spans<S> {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let first = self.left.start;
        if first >= self.left.end {
            return None;
        }
        // An index that cannot be read here is not to be read by the one who does the unit either, and told by him.
        let (whole, alike) = match self.cursor.run(PageNo(first)) {
            Ok((content, pages)) => ((self.whole)(content), pages),
            Err(_) => (false, 1),
        };
        // At least the unit's first page has an entry of its own.
        if !self.entries.meet(alike) {
            self.left.start = self.left.end;
            return Some(Span::TooMany(first..self.left.end));
        }
        let pages = if whole && alike > self.unit_pages {
            alike
        } else {
            self.unit_pages
        };
        self.left.start = first.saturating_add(pages).min(self.left.end);
        Some(Span::Unit(first..self.left.start))
    }
}

/// Have `cursor` read the frames of a unit at once, if they stand in the file as a writer puts them, one after the other.
pub(crate) fn fetch<S: ReadAt>(cursor: &mut Cursor<S>, unit: &Range<u64>) {
    let pages = unit.end - unit.start;
    // A longer unit is a run of the same.
    if pages > unit_pages(cursor.snapshot().max_frame_pages()) {
        return;
    }
    let most = usize::try_from(pages).unwrap_or(0) * (PAGE_SIZE + FRAME_CHECKSUM_LEN);
    let mut frame = |page| match cursor.content(PageNo(page)) {
        Ok(Content::Frame { frame, .. }) => Some(frame),
        _ => None,
    };
    let first = unit.clone().find_map(&mut frame);
    let last = unit.clone().rev().find_map(&mut frame);
    if let (Some(first), Some(last)) = (first, last)
        && first != last
    {
        cursor.fetch(&first, &last, most);
    }
}
