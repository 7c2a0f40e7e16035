//! Reading many pages: decoded on several threads, handed over in order.

use crate::cursor::{Cursor, fill};
use crate::entry::{Content, FrameRef};
use crate::error::Error;
use crate::ordered::{Work, in_order};
use crate::page::{PAGE_SIZE, PageNo};
use crate::snapshot::Snapshot;
use crate::spans::{Entries, Span, Spans, fetch, unit_pages};
use crate::storage::ReadAt;
use std::ops::Range;
use std::sync::Arc;

/// Consecutive pages.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// So many zero pages from this one on.
    Zeros(PageNo, u64),
    /// The bytes of pages, from this one on.
    Bytes(PageNo, &'a [u8]),
}

/// Decode the pages of `range` on `threads` threads and give them to `consume` in order, every page once. At most about
/// 256 KiB, or a frame if that is larger, for each of `4 * threads + 2` are in memory.
///
/// # Errors
/// The first error in page order, of reading or of `consume`. Pages before it have been consumed. A page that was lost
/// at capture or lives in a parent is an error.
pub fn read<S: ReadAt, E: From<Error>>(
    snapshot: &Arc<Snapshot<S>>,
    range: Range<u64>,
    threads: usize,
    mut consume: impl FnMut(Piece<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let work = Decode { snapshot };
    let cursor = Cursor::new(Arc::clone(snapshot));
    let units = Spans::new(cursor, range, |content| content == Content::Zero);
    in_order(&work, threads, units, |unit| {
        unit.hand_over(&mut consume)?;
        unit.failure
            .take()
            .map_or(Ok(()), |error| Err(error.into()))
    })
}

struct Decode<'a, S> {
    snapshot: &'a Arc<Snapshot<S>>,
}

/// The decoded pages of a unit.
struct Unit {
    first: u64,
    bytes: Vec<u8>,
    /// Runs of pages: how many, and whether they are zero (then their bytes are garbage).
    runs: Vec<(u64, bool)>,
    /// Why there are no more.
    failure: Option<Error>,
}

impl Unit {
    fn hand_over<E>(&self, consume: &mut impl FnMut(Piece<'_>) -> Result<(), E>) -> Result<(), E> {
        let (mut page, mut rest) = (self.first, self.bytes.as_slice());
        for &(pages, zero) in &self.runs {
            let len = usize::try_from(pages)
                .unwrap_or(usize::MAX)
                .saturating_mul(PAGE_SIZE);
            if zero && len > rest.len() {
                // A whole unit, whose bytes were not made.
                return consume(Piece::Zeros(PageNo(page), pages));
            }
            let (bytes, behind) = rest.split_at(len);
            consume(if zero {
                Piece::Zeros(PageNo(page), pages)
            } else {
                Piece::Bytes(PageNo(page), bytes)
            })?;
            page += pages;
            rest = behind;
        }
        Ok(())
    }

    fn push(&mut self, pages: u64, zero: bool) {
        match self.runs.last_mut() {
            Some((last, as_zero)) if *as_zero == zero => *last += pages,
            _ => self.runs.push((pages, zero)),
        }
    }
}

impl<S: ReadAt> Work for Decode<'_, S> {
    type Unit = Span;
    type State = Cursor<S>;
    type Room = Unit;

    fn state(&self) -> Cursor<S> {
        Cursor::new(Arc::clone(self.snapshot))
    }

    fn room(&self) -> Unit {
        let pages = unit_pages(self.snapshot.max_frame_pages());
        Unit {
            first: 0,
            bytes: vec![0; usize::try_from(pages).unwrap_or(1) * PAGE_SIZE],
            runs: Vec::new(),
            failure: None,
        }
    }

    fn unit(&self, cursor: &mut Cursor<S>, span: Span, room: &mut Unit) {
        room.runs.clear();
        let unit = match span {
            Span::Unit(unit) => unit,
            Span::TooMany(_) => {
                room.failure = Some(Entries::too_many());
                return;
            }
        };
        room.first = unit.start;
        fetch(cursor, &unit);
        let mut page = unit.start;
        while page < unit.end {
            match decode_some(cursor, page..unit.end, room) {
                Ok(pages) => page += pages,
                Err(error) => {
                    room.failure = Some(error);
                    return;
                }
            }
        }
    }
}

/// Decode the pages at the start of `pages` that one entry or one frame describes, and say how many.
fn decode_some<S: ReadAt>(
    cursor: &mut Cursor<S>,
    pages: Range<u64>,
    room: &mut Unit,
) -> Result<u64, Error> {
    let page = PageNo(pages.start);
    let (content, alike) = cursor.run(page)?;
    let alike = alike.min(pages.end - pages.start);
    let at = usize::try_from(pages.start - room.first).unwrap_or(usize::MAX) * PAGE_SIZE;
    let len = |pages: u64| usize::try_from(pages).unwrap_or(usize::MAX) * PAGE_SIZE;
    match content {
        Content::Zero => room.push(alike, true),
        Content::Fill(word) => {
            fill(&mut room.bytes[at..at + len(alike)], word);
            room.push(alike, false);
        }
        Content::Frame { frame, slot: 0 } => {
            // The common case: a frame of consecutive pages, decoded in place.
            let together = consecutive(cursor, &frame, pages)?;
            let out = &mut room.bytes[at..at + len(together)];
            if together == u64::from(frame.pages) {
                cursor.read_frame(&frame, out)?;
            } else {
                out.copy_from_slice(&cursor.frame_content(&frame)?[..len(together)]);
            }
            room.push(together, false);
            return Ok(together);
        }
        Content::Frame { .. } | Content::Lost | Content::Parent(_) => {
            let (out, _) = room.bytes[at..]
                .split_first_chunk_mut()
                .ok_or(Error::Buffer {
                    given: 0,
                    needed: PAGE_SIZE,
                })?;
            cursor.read_page(page, out)?;
            room.push(1, false);
            return Ok(1);
        }
    }
    Ok(alike)
}

/// How many pages from the start of `pages` on are slots 0, 1, 2... of `frame`.
fn consecutive<S: ReadAt>(
    cursor: &mut Cursor<S>,
    frame: &FrameRef,
    pages: Range<u64>,
) -> Result<u64, Error> {
    let most = u64::from(frame.pages).min(pages.end - pages.start);
    for slot in 1..most {
        match cursor.content(PageNo(pages.start + slot))? {
            Content::Frame {
                frame: next,
                slot: at,
            } if next == *frame && u64::from(at) == slot => {}
            _ => return Ok(slot),
        }
    }
    Ok(most)
}
