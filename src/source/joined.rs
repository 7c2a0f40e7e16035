//! Pages of several raw memory files, such as CRIU's pages-N.img, numbered as if one lay behind the other.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use snapshot_format::{PAGE_SIZE, PageNo};

use super::{PageReader, PageSource, RawSource};
use crate::session::{Block, Piece, What};

/// Several raw memory files, one behind the other.
#[derive(Clone)]
pub struct JoinedSource {
    files: Vec<RawSource>,
    layout: Arc<Layout>,
}

/// Numbers of the first pages of all files, and last the number of all pages.
#[derive(Debug)]
struct Layout(Vec<u64>);

impl fmt::Debug for JoinedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinedSource").field(&self.files).finish()
    }
}

impl JoinedSource {
    /// The pages of files, in this order.
    #[must_use]
    pub fn new(files: Vec<RawSource>) -> Self {
        let mut borders = vec![0];
        let mut pages = 0u64;
        for file in &files {
            pages = pages.saturating_add(file.pages());
            borders.push(pages);
        }
        Self {
            files,
            layout: Arc::new(Layout(borders)),
        }
    }

    /// The number of the first page of a file. Behind the last file: [`JoinedSource::pages`].
    #[must_use]
    pub fn first_page(&self, file: usize) -> u64 {
        let first = self.layout.0.get(file);
        first.copied().unwrap_or_else(|| self.pages())
    }

    /// Pages of all files.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.layout.0.last().copied().unwrap_or(0)
    }
}

impl Layout {
    /// The file that a page is in, and the numbers of its pages.
    fn file_of(&self, page: u64) -> Option<(usize, Range<u64>)> {
        let file = self
            .0
            .partition_point(|first| *first <= page)
            .checked_sub(1)?;
        let pages = *self.0.get(file)?..*self.0.get(file + 1)?;
        Some((file, pages))
    }
}

impl PageSource for JoinedSource {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(JoinedReader {
            readers: self.files.iter().map(PageSource::reader).collect(),
            layout: Arc::clone(&self.layout),
            part: Block::default(),
        })
    }

    fn granularity(&self) -> u64 {
        let each = self.files.iter().map(PageSource::granularity);
        each.max().unwrap_or(1)
    }

    fn around(&self) -> u64 {
        let each = self.files.iter().map(PageSource::around);
        each.max().unwrap_or(1)
    }
}

struct JoinedReader {
    readers: Vec<Box<dyn PageReader>>,
    layout: Arc<Layout>,
    /// What one file gave of a request for pages of several.
    part: Block,
}

impl PageReader for JoinedReader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        let needed = page.0..page.0.saturating_add(needed.max(1));
        let Some((file, pages)) = self.file_around(&needed) else {
            self.read_parts(&needed, block);
            join(&needed, block);
            return;
        };
        let welcome = welcome.start.max(pages.start)..welcome.end.min(pages.end).max(pages.start);
        let number = PageNo(page.0 - pages.start);
        if let Some(reader) = self.readers.get_mut(file) {
            let welcome = shifted_down(&welcome, pages.start);
            reader.read(number, needed.end - needed.start, &welcome, block);
        }
        shift_up(block, pages.start);
    }

    fn announce(&mut self, pages: &Range<u64>) {
        if let Some((file, of_file)) = self.file_around(pages)
            && let Some(reader) = self.readers.get_mut(file)
        {
            reader.announce(&shifted_down(pages, of_file.start));
        }
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        let Some((file, of_file)) = self.file_around(pages) else {
            self.read_parts(pages, block);
            return;
        };
        if let Some(reader) = self.readers.get_mut(file) {
            reader.read_all(&shifted_down(pages, of_file.start), block);
        }
        shift_up(block, of_file.start);
    }
}

impl JoinedReader {
    /// The file that has all of some pages.
    fn file_around(&self, pages: &Range<u64>) -> Option<(usize, Range<u64>)> {
        let around = self.layout.file_of(pages.start);
        around.filter(|(_, of_file)| pages.end <= of_file.end)
    }

    /// Reads all pages of a range that is in more than one file, or in none. Every page has its place in the block.
    fn read_parts(&mut self, pages: &Range<u64>, block: &mut Block) {
        block.clear();
        let mut page = pages.start;
        while page < pages.end {
            let Some((file, of_file)) = self.layout.file_of(page) else {
                let what = What::Bad(format!("there is no page {page}: the files end before it"));
                block.pieces.push(Piece {
                    pages: page..pages.end,
                    what,
                });
                return;
            };
            let part = page..pages.end.min(of_file.end);
            if let Some(reader) = self.readers.get_mut(file) {
                reader.read_all(&shifted_down(&part, of_file.start), &mut self.part);
            }
            shift_up(&mut self.part, of_file.start);
            block.append(&mut self.part);
            page = part.end;
        }
    }
}

/// Makes one piece of all: bad if any page is, zero if all are.
fn join(pages: &Range<u64>, block: &mut Block) {
    let bad = block
        .pieces
        .iter()
        .find(|piece| matches!(piece.what, What::Bad(_)));
    let what = if let Some(bad) = bad {
        bad.what.clone()
    } else if block.pieces.iter().all(|piece| piece.what == What::Zero) {
        What::Zero
    } else {
        clear_zeros(pages.start, block);
        What::Bytes(0)
    };
    block.pieces.clear();
    block.pieces.push(Piece {
        pages: pages.clone(),
        what,
    });
}

/// Zero pages have a place in the block, with anything in it.
fn clear_zeros(first: u64, block: &mut Block) {
    let Block { bytes, pieces } = block;
    for piece in pieces.iter().filter(|piece| piece.what == What::Zero) {
        let place = shifted_down(&piece.pages, first);
        let offset = |page: u64| {
            usize::try_from(page)
                .unwrap_or(usize::MAX)
                .saturating_mul(PAGE_SIZE)
        };
        if let Some(place) = bytes.get_mut(offset(place.start)..offset(place.end)) {
            place.fill(0);
        }
    }
}

fn shifted_down(pages: &Range<u64>, by: u64) -> Range<u64> {
    pages.start.saturating_sub(by)..pages.end.saturating_sub(by)
}

fn shift_up(block: &mut Block, by: u64) {
    for piece in &mut block.pieces {
        piece.pages = piece.pages.start.saturating_add(by)..piece.pages.end.saturating_add(by);
    }
}

#[cfg(test)]
mod tests;
