//! Changing a file and making its checksums right again, so that the checks behind them are reached. The layout is
//! written down here once more, from SPEC.md and not from the crate.

use std::collections::HashSet;

pub(crate) const PAGE: usize = 4096;
pub(crate) const SECTION_COUNT: usize = 12;
pub(crate) const PAGES: usize = 40;
pub(crate) const FILE_LEN: usize = 48;
pub(crate) const MAX_FRAME_PAGES: usize = 56;
pub(crate) const TABLE: usize = 128;
pub(crate) const ENTRY: usize = 32;
const HEADER_SUM: usize = PAGE - 8;

pub(crate) const REGIONS: u32 = 1;
pub(crate) const INDEX: u32 = 2;
pub(crate) const FRAMES: u32 = 3;
pub(crate) const METADATA: u32 = 4;
pub(crate) const PARENT: u32 = 5;
pub(crate) const PROCESSES: u32 = 6;

const CLASS_FRAME: u64 = 3;
const CLASS_NODE: u64 = 6;

/// A file being changed.
#[derive(Debug, Clone)]
pub(crate) struct Forge {
    pub(crate) bytes: Vec<u8>,
}

/// Where a section is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    /// Of its entry in the header.
    pub(crate) entry: usize,
    pub(crate) offset: usize,
    pub(crate) len: usize,
}

impl At {
    pub(crate) fn range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset + self.len
    }
}

impl Forge {
    pub(crate) fn u64(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        u64::from_le_bytes(*bytes.expect("inside the file"))
    }

    pub(crate) fn set_u64(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn set_u32(&mut self, at: usize, value: u32) {
        self.bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        let bytes = self.bytes.get(at..).and_then(<[u8]>::first_chunk);
        u32::from_le_bytes(*bytes.expect("inside the file"))
    }

    /// The section of this kind, if the table has it and it lies in the file.
    pub(crate) fn find(&self, kind: u32) -> Option<At> {
        let count = usize::try_from(self.u32(SECTION_COUNT)).ok()?.min(120);
        let mut entries = (0..count).map(|number| TABLE + number * ENTRY);
        let entry = entries.find(|&entry| self.u32(entry) == kind)?;
        let offset = usize::try_from(self.u64(entry + 8)).ok()?;
        let len = usize::try_from(self.u64(entry + 16)).ok()?;
        let end = offset.checked_add(len)?;
        (end <= self.bytes.len()).then_some(At { entry, offset, len })
    }

    pub(crate) fn section(&self, kind: u32) -> At {
        self.find(kind).expect("a good file has the section")
    }

    /// Offset in the file of the root of the index.
    pub(crate) fn root(&self) -> usize {
        self.section(INDEX).range().end - PAGE
    }

    /// Where the entry of a page stands in its leaf, and where its ancestors stand, from the root on.
    pub(crate) fn path(&self, page: u64) -> Vec<usize> {
        let index = self.section(INDEX);
        let mut node = self.root();
        let mut path = Vec::new();
        for level in (0..levels(self.u64(PAGES))).rev() {
            let position = (page >> (8 * level)) % 256;
            let entry = node + 16 * usize::try_from(position).expect("below 256");
            path.push(entry);
            if self.u64(entry) & 15 != CLASS_NODE || level == 0 {
                break;
            }
            node =
                index.offset + usize::try_from(self.u64(entry) ^ CLASS_NODE).expect("in the file");
        }
        path
    }

    /// Put the bytes of a section behind everything else and point the table there.
    pub(crate) fn move_to_end(&mut self, kind: u32, bytes: &[u8]) {
        let entry = self.section(kind).entry;
        self.bytes
            .resize(self.bytes.len().next_multiple_of(PAGE), 0);
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.bytes
            .resize(self.bytes.len().next_multiple_of(PAGE), 0);
        // The table is in the order of the offsets.
        let count = usize::try_from(self.u32(SECTION_COUNT)).expect("a few");
        let last = TABLE + (count - 1) * ENTRY;
        self.bytes.copy_within(entry + ENTRY..last + ENTRY, entry);
        self.set_u64(last, u64::from(kind));
        self.set_u64(last + 8, offset as u64);
        self.set_u64(last + 16, bytes.len() as u64);
        let file_len = self.bytes.len() as u64;
        self.set_u64(FILE_LEN, file_len);
    }

    /// Make every checksum right that can be: frames, nodes from the leaves up, sections, header.
    pub(crate) fn repair(&mut self) {
        let frames = self.find(FRAMES);
        if let Some(index) = self.find(INDEX).filter(|index| index.len >= PAGE) {
            let root = index.len - PAGE;
            let mut seen = HashSet::new();
            let level = levels(self.u64(PAGES)).min(6) - 1;
            self.repair_node(index, frames, root, level, &mut seen);
            let sum = xxh3(&self.bytes[index.offset + root..index.offset + index.len]);
            self.set_u64(index.entry + 24, sum);
        }
        for kind in [REGIONS, METADATA, PARENT, PROCESSES] {
            if let Some(section) = self.find(kind) {
                let sum = xxh3(&self.bytes[section.range()]);
                self.set_u64(section.entry + 24, sum);
            }
        }
        self.repair_header();
    }

    pub(crate) fn repair_header(&mut self) {
        let sum = xxh3(&self.bytes[..HEADER_SUM]);
        self.set_u64(HEADER_SUM, sum);
    }

    /// Repair what is below the node at `offset` of the index. A node that contains itself cannot be made right.
    fn repair_node(
        &mut self,
        index: At,
        frames: Option<At>,
        offset: usize,
        level: u32,
        seen: &mut HashSet<(usize, u32)>,
    ) {
        if !seen.insert((offset, level)) {
            return;
        }
        for entry in (index.offset + offset..).step_by(16).take(256) {
            let first = self.u64(entry);
            let node = usize::try_from(first ^ CLASS_NODE).unwrap_or(usize::MAX);
            let below = first & 0xfff == CLASS_NODE && node <= index.len - PAGE;
            match frames {
                _ if level > 0 && below => {
                    self.repair_node(index, frames, node, level - 1, seen);
                    let from = index.offset + node;
                    let sum = xxh3(&self.bytes[from..from + PAGE]);
                    self.set_u64(entry + 8, sum);
                }
                Some(frames) if level == 0 && first & 15 == CLASS_FRAME => {
                    self.repair_frame(frames, first, self.u64(entry + 8));
                }
                _ => {}
            }
        }
    }

    /// Give a frame that decodes the checksum of what it decodes to.
    fn repair_frame(&mut self, frames: At, first: u64, offset: u64) {
        let pages = usize::try_from((first >> 17 & 0x1ff) + 1).expect("9 bits");
        let payload = usize::try_from(first >> 26 & 0x3f_ffff).expect("22 bits");
        let Some(at) = usize::try_from(offset).ok().filter(|&at| at < frames.len) else {
            return;
        };
        let from = frames.offset + at;
        let Some(bytes) = self.bytes.get(from + 8..(from + 8).saturating_add(payload)) else {
            return;
        };
        let mut content = vec![0; pages * PAGE];
        let decoded = match first >> 4 & 15 {
            0 if payload == content.len() => {
                content.copy_from_slice(bytes);
                Some(payload)
            }
            1 => lz4_flex::block::decompress_into(bytes, &mut content).ok(),
            2 => zstd::bulk::decompress_to_buffer(bytes, &mut content).ok(),
            _ => None,
        };
        if decoded == Some(content.len()) {
            self.set_u64(from, xxh3(&content) ^ offset);
        }
    }
}

/// Levels of the index for so many pages.
pub(crate) fn levels(pages: u64) -> u32 {
    let entries = pages.saturating_sub(1).max(1);
    entries.ilog2() / 8 + 1
}

pub(crate) fn xxh3(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}
