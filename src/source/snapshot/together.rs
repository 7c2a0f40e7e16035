//! Small pages that make one huge page.

use std::ops::Range;
use std::sync::Arc;

use snapshot_format::{Content, FrameRef, PAGE_SIZE, PageNo};

use super::{SnapshotReader, page_in};
use crate::session::{Block, Piece, What};

impl SnapshotReader {
    /// Pages that must come as one piece: all zero, or all with their bytes. One that is bad makes all bad.
    pub(super) fn read_together(&mut self, pages: Range<u64>, block: &mut Block) {
        let mut all_zero = true;
        let mut held = None;
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
                Some(room) => self.read_page(PageNo(page), &mut held, room),
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

    /// The content of one page. `held` is the frame of the page before, which is likely to be the same.
    fn read_page(
        &mut self,
        page: PageNo,
        held: &mut Option<(FrameRef, Arc<[u8]>)>,
        out: &mut [u8; PAGE_SIZE],
    ) -> Result<(), String> {
        let content = self.cursor.content(page).map_err(|error| error.to_string());
        let Content::Frame { frame, slot } = content? else {
            // In no frame: nothing is decoded.
            let read = self.cursor.read_page(page, out);
            return read.map_err(|error| error.to_string());
        };
        if held.as_ref().is_none_or(|(known, _)| *known != frame) {
            *held = match self.shared_frame(&frame) {
                Some(content) => Some((frame, content?)),
                None => None,
            };
        }
        match held {
            Some((_, content)) => {
                *out = *page_in(content, slot).ok_or("its frame does not have it")?;
                Ok(())
            }
            // The cursor remembers the frame as well.
            None => self
                .cursor
                .read_page(page, out)
                .map_err(|error| error.to_string()),
        }
    }
}
