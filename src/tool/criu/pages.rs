//! What a pages-N.img is made of: pages that are in the snapshot, and those that are left in the directory.

use super::belonging::Belonging;
use super::refused;
use crate::criu::Places;
use crate::criu::pagemap::{Flags, Pagemap};
use crate::failure::Failure;
use snapshot_format::bulk::{self, Piece};
use snapshot_format::{Cursor, Error, PAGE_BYTES, PAGE_SIZE, PageNo};
use std::sync::Arc;

/// Consecutive pages of a pages file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::tool) enum Part {
    /// So many pages that are in the snapshot from this one on.
    Moved(PageNo, u64),
    /// So many that are not lazy, and stay in the directory.
    Left(u64),
}

impl Part {
    pub(in crate::tool) fn pages(&self) -> u64 {
        match *self {
            Self::Moved(_, pages) | Self::Left(pages) => pages,
        }
    }
}

/// The pages file of an original pagemap, in order.
pub(in crate::tool) fn parts(
    pagemap: &Pagemap,
    places: &Places,
    belonging: &Belonging,
) -> Result<Vec<Part>, Failure> {
    let mut parts = Vec::new();
    let present = pagemap
        .entries
        .iter()
        .filter(|entry| entry.flags.has(Flags::PRESENT));
    for entry in present {
        if !entry.flags.has(Flags::LAZY) {
            push(&mut parts, Part::Left(entry.pages));
            continue;
        }
        let mut into = 0;
        while into < entry.pages {
            let address = entry.at.0 + into * PAGE_BYTES;
            let Some((page, follow)) = places.find(address) else {
                return Err(refused(
                    &belonging.path,
                    format!(
                        "it lacks the page at {address:#x}: it is not a snapshot of these images"
                    ),
                ));
            };
            let pages = follow.min(entry.pages - into);
            push(&mut parts, Part::Moved(page, pages));
            into += pages;
        }
    }
    Ok(parts)
}

fn push(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (Some(Part::Left(last)), Part::Left(pages)) => *last += pages,
        (Some(Part::Moved(first, last)), Part::Moved(page, pages)) if first.0 + *last == page.0 => {
            *last += pages;
        }
        _ => parts.push(part),
    }
}

/// So few pages are read without threads.
const FEW: u64 = 256;

/// Pages of zeros that are handed over at a time.
static ZEROS: [u8; 16 * PAGE_SIZE] = [0; 16 * PAGE_SIZE];

/// Reads pages of a snapshot.
#[derive(Debug)]
pub(in crate::tool) struct Reader<'a> {
    belonging: &'a Belonging,
    cursor: Cursor<std::fs::File>,
    threads: usize,
}

impl<'a> Reader<'a> {
    pub(in crate::tool) fn new(belonging: &'a Belonging, threads: usize) -> Self {
        Self {
            belonging,
            cursor: Cursor::new(Arc::clone(&belonging.snapshot)),
            threads,
        }
    }

    /// Hand over the bytes of so many pages from `first` on, in order.
    pub(in crate::tool) fn read(
        &mut self,
        first: PageNo,
        pages: u64,
        mut consume: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let failed = Failure::snapshot(&self.belonging.path);
        if pages < FEW {
            let mut page = [0; PAGE_SIZE];
            for number in first.0..first.0 + pages {
                if let Err(error) = self.cursor.read_page(PageNo(number), &mut page) {
                    return Err(failed(error));
                }
                consume(&page)?;
            }
            return Ok(());
        }
        let range = first.0..first.0 + pages;
        let read = bulk::read(&self.belonging.snapshot, range, self.threads, |piece| {
            let consumed = match piece {
                Piece::Bytes(_, bytes) => consume(bytes),
                Piece::Zeros(_, pages) => zeros(pages, &mut consume),
            };
            consumed.map_err(Either::Ours)
        });
        read.map_err(|error| match error {
            Either::Ours(failure) => failure,
            Either::Snapshot(error) => failed(error),
        })
    }
}

fn zeros(
    mut pages: u64,
    consume: &mut impl FnMut(&[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    while pages > 0 {
        let step = pages.min((ZEROS.len() / PAGE_SIZE) as u64);
        consume(&ZEROS[..usize::try_from(step).unwrap_or(0) * PAGE_SIZE])?;
        pages -= step;
    }
    Ok(())
}

/// Why reading ended.
enum Either {
    Ours(Failure),
    Snapshot(Error),
}

impl From<Error> for Either {
    fn from(error: Error) -> Self {
        Self::Snapshot(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_part() {
        let mut parts = Vec::new();
        for part in [
            Part::Left(1),
            Part::Left(2),
            Part::Moved(PageNo(5), 2),
            Part::Moved(PageNo(7), 3),
            Part::Moved(PageNo(11), 1),
            Part::Left(4),
        ] {
            push(&mut parts, part);
        }
        assert_eq!(
            parts,
            [
                Part::Left(3),
                Part::Moved(PageNo(5), 5),
                Part::Moved(PageNo(11), 1),
                Part::Left(4)
            ]
        );
        assert_eq!(parts.iter().map(Part::pages).sum::<u64>(), 13);
    }
}
