//! Pages of a snapshot file.

mod together;

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use snapshot_format::{Content, Cursor, FrameRef, PAGE_BYTES, PAGE_SIZE, PageNo, Snapshot};

use super::frames::{Decoded, FrameCache, FrameKey};
use super::{PageReader, PageSource, ZEROS_AT_ONCE};
use crate::session::{Block, Piece, What};

/// A snapshot file.
#[derive(Debug, Clone)]
pub struct SnapshotSource {
    snapshot: Arc<Snapshot<File>>,
    shared: Option<Shared>,
}

/// Where all readers of a source share what they decode.
#[derive(Debug, Clone)]
struct Shared {
    cache: Arc<FrameCache>,
    /// The source's number there.
    source: u64,
    /// Somebody else may want what is decoded.
    wanted: Arc<AtomicBool>,
}

impl SnapshotSource {
    /// The pages of an open snapshot. Each reader decodes what it reads: for a single target, which wants a frame once.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot<File>>) -> Self {
        Self {
            snapshot,
            shared: None,
        }
    }

    /// The pages of an open snapshot, whose frames all readers of this source and its clones decode into a cache: for many
    /// targets. The cache may have other snapshots' frames as well; it takes sources for different that were made by different
    /// calls of this.
    #[must_use]
    pub fn with_cache(snapshot: Arc<Snapshot<File>>, cache: Arc<FrameCache>) -> Self {
        let source = cache.new_source();
        Self {
            snapshot,
            shared: Some(Shared {
                cache,
                source,
                wanted: Arc::new(AtomicBool::new(true)),
            }),
        }
    }

    /// The same, which goes by way of the cache only while that is wanted: it costs copying what is decoded.
    #[must_use]
    pub fn sharing_while(mut self, wanted: Arc<AtomicBool>) -> Self {
        if let Some(shared) = &mut self.shared {
            shared.wanted = wanted;
        }
        self
    }
}

impl PageSource for SnapshotSource {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(SnapshotReader {
            cursor: Cursor::new(Arc::clone(&self.snapshot)),
            frame_pages: self.granularity(),
            shared: self.shared.clone(),
        })
    }

    fn granularity(&self) -> u64 {
        u64::from(self.snapshot.max_frame_pages())
    }
}

struct SnapshotReader {
    cursor: Cursor<File>,
    frame_pages: u64,
    shared: Option<Shared>,
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

    /// Several threads that read different parts of a file in turn look to the kernel like somebody who reads at random.
    fn announce(&mut self, pages: &Range<u64>) {
        let most = (pages.end - pages.start).saturating_mul(PAGE_BYTES);
        let Some((first, last)) = self.ends_of(pages) else {
            return;
        };
        let len = last.end().saturating_sub(first.offset);
        let snapshot = self.cursor.snapshot();
        let at = i64::try_from(snapshot.frames_at(first.offset)).unwrap_or(i64::MAX);
        let len = i64::try_from(len.min(most)).unwrap_or(i64::MAX);
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        // What cannot be told so is read all the same.
        let _ = posix_fadvise(snapshot.storage(), at, len, advice);
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        // The bytes are not cleared: each would be written twice.
        block.pieces.clear();
        let mut used = 0;
        self.fetch_all(pages);
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
                        let content = self.decode_at(&frame, block, used);
                        used += content.as_ref().map_or(0, |_| frame.content_len());
                        decoded = Some((frame, content));
                    }
                    if let Some((_, content)) = &decoded {
                        block.push(page, slot_of(content, slot));
                    }
                }
                Ok((other, _)) => {
                    block.bytes.truncate(used);
                    self.read_single(page, other, block);
                    used = block.bytes.len();
                }
                Err(error) => block.push(page, What::Bad(error.to_string())),
            }
            page += 1;
        }
        block.bytes.truncate(used);
    }
}

impl SnapshotReader {
    /// The frames of the first and the last of some pages, as they lie in the file.
    fn ends_of(&mut self, pages: &Range<u64>) -> Option<(FrameRef, FrameRef)> {
        let mut frame_of = |page| match self.cursor.content(PageNo(page)) {
            Ok(Content::Frame { frame, .. }) => Some(frame),
            _ => None,
        };
        let ends = frame_of(pages.start).zip(frame_of(pages.end.saturating_sub(1)));
        ends.filter(|(first, last)| first.offset <= last.offset)
    }

    /// Reads what is stored of some pages with one call, if it lies together and nobody is likely to have it decoded.
    fn fetch_all(&mut self, pages: &Range<u64>) {
        let ends = match self.shares() {
            true => None,
            false => self.ends_of(pages),
        };
        if let Some((first, last)) = ends {
            let most = usize::try_from(pages.end - pages.start).unwrap_or(0) * PAGE_SIZE;
            self.cursor.fetch(&first, &last, most);
        }
    }

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
        let shared = self.shared_frame(frame);
        // Without a cache all of the frame is decoded into the block.
        let own = match &shared {
            Some(_) => Ok(0),
            None => self.append_frame(frame, block),
        };
        let first = page.0.saturating_sub(self.frame_pages - 1);
        let mut found = 0;
        for other in first..page.0 + self.frame_pages {
            if found == frame.pages {
                break;
            }
            if other != page.0 && !welcome.contains(&other) {
                continue;
            }
            // What is not in the frame is not for now, whatever it is.
            if let Ok(Content::Frame { frame: its, slot }) = self.cursor.content(PageNo(other))
                && its == *frame
            {
                let what = match &shared {
                    Some(content) => append_page(content, slot, block),
                    None => slot_of(&own, slot),
                };
                block.push(other, what);
                found += 1;
            }
        }
    }

    /// True when what is decoded goes into the cache.
    fn shares(&self) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.wanted.load(Ordering::Relaxed))
    }

    /// The content of a frame by way of the cache, if there is one.
    fn shared_frame(&mut self, frame: &FrameRef) -> Option<Decoded> {
        let shares = self.shares();
        let Shared { cache, source, .. } = self.shared.as_ref().filter(|_| shares)?;
        let (source, frame) = (*source, *frame);
        Some(cache.get(FrameKey { source, frame }, || {
            // Zeros made where they will stay: one allocation, and no copy of what is decoded.
            let mut content: Arc<[u8]> = std::iter::repeat_n(0, frame.content_len()).collect();
            let room = Arc::get_mut(&mut content).unwrap_or_default();
            match self.cursor.read_frame(&frame, room) {
                Ok(()) => Ok(content),
                Err(error) => Err(error.to_string()),
            }
        }))
    }

    /// Puts a frame's content behind what the block has. Returns where it is, or why not.
    fn append_frame(&mut self, frame: &FrameRef, block: &mut Block) -> Result<usize, String> {
        let offset = block.bytes.len();
        let decoded = self.decode_at(frame, block, offset);
        if decoded.is_err() {
            block.bytes.truncate(offset);
        }
        decoded
    }

    /// Puts a frame's content to an offset of the block's bytes, over what is there.
    fn decode_at(
        &mut self,
        frame: &FrameRef,
        block: &mut Block,
        offset: usize,
    ) -> Result<usize, String> {
        let end = offset + frame.content_len();
        if block.bytes.len() < end {
            block.bytes.resize(end, 0);
        }
        let room = block.bytes.get_mut(offset..end).unwrap_or_default();
        match self.shared_frame(frame) {
            Some(content) => room.copy_from_slice(&content?),
            None => {
                if let Some(shared) = &self.shared {
                    shared.cache.note_beside();
                }
                let read = self.cursor.read_frame(frame, room);
                read.map_err(|error| error.to_string())?;
            }
        }
        Ok(offset)
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
}

/// The page in this slot of a frame's content.
fn page_in(content: &[u8], slot: u16) -> Option<&[u8; PAGE_SIZE]> {
    content.get(usize::from(slot) * PAGE_SIZE..)?.first_chunk()
}

/// Puts one page of a frame behind what the block has.
fn append_page(content: &Decoded, slot: u16, block: &mut Block) -> What {
    match content {
        Ok(content) => match page_in(content, slot) {
            Some(page) => {
                let offset = block.bytes.len();
                block.bytes.extend_from_slice(page);
                What::Bytes(offset)
            }
            None => What::Bad("its frame does not have it".into()),
        },
        Err(why) => What::Bad(why.clone()),
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
pub(super) mod tests;
