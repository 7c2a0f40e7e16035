//! Content of pages on its way from a source to an address space.

use std::fmt;
use std::ops::Range;

use snapshot_format::{PAGE_SIZE, PageNo};

/// What some consecutive pages of the snapshot are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Bytes, from this offset of [`Block::bytes`] on.
    Bytes(usize),
    /// Zeros.
    Zero,
    /// They cannot be served, for this reason. Never zeros.
    Bad(String),
}

/// Consecutive pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Their numbers.
    pub pages: Range<u64>,
    /// What they are.
    pub what: What,
}

/// What a source gave for a request: pieces in the order of their pages. Used again and again, so that a fault allocates nothing.
#[derive(Clone, Default)]
pub struct Block {
    /// The content of all pieces that have bytes.
    pub bytes: Vec<u8>,
    /// The pieces. They do not overlap.
    pub pieces: Vec<Piece>,
}

impl Block {
    /// Forgets everything but the room.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.pieces.clear();
    }

    /// The piece that has a page.
    #[must_use]
    pub fn piece_of(&self, page: PageNo) -> Option<&Piece> {
        self.pieces
            .iter()
            .find(|piece| piece.pages.contains(&page.0))
    }

    /// The bytes of some pages of a piece that has bytes.
    #[must_use]
    pub fn bytes_of(&self, piece: &Piece, pages: &Range<u64>) -> Option<&[u8]> {
        let What::Bytes(offset) = piece.what else {
            return None;
        };
        let skipped = usize::try_from(pages.start.checked_sub(piece.pages.start)?).ok()?;
        let count = usize::try_from(pages.end.checked_sub(pages.start)?).ok()?;
        let start = offset + skipped * PAGE_SIZE;
        self.bytes.get(start..start + count * PAGE_SIZE)
    }

    /// Moves the pieces of another block, and their bytes, behind those of this one.
    pub fn append(&mut self, part: &mut Self) {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(&part.bytes);
        self.pieces.extend(part.pieces.drain(..).map(|mut piece| {
            if let What::Bytes(at) = &mut piece.what {
                *at += offset;
            }
            piece
        }));
    }

    /// Adds a page behind the others, to the last piece if it continues it.
    pub fn push(&mut self, page: u64, what: What) {
        if let Some(last) = self.pieces.last_mut()
            && last.pages.end == page
            && continues(&last.what, last.pages.end - last.pages.start, &what)
        {
            last.pages.end += 1;
            return;
        }
        self.pieces.push(Piece {
            pages: page..page + 1,
            what,
        });
    }
}

/// True when `next` is what comes after `pages` pages of `what`.
fn continues(what: &What, pages: u64, next: &What) -> bool {
    match (what, next) {
        (What::Zero, What::Zero) => true,
        (What::Bytes(offset), What::Bytes(next)) => {
            usize::try_from(pages).is_ok_and(|pages| offset + pages * PAGE_SIZE == *next)
        }
        (What::Bad(why), What::Bad(next)) => why == next,
        _ => false,
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block")
            .field("bytes", &self.bytes.len())
            .field("pieces", &self.pieces)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_continue_each_other_are_one_piece() {
        let mut block = Block::default();
        block.bytes.resize(4 * PAGE_SIZE, 0);
        block.bytes[2 * PAGE_SIZE] = 7;
        for (page, what) in [
            (10, What::Bytes(0)),
            (11, What::Bytes(PAGE_SIZE)),
            (12, What::Zero),
            (13, What::Zero),
            (14, What::Bytes(2 * PAGE_SIZE)),
            (16, What::Bytes(3 * PAGE_SIZE)),
        ] {
            block.push(page, what);
        }
        let ranges: Vec<_> = block
            .pieces
            .iter()
            .map(|piece| piece.pages.clone())
            .collect();
        assert_eq!(ranges, [10..12, 12..14, 14..15, 16..17]);
        let piece = block.piece_of(PageNo(14)).expect("it is there");
        assert_eq!(block.bytes_of(piece, &(14..15)).expect("bytes")[0], 7);
        assert_eq!(block.bytes_of(piece, &(14..17)), None, "more than there is");
        assert_eq!(block.piece_of(PageNo(15)), None);
    }
}
