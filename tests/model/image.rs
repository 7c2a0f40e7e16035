//! The snapshot: what its pages are, and blocks of them.

use std::collections::HashMap;
use std::ops::Range;

use snapshot_format::PAGE_SIZE;
use uffd_restore::session::{Block, Piece, Request, What};

use crate::memory::{Content, Entry};
use crate::rng::Rng;

/// Huge pages of the snapshot start here, each with 512 numbers.
pub(crate) const FIRST_HUGE: u64 = 1024;
const PAGES_IN_HUGE: u64 = 512;

/// What a page of the snapshot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Bytes,
    Zero,
    Bad,
}

/// Some of each, side by side.
pub(crate) fn class(page: u64) -> Class {
    if page >= FIRST_HUGE {
        return match (page - FIRST_HUGE) / PAGES_IN_HUGE {
            1 => Class::Zero,
            3 => Class::Bad,
            _ => Class::Bytes,
        };
    }
    match page {
        3 | 10 | 22 => Class::Zero,
        12 | 21 => Class::Bad,
        _ => Class::Bytes,
    }
}

/// What must be found where this page belongs.
pub(crate) fn expected(page: u64) -> Entry {
    match class(page) {
        Class::Bytes => Entry::Holds(Content::Page(page)),
        Class::Zero => Entry::Holds(Content::Zero),
        Class::Bad => Entry::Poison,
    }
}

/// What the first bytes of a page say that it is.
pub(crate) fn content(bytes: &[u8]) -> Content {
    let head = bytes.first_chunk::<8>().expect("a page at least");
    match u64::from_le_bytes(*head) {
        0 => Content::Zero,
        number => Content::Page(number - 1),
    }
}

/// Blocks are made once.
#[derive(Debug, Default)]
pub(crate) struct Image {
    blocks: HashMap<(u64, u64), Block>,
}

impl Image {
    /// A block as a source may give it for a request: what is needed, and some of what is welcome, or a little more.
    pub(crate) fn answer(&mut self, request: &Request, rng: &mut Rng) -> &Block {
        let needed = request.page.0..request.page.0 + request.needed;
        if request.needed > 1 {
            return self.block(needed);
        }
        let welcome = &request.welcome;
        let pages = match rng.below(4) {
            0 => needed,
            1 => welcome.clone(),
            2 => welcome.start.max(needed.start.saturating_sub(1))..welcome.end.min(needed.end + 2),
            // A frame does not end where a mapping does.
            _ => needed.start.saturating_sub(2)..needed.end + 2,
        };
        self.block(pages)
    }

    /// The content of these pages.
    pub(crate) fn block(&mut self, pages: Range<u64>) -> &Block {
        self.blocks
            .entry((pages.start, pages.end))
            .or_insert_with(|| make(pages))
    }
}

fn make(pages: Range<u64>) -> Block {
    let mut block = Block::default();
    if pages.start >= FIRST_HUGE {
        let what = match class(pages.start) {
            Class::Bytes => {
                let pages = usize::try_from(pages.end - pages.start).expect("few");
                block.bytes.resize(pages * PAGE_SIZE, 0);
                What::Bytes(0)
            }
            Class::Zero => What::Zero,
            Class::Bad => What::Bad("bad".into()),
        };
        mark(&mut block.bytes, 0, pages.start);
        block.pieces.push(Piece { pages, what });
        return block;
    }
    for page in pages {
        let what = match class(page) {
            Class::Bytes => {
                let start = block.bytes.len();
                block.bytes.resize(start + PAGE_SIZE, 0);
                mark(&mut block.bytes, start, page);
                What::Bytes(start)
            }
            Class::Zero => What::Zero,
            Class::Bad => What::Bad("bad".into()),
        };
        block.push(page, what);
    }
    block
}

/// Only the head of a page says which one it is.
fn mark(bytes: &mut [u8], start: usize, page: u64) {
    if let Some(head) = bytes.get_mut(start..start + 8) {
        head.copy_from_slice(&(page + 1).to_le_bytes());
    }
}
