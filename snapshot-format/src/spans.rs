//! Page ranges cut into units of work: pieces that are worth a thread's while, and long runs of the same as one.

use crate::cursor::Cursor;
use crate::entry::Content;
use crate::header::MAX_FRAME_PAGES;
use crate::page::PageNo;
use crate::storage::ReadAt;
use std::ops::Range;

/// Pages of a unit that is not one long run.
pub(crate) const UNIT_PAGES: u64 = MAX_FRAME_PAGES as u64;

/// Cuts a range of pages. Terabytes of nothing, which one entry of the index describes, are one unit and not a billion.
pub(crate) struct Spans<S> {
    cursor: Cursor<S>,
    left: Range<u64>,
    /// Whether a run of this content may be one unit, however long.
    whole: fn(Content) -> bool,
}

impl<S: ReadAt> Spans<S> {
    pub(crate) fn new(cursor: Cursor<S>, range: Range<u64>, whole: fn(Content) -> bool) -> Self {
        Self {
            cursor,
            left: range,
            whole,
        }
    }
}

impl<S: ReadAt> Iterator for Spans<S> {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let first = self.left.start;
        if first >= self.left.end {
            return None;
        }
        // An index that cannot be read here is not to be read by the one who does the unit either, and told by him.
        let pages = match self.cursor.run(PageNo(first)) {
            Ok((content, pages)) if pages > UNIT_PAGES && (self.whole)(content) => pages,
            _ => UNIT_PAGES,
        };
        self.left.start = first.saturating_add(pages).min(self.left.end);
        Some(first..self.left.start)
    }
}
