//! Reading pages: one thread's working memory over a shared snapshot.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::codec::{Decoder, checksum};
use crate::entry::{
    Content, ENTRY_LEN, FRAME_CHECKSUM_LEN, FrameRef, Inner, decode_inner, decode_leaf,
};
use crate::error::{Error, Place};
use crate::header::SnapshotId;
use crate::index::{FAN_OUT, pages_per_entry};
use crate::page::{PAGE_BYTES, PAGE_SIZE, Page, PageNo};
use crate::snapshot::Snapshot;
use crate::storage::ReadAt;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Nodes that a cursor remembers at most, direct-mapped: leaves, each of which describes 1 MiB of memory, and those above,
/// 256 MiB each. A random page of 512 MiB is found without a system call, one of 64 GiB with one.
const CACHED: [u64; 2] = [512, 256];

/// Reads pages of a snapshot, one per thread. It holds everything that a read needs, allocated once: room for the index
/// nodes that have been checked, at most 3 MiB and no more than the file has, of which only what is used takes memory; for
/// one stored frame and two decoded ones; and the codec's context.
pub struct Cursor<S> {
    snapshot: Arc<Snapshot<S>>,
    /// Nodes of level 0, and of all levels above.
    caches: [NodeCache; 2],
    decoder: Decoder,
    /// Checksums and payloads of frames as they stand in the file.
    stored: Vec<u8>,
    /// Which bytes of the frames section [`Cursor::fetch`] has left in `stored`.
    fetched: Range<u64>,
    /// The two frames decoded last by [`Cursor::frame_content`]: pages of a child process are those of its parent and its own
    /// in turn.
    decoded: [Decoded; 2],
    /// Which of them makes room for the next.
    older: usize,
}

/// A decoded frame.
struct Decoded {
    bytes: Vec<u8>,
    of: Option<FrameRef>,
}

/// A node: its offset in the index section, and the checksum that it was found to have.
type NodeKey = (u64, u64);

/// Checked nodes of the index.
struct NodeCache {
    keys: Vec<Option<NodeKey>>,
    /// One after the other in one allocation, which the system fills with zeros when they are used first.
    nodes: Vec<u8>,
}

impl NodeCache {
    fn new(slots: u64) -> Self {
        let slots = usize::try_from(slots).unwrap_or(1);
        Self {
            keys: vec![None; slots],
            nodes: vec![0; slots.saturating_mul(PAGE_SIZE)],
        }
    }

    /// The slot for the node at `offset`: neighbours in the file do not displace each other.
    fn slot(&mut self, offset: u64) -> Option<(&mut Option<NodeKey>, &mut Page)> {
        let count = self.keys.len() as u64;
        let position = (offset / PAGE_BYTES).checked_rem(count)?;
        let position = usize::try_from(position).ok()?;
        let nodes = self.nodes.as_chunks_mut().0;
        Some((self.keys.get_mut(position)?, nodes.get_mut(position)?))
    }
}

impl<S: ReadAt> Cursor<S> {
    /// Working memory for reading `snapshot`.
    #[must_use]
    pub fn new(snapshot: Arc<Snapshot<S>>) -> Self {
        let content = usize::from(snapshot.max_frame_pages()).saturating_mul(PAGE_SIZE);
        let nodes = snapshot.limits().index_len / PAGE_BYTES;
        Self {
            snapshot,
            caches: CACHED.map(|most| NodeCache::new(nodes.min(most))),
            decoder: Decoder::new(),
            stored: vec![0; content.saturating_add(FRAME_CHECKSUM_LEN)],
            fetched: 0..0,
            decoded: [content, content].map(|len| Decoded {
                bytes: vec![0; len],
                of: None,
            }),
            older: 0,
        }
    }

    /// The snapshot being read.
    pub fn snapshot(&self) -> &Arc<Snapshot<S>> {
        &self.snapshot
    }

    /// What a page is.
    ///
    /// # Errors
    /// [`Error::NoSuchPage`]; [`Error::Corrupt`] or [`Error::Read`] naming the place in the index.
    pub fn content(&mut self, page: PageNo) -> Result<Content, Error> {
        self.run(page).map(|(content, _)| content)
    }

    /// What a page is, and how many pages from it on one entry of the index says the same of (for
    /// [`Content::Parent`]: continues); 1 for a page that has an entry of its own.
    ///
    /// # Errors
    /// Those of [`Cursor::content`].
    pub fn run(&mut self, page: PageNo) -> Result<(Content, u64), Error> {
        let pages = self.snapshot.pages();
        if page.0 >= pages {
            return Err(Error::NoSuchPage {
                page: page.0,
                pages,
            });
        }
        let limits = self.snapshot.limits();
        let at = |what| Error::corrupt(Place::IndexEntry(page.0), what);
        let top = self.snapshot.index_levels().saturating_sub(1);
        let mut entry = entry_of(self.snapshot.root(), page, top);
        for level in (0..top).rev() {
            let covered = pages_per_entry(level.saturating_add(1));
            let into = page.0.checked_rem(covered).unwrap_or(0);
            let existing = covered.min(pages.saturating_sub(page.0.saturating_sub(into)));
            match decode_inner(&entry, existing, &limits).map_err(at)? {
                Inner::Uniform(content) => {
                    return Ok((content.offset_by(into), existing.saturating_sub(into)));
                }
                Inner::Node { offset, checksum } => {
                    entry = entry_of(self.node(level, offset, checksum)?, page, level);
                }
            }
        }
        decode_leaf(&entry, &limits)
            .map(|content| (content, 1))
            .map_err(at)
    }

    /// The node at `offset` of the index section, read and checked unless it is remembered.
    fn node(&mut self, level: u32, offset: u64, expected: u64) -> Result<&Page, Error> {
        let [leaves, inner] = &mut self.caches;
        let cache = if level == 0 { leaves } else { inner };
        let place = || Place::IndexNode(self.snapshot.index_at(offset));
        let (cached, node) = cache
            .slot(offset)
            .ok_or_else(|| Error::corrupt(place(), "not a node"))?;
        if *cached != Some((offset, expected)) {
            *cached = None;
            self.snapshot
                .storage()
                .read_exact_at(node, self.snapshot.index_at(offset))
                .map_err(|source| Error::read(place(), source))?;
            if checksum(node) != expected {
                return Err(Error::corrupt(place(), "the checksum does not match"));
            }
            *cached = Some((offset, expected));
        }
        Ok(node)
    }

    /// Read everything from frame `first` to frame `last` with one call, for whoever wants all of it: a call for each frame
    /// costs up to a tenth of its decoding. Nothing happens when that is more than `most` bytes. What fails here fails
    /// again for the frame that it concerns, which then says so.
    pub fn fetch(&mut self, first: &FrameRef, last: &FrameRef, most: usize) {
        self.fetched = 0..0;
        let len = usize::try_from(last.end().saturating_sub(first.offset)).unwrap_or(usize::MAX);
        if len > most {
            return;
        }
        if self.stored.len() < len {
            self.stored.resize(len, 0);
        }
        let at = self.snapshot.frames_at(first.offset);
        let storage = self.snapshot.storage();
        if let Some(stored) = self.stored.get_mut(..len)
            && storage.read_exact_at(stored, at).is_ok()
        {
            self.fetched = first.offset..last.end();
        }
    }

    /// Decode a frame into `out`, which has exactly its content's length, and check it. Nothing is allocated.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Read`] naming the frame; `out` then holds garbage that must not be used.
    pub fn read_frame(&mut self, frame: &FrameRef, out: &mut [u8]) -> Result<(), Error> {
        let stored = stored(&self.snapshot, &mut self.stored, &mut self.fetched, frame)?;
        decode(&self.snapshot, &mut self.decoder, stored, frame, out)
    }

    /// The content of one page. The two frames decoded last are remembered, so that reading their other pages is a copy.
    ///
    /// # Errors
    /// Those of [`Cursor::content`] and [`Cursor::read_frame`]; [`Error::Lost`], [`Error::InParent`].
    pub fn read_page(&mut self, page: PageNo, out: &mut Page) -> Result<(), Error> {
        match self.content(page)? {
            Content::Zero => out.fill(0),
            Content::Fill(word) => fill(out, word),
            Content::Lost => return Err(Error::Lost(page.0)),
            Content::Parent(_) => {
                return Err(Error::InParent {
                    page: page.0,
                    parent: self
                        .snapshot
                        .parent()
                        .map_or(SnapshotId([0; 16]), |parent| parent.id),
                });
            }
            Content::Frame { frame, slot } => {
                let content = self.frame_content(&frame)?;
                let from = usize::from(slot).saturating_mul(PAGE_SIZE);
                let bytes = content.get(from..).and_then(<[u8]>::first_chunk);
                *out = *bytes.ok_or(Error::NoSuchPage {
                    page: page.0,
                    pages: u64::from(frame.pages),
                })?;
            }
        }
        Ok(())
    }

    /// The content of a frame in memory of the cursor, valid until the next call.
    ///
    /// # Errors
    /// Those of [`Cursor::read_frame`].
    pub fn frame_content(&mut self, frame: &FrameRef) -> Result<&[u8], Error> {
        let remembered = self.decoded.iter().position(|one| one.of == Some(*frame));
        let place = remembered.unwrap_or(self.older);
        self.older = 1_usize.saturating_sub(place);
        let needed = frame.content_len();
        let no_room = |given| Error::Buffer { given, needed };
        let one = self.decoded.get_mut(place).ok_or_else(|| no_room(0))?;
        let given = one.bytes.len();
        let out = one.bytes.get_mut(..needed).ok_or_else(|| no_room(given))?;
        if remembered.is_none() {
            one.of = None;
            let stored = stored(&self.snapshot, &mut self.stored, &mut self.fetched, frame)?;
            decode(&self.snapshot, &mut self.decoder, stored, frame, out)?;
            one.of = Some(*frame);
        }
        Ok(out)
    }
}

impl<S> fmt::Debug for Cursor<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").finish_non_exhaustive()
    }
}

/// The entry for `page` in a node of `level`.
fn entry_of(node: &Page, page: PageNo, level: u32) -> [u8; ENTRY_LEN] {
    let position = page.0.checked_div(pages_per_entry(level)).unwrap_or(0) % FAN_OUT;
    let entries = node.as_chunks::<ENTRY_LEN>().0;
    // The position is below 256, and a node has 256 entries. An entry of zeros would be refused.
    usize::try_from(position)
        .ok()
        .and_then(|position| entries.get(position))
        .copied()
        .unwrap_or_default()
}

/// Write a page of one repeated word.
pub(crate) fn fill(out: &mut [u8], word: u64) {
    for chunk in out.as_chunks_mut::<8>().0 {
        *chunk = word.to_le_bytes();
    }
}

/// The checksum and payload of a frame: among what was fetched, or else read to the start of `buffer`.
fn stored<'a, S: ReadAt>(
    snapshot: &Snapshot<S>,
    buffer: &'a mut [u8],
    fetched: &mut Range<u64>,
    frame: &FrameRef,
) -> Result<&'a [u8], Error> {
    let fetched_from = frame.offset.checked_sub(fetched.start);
    let from = fetched_from.filter(|_| frame.end() <= fetched.end);
    let start = usize::try_from(from.unwrap_or(0)).unwrap_or(usize::MAX);
    let len = usize::try_from(frame.payload_len).unwrap_or(usize::MAX);
    let (given, needed) = (buffer.len(), len.saturating_add(FRAME_CHECKSUM_LEN));
    let stored = buffer
        .get_mut(start..start.saturating_add(needed))
        .ok_or(Error::Buffer { given, needed })?;
    if from.is_none() {
        *fetched = 0..0;
        let at = snapshot.frames_at(frame.offset);
        snapshot
            .storage()
            .read_exact_at(stored, at)
            .map_err(|source| Error::read(Place::Frame(at), source))?;
    }
    Ok(stored)
}

/// Decode what is stored of a frame into `out`, and check it.
fn decode<S: ReadAt>(
    snapshot: &Snapshot<S>,
    decoder: &mut Decoder,
    stored: &[u8],
    frame: &FrameRef,
    out: &mut [u8],
) -> Result<(), Error> {
    let at = snapshot.frames_at(frame.offset);
    let (given, needed) = (out.len(), frame.content_len());
    if given != needed {
        return Err(Error::Buffer { given, needed });
    }
    let corrupt = |what| Error::corrupt(Place::Frame(at), what);
    let (sum, payload) = stored
        .split_first_chunk::<8>()
        .ok_or_else(|| corrupt("the frame is cut short"))?;
    decoder.decode(frame.codec, payload, out).map_err(corrupt)?;
    // Bound to its place: a frame of this file that turns up elsewhere is not taken for the one that belongs there.
    if checksum(out) ^ frame.offset != u64::from_le_bytes(*sum) {
        return Err(corrupt("the content does not match its checksum"));
    }
    Ok(())
}
