//! Pages of a snapshot file.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use snapshot_format::{Content, Cursor, FrameRef, PAGE_SIZE, PageNo, Snapshot};

use super::{PageReader, PageSource};
use crate::session::{Block, Piece, What};

/// Zero pages that are given with one that is wanted: at a tenth of a microsecond each they cost less than a fault.
const ZEROS_AT_ONCE: u64 = 32;

/// A snapshot file.
#[derive(Debug, Clone)]
pub struct SnapshotSource(Arc<Snapshot<File>>);

impl SnapshotSource {
    /// The pages of an open snapshot.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot<File>>) -> Self {
        Self(snapshot)
    }
}

impl PageSource for SnapshotSource {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(SnapshotReader {
            cursor: Cursor::new(Arc::clone(&self.0)),
            frame_pages: u64::from(self.0.max_frame_pages()),
        })
    }

    fn granularity(&self) -> u64 {
        u64::from(self.0.max_frame_pages())
    }
}

struct SnapshotReader {
    cursor: Cursor<File>,
    frame_pages: u64,
}

impl PageReader for SnapshotReader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        block.clear();
        if needed > 1 {
            self.read_together(page.0..page.0 + needed, block);
            return;
        }
        match self.cursor.run(page) {
            Ok((Content::Frame { frame, .. }, _)) => self.read_frame(page, &frame, welcome, block),
            Ok((Content::Zero, alike)) => {
                let most = (page.0 + ZEROS_AT_ONCE).min(welcome.end).max(page.0 + 1);
                let end = self.end_of_zeros(page.0.saturating_add(alike), most);
                block.pieces.push(Piece {
                    pages: page.0..end,
                    what: What::Zero,
                });
            }
            Ok((other, _)) => self.read_single(page.0, other, block),
            Err(error) => block.push(page.0, What::Bad(error.to_string())),
        }
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        block.clear();
        let mut page = pages.start;
        let mut decoded: Option<(FrameRef, Result<usize, String>)> = None;
        while page < pages.end {
            match self.cursor.run(PageNo(page)) {
                Ok((Content::Zero, alike)) => {
                    let end = page.saturating_add(alike).min(pages.end);
                    block.pieces.push(Piece {
                        pages: page..end,
                        what: What::Zero,
                    });
                    page = end;
                    continue;
                }
                Ok((Content::Frame { frame, slot }, _)) => {
                    if decoded.as_ref().is_none_or(|(known, _)| *known != frame) {
                        decoded = Some((frame, self.append_frame(&frame, block)));
                    }
                    if let Some((_, content)) = &decoded {
                        block.push(page, slot_of(content, slot));
                    }
                }
                Ok((other, _)) => self.read_single(page, other, block),
                Err(error) => block.push(page, What::Bad(error.to_string())),
            }
            page += 1;
        }
    }
}

impl SnapshotReader {
    /// How far pages are zero from one on, and no further than `most`.
    fn end_of_zeros(&mut self, mut page: u64, most: u64) -> u64 {
        while page < most {
            match self.cursor.run(PageNo(page)) {
                Ok((Content::Zero, alike)) => page = page.saturating_add(alike),
                _ => return page,
            }
        }
        most
    }

    /// Decodes a frame, and finds which pages around the wanted one are in it.
    fn read_frame(
        &mut self,
        page: PageNo,
        frame: &FrameRef,
        welcome: &Range<u64>,
        block: &mut Block,
    ) {
        let content = self.append_frame(frame, block);
        let first = page.0.saturating_sub(self.frame_pages - 1);
        for other in first..page.0 + self.frame_pages {
            if other != page.0 && !welcome.contains(&other) {
                continue;
            }
            // What is not in the frame is not for now, whatever it is.
            if let Ok(Content::Frame { frame: its, slot }) = self.cursor.content(PageNo(other))
                && its == *frame
            {
                block.push(other, slot_of(&content, slot));
            }
        }
    }

    /// Decodes a frame behind what the block has. Returns where it is, or why not.
    fn append_frame(&mut self, frame: &FrameRef, block: &mut Block) -> Result<usize, String> {
        let offset = block.bytes.len();
        block.bytes.resize(offset + frame.content_len(), 0);
        let room = block.bytes.get_mut(offset..).unwrap_or_default();
        match self.cursor.read_frame(frame, room) {
            Ok(()) => Ok(offset),
            Err(error) => {
                block.bytes.truncate(offset);
                Err(error.to_string())
            }
        }
    }

    /// A page that is in no frame.
    fn read_single(&mut self, page: u64, content: Content, block: &mut Block) {
        let what = match content {
            Content::Zero => What::Zero,
            Content::Fill(word) => {
                let offset = block.bytes.len();
                block.bytes.resize(offset + PAGE_SIZE, 0);
                for chunk in block
                    .bytes
                    .get_mut(offset..)
                    .unwrap_or_default()
                    .as_chunks_mut()
                    .0
                {
                    *chunk = word.to_le_bytes();
                }
                What::Bytes(offset)
            }
            Content::Lost => What::Bad("it was lost at capture time".into()),
            Content::Parent(_) => What::Bad("it lives in a parent snapshot".into()),
            Content::Frame { .. } => What::Bad("it is in a frame".into()),
        };
        block.push(page, what);
    }

    /// Pages that must come as one piece: all zero, or all with their bytes. One that is bad makes all bad.
    fn read_together(&mut self, pages: Range<u64>, block: &mut Block) {
        let mut all_zero = true;
        let len = usize::try_from(pages.end - pages.start).unwrap_or(0) * PAGE_SIZE;
        block.bytes.resize(len, 0);
        let mut page = pages.start;
        while page < pages.end {
            let at = usize::try_from(page - pages.start).unwrap_or(0) * PAGE_SIZE;
            match self.cursor.run(PageNo(page)) {
                Ok((Content::Zero, alike)) => {
                    let end = page.saturating_add(alike).min(pages.end);
                    let zeros = usize::try_from(end - page).unwrap_or(0) * PAGE_SIZE;
                    block
                        .bytes
                        .get_mut(at..at + zeros)
                        .unwrap_or_default()
                        .fill(0);
                    page = end;
                    continue;
                }
                _ => all_zero = false,
            }
            let room = block.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut);
            let read = match room {
                Some(room) => self
                    .cursor
                    .read_page(PageNo(page), room)
                    .map_err(|error| error.to_string()),
                None => Err("there is no room for it".into()),
            };
            if let Err(why) = read {
                block.clear();
                block.pieces.push(Piece {
                    pages,
                    what: What::Bad(why),
                });
                return;
            }
            page += 1;
        }
        let what = if all_zero { What::Zero } else { What::Bytes(0) };
        block.pieces.push(Piece { pages, what });
    }
}

/// The page in this slot of a frame that was decoded to an offset, or was not.
fn slot_of(content: &Result<usize, String>, slot: u16) -> What {
    match content {
        Ok(offset) => What::Bytes(offset + usize::from(slot) * PAGE_SIZE),
        Err(why) => What::Bad(why.clone()),
    }
}

#[cfg(test)]
mod tests;
