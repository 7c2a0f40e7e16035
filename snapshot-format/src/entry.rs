//! An entry of the page index: 16 bytes that say where a page's content is.
//!
//! The same 16 bytes stand for one page in a leaf and for a whole subtree in an inner node. SPEC.md, "Page index".
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::codec::Codec;
use crate::header::MAX_PAGES;
use crate::page::{PAGE_BYTES, PageNo};

/// Bytes of an entry.
pub(crate) const ENTRY_LEN: usize = 16;

/// Bytes of checksum in front of a frame's payload.
pub(crate) const FRAME_CHECKSUM_LEN: usize = 8;

/// A frame: up to 512 pages compressed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FrameRef {
    /// Offset of the frame's checksum in the frames section, in bytes.
    pub offset: u64,
    /// Bytes of the payload behind the checksum.
    pub payload_len: u32,
    /// Pages of content.
    pub pages: u16,
    /// How the payload is coded.
    pub codec: Codec,
}

impl FrameRef {
    /// Bytes of the decoded content.
    #[must_use]
    pub fn content_len(&self) -> usize {
        usize::from(self.pages).saturating_mul(crate::page::PAGE_SIZE)
    }

    /// Offset of the first byte behind the frame in the frames section.
    #[must_use]
    pub fn end(&self) -> u64 {
        let len = u64::from(self.payload_len).saturating_add(FRAME_CHECKSUM_LEN as u64);
        self.offset.saturating_add(len)
    }
}

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Content {
    /// All bytes are zero.
    Zero,
    /// The page is this 64-bit word (little-endian), 512 times; the word is not 0.
    Fill(u64),
    /// Page number `slot` of a frame.
    Frame {
        /// The frame.
        frame: FrameRef,
        /// Position of the page in the frame's content, from 0.
        slot: u16,
    },
    /// This page of the parent snapshot.
    Parent(PageNo),
    /// It could not be read at capture time. Never to be served as zero.
    Lost,
}

impl Content {
    /// The content of the page `pages` behind one with this content in the same uniform run.
    pub(crate) fn offset_by(self, pages: u64) -> Self {
        match self {
            Self::Parent(first) => Self::Parent(PageNo(first.0.saturating_add(pages))),
            other => other,
        }
    }
}

/// What an entry of an inner node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inner {
    /// All pages below are alike; never [`Content::Frame`].
    Uniform(Content),
    /// A node of the next lower level.
    Node {
        /// Offset in the index section.
        offset: u64,
        /// XXH3-64 of the node's 4096 bytes.
        checksum: u64,
    },
}

/// What the rest of the file allows an entry to say.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the frames section.
    pub frames_len: u64,
    /// Bytes of the index section.
    pub index_len: u64,
    /// Most pages in a frame.
    pub max_frame_pages: u16,
    /// Pages in the parent; 0 when there is none.
    pub parent_pages: u64,
}

const CLASS_ZERO: u64 = 1;
const CLASS_FILL: u64 = 2;
const CLASS_FRAME: u64 = 3;
const CLASS_PARENT: u64 = 4;
const CLASS_LOST: u64 = 5;
const CLASS_NODE: u64 = 6;

/// Bits 0-3 of the first word.
const CLASS_MASK: u64 = 0xf;
/// Above the class: codec 4-7, slot 8-16, pages-1 17-25, payload length 26-47, the rest zero.
const CODEC_SHIFT: u32 = 4;
const SLOT_SHIFT: u32 = 8;
const PAGES_SHIFT: u32 = 17;
const LEN_SHIFT: u32 = 26;
const END_SHIFT: u32 = 48;

const fn field(word: u64, from: u32, to: u32) -> u64 {
    // Shifts are constants below 64; the mask keeps `to - from` bits.
    (word >> from) & !(u64::MAX << to.wrapping_sub(from))
}

/// The number in a field of at most 16 bits.
#[expect(
    clippy::cast_possible_truncation,
    reason = "callers pass fields of at most 10 bits"
)]
const fn small(field: u64) -> u16 {
    field as u16
}

fn words(entry: &[u8; ENTRY_LEN]) -> (u64, u64) {
    let (low, high) = entry.split_at(8);
    let word = |bytes: &[u8]| {
        bytes
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    (word(low), word(high))
}

fn bytes(first: u64, second: u64) -> [u8; ENTRY_LEN] {
    (u128::from(first) | (u128::from(second) << 64)).to_le_bytes()
}

pub(crate) fn encode_leaf(content: Content) -> [u8; ENTRY_LEN] {
    match content {
        Content::Zero => bytes(CLASS_ZERO, 0),
        Content::Fill(word) => bytes(CLASS_FILL, word),
        Content::Frame { frame, slot } => {
            let first = CLASS_FRAME
                | frame.codec.number() << CODEC_SHIFT
                | u64::from(slot) << SLOT_SHIFT
                | u64::from(frame.pages.saturating_sub(1)) << PAGES_SHIFT
                | u64::from(frame.payload_len) << LEN_SHIFT;
            bytes(first, frame.offset)
        }
        Content::Parent(page) => bytes(CLASS_PARENT, page.0),
        Content::Lost => bytes(CLASS_LOST, 0),
    }
}

pub(crate) fn encode_inner(inner: Inner) -> [u8; ENTRY_LEN] {
    match inner {
        Inner::Uniform(content) => encode_leaf(content),
        Inner::Node { offset, checksum } => bytes(CLASS_NODE | offset, checksum),
    }
}

/// Decode what a page or a subtree of `pages` pages uniformly is. `None` for classes of leaf or inner entries alone.
fn decode_uniform(
    first: u64,
    second: u64,
    pages: u64,
    limits: &Limits,
) -> Result<Option<Content>, &'static str> {
    let content = match field(first, 0, SLOT_SHIFT) {
        CLASS_ZERO => Content::Zero,
        CLASS_FILL if second == 0 => return Err("a fill word is zero"),
        CLASS_FILL => Content::Fill(second),
        CLASS_PARENT => {
            let last = second.checked_add(pages.max(1).wrapping_sub(1));
            if last.is_none_or(|last| last >= limits.parent_pages) {
                return Err("a page is not in the parent snapshot");
            }
            Content::Parent(PageNo(second))
        }
        CLASS_LOST => Content::Lost,
        _ => return Ok(None),
    };
    let word_used = matches!(content, Content::Fill(_) | Content::Parent(_));
    if first > CLASS_MASK || (!word_used && second != 0) {
        return Err("reserved bits are not zero");
    }
    Ok(Some(content))
}

/// Decode an entry of a leaf, checked against the limits of the file.
///
/// # Errors
/// What is wrong with the entry.
pub fn decode_leaf(entry: &[u8; ENTRY_LEN], limits: &Limits) -> Result<Content, &'static str> {
    let (first, second) = words(entry);
    match first & CLASS_MASK {
        CLASS_FRAME => decode_frame(first, second, limits),
        CLASS_NODE => Err("a node is referred to where a page belongs"),
        _ => decode_uniform(first, second, 1, limits)?.ok_or("the class is not known"),
    }
}

fn decode_frame(first: u64, offset: u64, limits: &Limits) -> Result<Content, &'static str> {
    let codec = Codec::from_number(field(first, CODEC_SHIFT, SLOT_SHIFT))
        .ok_or("the codec is not known")?;
    let slot = small(field(first, SLOT_SHIFT, PAGES_SHIFT));
    let pages = small(field(first, PAGES_SHIFT, LEN_SHIFT)).saturating_add(1);
    let payload_len = field(first, LEN_SHIFT, END_SHIFT);
    if field(first, END_SHIFT, 64) != 0 {
        return Err("reserved bits are not zero");
    }
    if pages > limits.max_frame_pages {
        return Err("the frame has more pages than the header allows");
    }
    if slot >= pages {
        return Err("the slot is not in the frame");
    }
    let content_len = u64::from(pages).saturating_mul(PAGE_BYTES);
    let len_fits = match codec {
        Codec::Stored => payload_len == content_len,
        Codec::Lz4 | Codec::Zstd => payload_len > 0 && payload_len < content_len,
    };
    if !len_fits {
        return Err("the payload length does not fit the codec");
    }
    offset
        .checked_add(payload_len.saturating_add(FRAME_CHECKSUM_LEN as u64))
        .filter(|&end| end <= limits.frames_len)
        .ok_or("the frame reaches past the frames section")?;
    let payload_len = u32::try_from(payload_len).map_err(|_| "the payload is too long")?;
    let frame = FrameRef {
        offset,
        payload_len,
        pages,
        codec,
    };
    Ok(Content::Frame { frame, slot })
}

/// Decode an entry of an inner node whose subtree has `pages` pages.
///
/// # Errors
/// What is wrong with the entry.
pub fn decode_inner(
    entry: &[u8; ENTRY_LEN],
    pages: u64,
    limits: &Limits,
) -> Result<Inner, &'static str> {
    let (first, second) = words(entry);
    if first & CLASS_MASK == CLASS_NODE {
        let offset = first ^ CLASS_NODE;
        if !offset.is_multiple_of(PAGE_BYTES) {
            return Err("reserved bits are not zero");
        }
        return offset
            .checked_add(PAGE_BYTES)
            .filter(|&end| end <= limits.index_len)
            .map(|_| Inner::Node {
                offset,
                checksum: second,
            })
            .ok_or("the node is not in the index section");
    }
    decode_uniform(first, second, pages, limits)?
        .map(Inner::Uniform)
        .ok_or("the class is not known")
}

// Every page number fits an entry, and so does every node's offset beside its class.
const _: () = assert!(MAX_PAGES <= 1 << 40 && CLASS_NODE < PAGE_BYTES);
