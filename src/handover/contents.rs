//! Content that goes into the target before it runs.

use std::fmt;

use snapshot_format::{PAGE_BYTES, PAGE_SIZE};

use super::attach::pages_of;
use super::attach_error::AttachError;
use super::placement::{Place, Way};
use crate::addr::{Addr, AddrRange};
use crate::session::{Block, What};
use crate::source::{PageReader, PageSource};
use crate::tracee::TargetMemory;

/// Pages read at once.
const AT_ONCE: u64 = 256 * PAGE_BYTES;

/// Reads pages and writes them into the target.
pub(super) struct Contents<'a> {
    reader: Box<dyn PageReader + 'a>,
    block: Block,
}

impl<'a> Contents<'a> {
    pub(super) fn new(source: &'a dyn PageSource) -> Self {
        Self {
            reader: source.reader(),
            block: Block::default(),
        }
    }

    /// Makes sure that everything that will be written at once can be read, while nothing is lost yet.
    pub(super) fn check(&mut self, places: &[Place], eager: &[Addr]) -> Result<(), AttachError> {
        for place in places {
            if place.way == Way::Eager {
                self.for_each_part(place, place.at, |_, _| Ok(()))?;
                continue;
            }
            for &page in eager.iter().filter(|&&page| place.at.contains(page)) {
                self.for_each_part(place, AddrRange::at(page, PAGE_BYTES), |_, _| Ok(()))?;
            }
        }
        Ok(())
    }

    /// Writes the page of the mapping that has this address.
    pub(super) fn write_page(
        &mut self,
        place: &Place,
        page: Addr,
        memory: &TargetMemory,
    ) -> Result<u64, AttachError> {
        let range = AddrRange::at(page.page(place.kind.page_bytes), place.kind.page_bytes);
        self.write_all(place, range, memory)
    }

    /// Writes a range of a place. Returns how many bytes that are.
    pub(super) fn write_all(
        &mut self,
        place: &Place,
        range: AddrRange,
        memory: &TargetMemory,
    ) -> Result<u64, AttachError> {
        self.for_each_part(place, range, |at, bytes| Ok(memory.write(at.0, bytes)?))?;
        Ok(range.len())
    }

    /// Reads a range of a place, and calls `each` for its bytes in order.
    fn for_each_part(
        &mut self,
        place: &Place,
        range: AddrRange,
        mut each: impl FnMut(Addr, &[u8]) -> Result<(), AttachError>,
    ) -> Result<(), AttachError> {
        let mut rest = range;
        while !rest.is_empty() {
            let part = AddrRange::at(rest.start, AT_ONCE.min(rest.len()));
            let pages = pages_of(place, part);
            self.reader.read_all(&pages, &mut self.block);
            for piece in &self.block.pieces {
                let at = part
                    .start
                    .plus((piece.pages.start - pages.start) * PAGE_BYTES);
                match &piece.what {
                    What::Zero => zeros(at, piece.pages.end - piece.pages.start, &mut each)?,
                    What::Bytes(_) => each(
                        at,
                        self.block.bytes_of(piece, &piece.pages).unwrap_or_default(),
                    )?,
                    What::Bad(why) => {
                        return Err(AttachError::BadPage {
                            mapping: place.name.clone(),
                            at,
                            why: why.clone(),
                        });
                    }
                }
            }
            rest.start = part.end;
        }
        Ok(())
    }
}

fn zeros(
    at: Addr,
    pages: u64,
    each: &mut impl FnMut(Addr, &[u8]) -> Result<(), AttachError>,
) -> Result<(), AttachError> {
    for page in 0..pages {
        each(at.plus(page * PAGE_BYTES), &[0; PAGE_SIZE])?;
    }
    Ok(())
}

impl fmt::Debug for Contents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").finish_non_exhaustive()
    }
}
