//! The first 4096 bytes: identity, limits and the section table.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::codec::checksum;
use crate::error::{Error, Place};
use crate::fields::Fields;
use crate::page::{PAGE_BYTES, PAGE_SIZE};
use crate::section::{SECTION_ENTRY_LEN, Section, SectionKind};
use std::fmt;

/// The version of the format that this crate writes and reads.
pub const VERSION: u32 = 1;

/// Bytes of the header, section table and checksum included.
pub(crate) const HEADER_LEN: u64 = PAGE_BYTES;

/// Like PNG's: a byte with the high bit, a name, both line endings and a DOS end of file, so that a transfer as text
/// breaks it. A file that begins with it is a snapshot, whole or not, and nothing else.
pub const MAGIC: [u8; 8] = *b"\x89UFS\r\n\x1a\n";

/// Most pages a frame may hold: 2 MiB.
pub(crate) const MAX_FRAME_PAGES: u16 = 512;

/// Most pages a snapshot may hold: 256 TiB of memory.
pub(crate) const MAX_PAGES: u64 = 1 << 36;

const TABLE_OFFSET: usize = 128;
const CHECKSUM_OFFSET: usize = PAGE_SIZE - 8;
/// Most sections that fit between the fixed fields and the checksum.
pub(crate) const MAX_SECTIONS: usize = (CHECKSUM_OFFSET - TABLE_OFFSET) / SECTION_ENTRY_LEN;

/// 128 random bits that name a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SnapshotId(pub [u8; 16]);

impl fmt::Display for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotId({self})")
    }
}

impl std::str::FromStr for SnapshotId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u128::from_str_radix(text, 16) {
            Ok(number) if is_hex => {
                // Written out first byte first, as Display does; not an integer of the format.
                let mut bytes = number.to_le_bytes();
                bytes.reverse();
                Ok(Self(bytes))
            }
            _ => Err("an id is 32 hexadecimal digits"),
        }
    }
}

/// The header, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub(crate) id: SnapshotId,
    /// Pages of all regions.
    pub(crate) pages: u64,
    /// Bytes of the whole file.
    pub(crate) file_len: u64,
    /// No frame of the file has more pages.
    pub(crate) max_frame_pages: u16,
    pub(crate) sections: Vec<Section>,
}

impl Header {
    pub(crate) fn encode(&self) -> Result<[u8; PAGE_SIZE], &'static str> {
        let count = u32::try_from(self.sections.len()).map_err(|_| "too many sections")?;
        let mut bytes = Vec::with_capacity(PAGE_SIZE);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&0u64.to_le_bytes());
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes.extend_from_slice(&self.file_len.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.max_frame_pages).to_le_bytes());
        bytes.resize(TABLE_OFFSET, 0);
        for section in &self.sections {
            bytes.extend_from_slice(&section.encode());
        }
        if bytes.len() > CHECKSUM_OFFSET {
            return Err("too many sections");
        }
        bytes.resize(CHECKSUM_OFFSET, 0);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes.try_into().map_err(|_| "the header is not one page")
    }

    /// Decode and check everything that the header says about itself.
    ///
    /// # Errors
    /// [`Error::NotASnapshot`], [`Error::UnknownVersion`], [`Error::UnknownFeatures`], [`Error::Corrupt`].
    pub fn decode(bytes: &[u8; PAGE_SIZE]) -> Result<Self, Error> {
        let short = || Error::corrupt(Place::Header, "cut short");
        let mut fields = Fields::new(bytes);
        match fields.array().ok_or_else(short)? {
            MAGIC => {}
            crate::working_set::MAGIC => return Err(Error::SetNotSnapshot),
            _ => return Err(Error::NotASnapshot),
        }
        // Before the checksum: another version may lay out the rest differently.
        match fields.u32().ok_or_else(short)? {
            VERSION => {}
            other => return Err(Error::UnknownVersion(other)),
        }
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or_else(short)?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return Err(Error::corrupt(Place::Header, "the checksum does not match"));
        }
        let section_count = fields.u32().ok_or_else(short)?;
        let id = SnapshotId(fields.array().ok_or_else(short)?);
        match fields.u64().ok_or_else(short)? {
            0 => {}
            features => return Err(Error::UnknownFeatures(features)),
        }
        let pages = fields.u64().ok_or_else(short)?;
        let file_len = fields.u64().ok_or_else(short)?;
        let max_frame_pages = fields.u32().ok_or_else(short)?;
        if !fields.zeros(TABLE_OFFSET.saturating_sub(60)) {
            return Err(Error::corrupt(
                Place::Header,
                "a reserved field is not zero",
            ));
        }
        if pages > MAX_PAGES {
            return Err(Error::corrupt(
                Place::Header,
                "more pages than the format allows",
            ));
        }
        if !file_len.is_multiple_of(PAGE_BYTES) {
            return Err(Error::corrupt(
                Place::Header,
                "the file length is not whole pages",
            ));
        }
        let max_frame_pages = u16::try_from(max_frame_pages)
            .ok()
            .filter(|pages| (1..=MAX_FRAME_PAGES).contains(pages))
            .ok_or_else(|| Error::corrupt(Place::Header, "the frame size is not 1 to 512 pages"))?;
        let sections = decode_sections(&mut fields, section_count, file_len)?;
        let table_len = sections.len().saturating_mul(SECTION_ENTRY_LEN);
        let unused = CHECKSUM_OFFSET
            .saturating_sub(TABLE_OFFSET)
            .saturating_sub(table_len);
        if !fields.zeros(unused) {
            return Err(Error::corrupt(
                Place::Header,
                "the header behind the section table is not zero",
            ));
        }
        Ok(Self {
            id,
            pages,
            file_len,
            max_frame_pages,
            sections,
        })
    }

    /// The one section of `kind`, if there is any.
    pub(crate) fn section(&self, kind: SectionKind) -> Option<Section> {
        self.sections
            .iter()
            .find(|section| section.kind == kind)
            .copied()
    }
}

fn decode_sections(
    fields: &mut Fields<'_>,
    count: u32,
    file_len: u64,
) -> Result<Vec<Section>, Error> {
    let count = usize::try_from(count)
        .ok()
        .filter(|&count| count <= MAX_SECTIONS)
        .ok_or_else(|| Error::corrupt(Place::Header, "more sections than fit"))?;
    let mut sections: Vec<Section> = Vec::with_capacity(count);
    for position in 0..count {
        let previous_end = sections.last().map_or(HEADER_LEN, Section::end);
        let section = Section::decode(fields, position, previous_end, file_len)?;
        let known = !matches!(section.kind, SectionKind::Unknown(_));
        if known && sections.iter().any(|other| other.kind == section.kind) {
            return Err(Error::corrupt(
                Place::SectionTable(position),
                "the kind is there twice",
            ));
        }
        sections.push(section);
    }
    Ok(sections)
}
