//! Page ranges cut into units of work: pieces that are worth a thread's while, and long runs of the same as one.

use crate::cursor::Cursor;
use crate::entry::{Content, FRAME_CHECKSUM_LEN};
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

/// Cuts a range of pages. Terabytes of nothing, which one entry of the index describes, are one unit and not a billion.
pub(crate) struct Spans<S> {
    cursor: Cursor<S>,
    left: Range<u64>,
    unit_pages: u64,
    /// Whether a run of this content may be one unit, however long.
    whole: fn(Content) -> bool,
}

impl<S: ReadAt> Spans<S> {
    pub(crate) fn new(cursor: Cursor<S>, range: Range<u64>, whole: fn(Content) -> bool) -> Self {
        Self {
            unit_pages: unit_pages(cursor.snapshot().max_frame_pages()),
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
            Ok((content, pages)) if pages > self.unit_pages && (self.whole)(content) => pages,
            _ => self.unit_pages,
        };
        self.left.start = first.saturating_add(pages).min(self.left.end);
        Some(first..self.left.start)
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
