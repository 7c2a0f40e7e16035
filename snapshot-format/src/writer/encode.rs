//! What a worker does: classify the pages of a batch and compress the ones with content.

use super::batch::{Batch, MAX_BATCH_PAGES, RunKind, Said};
use crate::codec::{Compression, Encoder, checksum};
use crate::entry::{Content, FRAME_CHECKSUM_LEN, FrameRef};
use crate::error::WriteError;
use crate::page::PAGE_SIZE;

/// The frames of a batch and the index entries of its pages.
#[derive(Debug)]
pub(super) struct Encoded {
    /// Room for the frames of any batch.
    bytes: Vec<u8>,
    /// Bytes of `bytes` in use.
    len: usize,
    /// One for each page; offsets of frames count from the start of `bytes`.
    pub(super) contents: Vec<Said>,
}

impl Encoded {
    pub(super) fn new(compression: Compression) -> Self {
        let frame = usize::from(compression.frame_pages) * PAGE_SIZE;
        let frames = MAX_BATCH_PAGES * (PAGE_SIZE + FRAME_CHECKSUM_LEN);
        Self {
            bytes: vec![0; frames + Encoder::bound(frame)],
            len: 0,
            contents: Vec::with_capacity(MAX_BATCH_PAGES),
        }
    }

    /// The frames, their checksums bound to the place where the first one will stand in the frames section.
    pub(super) fn placed_at(&mut self, base: u64) -> &[u8] {
        for content in &mut self.contents {
            let Said::Is(Content::Frame { frame, slot }) = content else {
                continue;
            };
            let place = base + frame.offset;
            if *slot == 0
                && let Some(sum) = usize::try_from(frame.offset)
                    .ok()
                    .and_then(|at| self.bytes.get_mut(at..)?.first_chunk_mut::<8>())
            {
                *sum = (u64::from_le_bytes(*sum) ^ place).to_le_bytes();
            }
            frame.offset = place;
        }
        &self.bytes[..self.len]
    }
}

/// A worker's own state.
pub(super) struct BatchEncoder {
    encoder: Encoder,
    frame_pages: usize,
    /// Pages of a frame brought together.
    gathered: Vec<u8>,
}

impl BatchEncoder {
    pub(super) fn new(compression: Compression) -> Result<Self, WriteError> {
        let frame_pages = usize::from(compression.frame_pages);
        Ok(Self {
            encoder: Encoder::new(compression)?,
            frame_pages,
            gathered: Vec::with_capacity(frame_pages * PAGE_SIZE),
        })
    }

    pub(super) fn encode(&mut self, batch: &Batch, out: &mut Encoded) -> Result<(), WriteError> {
        out.len = 0;
        out.contents.clear();
        classify(batch, &mut out.contents);
        for first in (0..batch.pages).step_by(self.frame_pages) {
            let last = batch.pages.min(first + self.frame_pages);
            self.encode_frame(batch, first..last, out)?;
        }
        Ok(())
    }

    /// One frame of the pages in `window` that have content; none if there are none.
    fn encode_frame(
        &mut self,
        batch: &Batch,
        window: std::ops::Range<usize>,
        out: &mut Encoded,
    ) -> Result<(), WriteError> {
        let has_content = |page: usize| matches!(out.contents[page], UNPLACED);
        let pages = window.clone().filter(|&page| has_content(page)).count();
        if pages == 0 {
            return Ok(());
        }
        let content = if pages == window.len() {
            &batch.bytes[window.start * PAGE_SIZE..window.end * PAGE_SIZE]
        } else {
            self.gathered.clear();
            for page in window.clone().filter(|&page| has_content(page)) {
                let from = page * PAGE_SIZE;
                self.gathered
                    .extend_from_slice(&batch.bytes[from..from + PAGE_SIZE]);
            }
            &self.gathered
        };
        let start = out.len;
        let (sum, payload) = out.bytes[start..].split_at_mut(FRAME_CHECKSUM_LEN);
        sum.copy_from_slice(&checksum(content).to_le_bytes());
        let (codec, len) = self.encoder.encode(content, payload)?;
        out.len += FRAME_CHECKSUM_LEN + len;
        let too_large = |_| WriteError::Compress("a frame is too large".into());
        let frame = FrameRef {
            offset: start as u64,
            payload_len: u32::try_from(len).map_err(too_large)?,
            pages: u16::try_from(pages).map_err(too_large)?,
            codec,
        };
        let mut slot = 0;
        for content in &mut out.contents[window] {
            if *content == UNPLACED {
                *content = Said::Is(Content::Frame { frame, slot });
                slot += 1;
            }
        }
        Ok(())
    }
}

/// Stands for a page with content until its frame is known; no frame has no payload.
const UNPLACED: Said = Said::Is(Content::Frame {
    frame: FrameRef {
        offset: 0,
        payload_len: 0,
        pages: 0,
        codec: crate::Codec::Stored,
    },
    slot: 0,
});

fn classify(batch: &Batch, contents: &mut Vec<Said>) {
    let mut page = 0;
    for &(kind, pages) in &batch.runs {
        match kind {
            RunKind::Known(first) => {
                contents.extend((0..pages).map(|offset| first.offset_by(offset as u64)));
            }
            RunKind::Data => {
                let bytes = &batch.bytes[page * PAGE_SIZE..(page + pages) * PAGE_SIZE];
                contents.extend(bytes.chunks_exact(PAGE_SIZE).map(class_of));
            }
        }
        page += pages;
    }
}

/// Zero, same-filled, or with content.
fn class_of(page: &[u8]) -> Said {
    let words = page.as_chunks::<8>().0;
    let (Some(first), Some(last)) = (words.first(), words.last()) else {
        return UNPLACED;
    };
    // Most pages with content are told by their ends. The others are one word all over if they are the same moved by a
    // word, which memcmp finds out several times faster than a loop over the words.
    if first != last || page[8..] != page[..page.len() - 8] {
        return UNPLACED;
    }
    match u64::from_le_bytes(*first) {
        0 => Said::Is(Content::Zero),
        word => Said::Is(Content::Fill(word)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_zero_or_filled_only_if_every_word_is_the_same() {
        let mut page = vec![0; PAGE_SIZE];
        assert_eq!(class_of(&page), Said::Is(Content::Zero));
        for position in [0, 7, 8, 2048, PAGE_SIZE - 8, PAGE_SIZE - 1] {
            page[position] = 1;
            assert_eq!(class_of(&page), UNPLACED, "byte {position} differs");
            page[position] = 0;
        }
        crate::cursor::fill(&mut page, 0x0123_4567_89ab_cdef);
        let filled = Content::Fill(0x0123_4567_89ab_cdef);
        assert_eq!(class_of(&page), Said::Is(filled));
    }
}
