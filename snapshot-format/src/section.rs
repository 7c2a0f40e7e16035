//! The section table: which kind of bytes lies where.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::error::{Error, Place};
use crate::fields::Fields;
use crate::header::{HEADER_LEN, MAX_PAGES, SnapshotId};
use crate::page::PAGE_BYTES;

/// Bytes of an entry of the section table.
pub(crate) const SECTION_ENTRY_LEN: usize = 32;

/// What a section holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SectionKind {
    /// The region map.
    Regions,
    /// The page index; its root is the last node.
    Index,
    /// Compressed page content.
    Frames,
    /// A JSON object about the snapshot's origin.
    Metadata,
    /// The snapshot that holds pages of class "parent".
    Parent,
    /// Which processes the regions belong to.
    Processes,
    /// A kind that this reader does not know, and skips.
    Unknown(u32),
}

impl SectionKind {
    pub(crate) fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Regions,
            2 => Self::Index,
            3 => Self::Frames,
            4 => Self::Metadata,
            5 => Self::Parent,
            6 => Self::Processes,
            other => Self::Unknown(other),
        }
    }

    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Regions => 1,
            Self::Index => 2,
            Self::Frames => 3,
            Self::Metadata => 4,
            Self::Parent => 5,
            Self::Processes => 6,
            Self::Unknown(number) => number,
        }
    }
}

/// A section: a range of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) kind: SectionKind,
    /// Offset in the file, a multiple of 4096.
    pub(crate) offset: u64,
    /// Length in bytes.
    pub(crate) len: u64,
    /// XXH3-64 of the bytes; of the root node for the index; 0 for the frames, each of which has its own.
    pub(crate) checksum: u64,
}

impl Section {
    /// The first byte after the section. `decode` checked that it does not overflow.
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }

    pub(crate) fn encode(&self) -> [u8; SECTION_ENTRY_LEN] {
        let mut bytes = [0; SECTION_ENTRY_LEN];
        let fields = [
            u64::from(self.kind.number()),
            self.offset,
            self.len,
            self.checksum,
        ];
        for (slot, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *slot = field.to_le_bytes();
        }
        bytes
    }

    /// Decode entry number `position`, which must lie behind `previous_end` and inside the file.
    pub(crate) fn decode(
        fields: &mut Fields<'_>,
        position: usize,
        previous_end: u64,
        file_len: u64,
    ) -> Result<Self, Error> {
        let corrupt = |what| Error::corrupt(Place::SectionTable(position), what);
        let short = || corrupt("the table is cut short");
        let kind = SectionKind::from_number(fields.u32().ok_or_else(short)?);
        if fields.u32().ok_or_else(short)? != 0 {
            return Err(corrupt("a reserved field is not zero"));
        }
        let offset = fields.u64().ok_or_else(short)?;
        let len = fields.u64().ok_or_else(short)?;
        let checksum = fields.u64().ok_or_else(short)?;
        if !offset.is_multiple_of(PAGE_BYTES) {
            return Err(corrupt("the section is not aligned to 4096 bytes"));
        }
        if offset < HEADER_LEN || offset < previous_end {
            return Err(corrupt("the section overlaps what comes before it"));
        }
        match offset.checked_add(len) {
            Some(end) if end <= file_len => Ok(Self {
                kind,
                offset,
                len,
                checksum,
            }),
            _ => Err(corrupt("the section reaches past the end of the file")),
        }
    }
}

/// The snapshot that pages of class "parent" live in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentLayer {
    /// Id of the parent snapshot.
    pub id: SnapshotId,
    /// Pages in the parent snapshot.
    pub pages: u64,
    /// Where it was when this file was written; a hint, not a promise.
    pub path: String,
}

/// Longest path in a parent section, in bytes.
pub(crate) const MAX_PARENT_PATH: usize = 4096;

impl ParentLayer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&self.id.0);
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes.extend_from_slice(self.path.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let corrupt = |what| Error::corrupt(Place::Parent, what);
        let mut fields = Fields::new(bytes);
        let (id, pages) = fields
            .array()
            .zip(fields.u64())
            .ok_or_else(|| corrupt("the section is cut short"))?;
        if pages > MAX_PAGES {
            return Err(corrupt("more pages than the format allows"));
        }
        let rest = fields
            .take(bytes.len().saturating_sub(24))
            .unwrap_or_default();
        let path =
            String::from_utf8(rest.to_vec()).map_err(|_| corrupt("the path is not UTF-8"))?;
        Ok(Self {
            id: SnapshotId(id),
            pages,
            path,
        })
    }
}
