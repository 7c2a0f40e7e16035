//! The first 4096 bytes of a working set: whose it is, and how long everything is. The places follow from the lengths.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::MAX_SET_PAGES;
use super::history::MAX_RECORDINGS;
use super::tables::{ENTRY_LEN, RUN_LEN};
use crate::codec::checksum;
use crate::error::{Error, Place};
use crate::fields::Fields;
use crate::header::SnapshotId;
use crate::page::{PAGE_BYTES, PAGE_SIZE};
use std::ops::Range;

/// What a working set begins with; the same precautions as in the snapshot's.
pub const MAGIC: [u8; 8] = *b"\x89UWS\r\n\x1a\n";

/// The version of the working set file that this crate writes and reads.
pub(crate) const VERSION: u32 = 1;

/// Bytes of the header, checksum included.
pub(super) const HEADER_LEN: u64 = PAGE_BYTES;

const CHECKSUM_OFFSET: usize = PAGE_SIZE - 8;

/// The header, checked against itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) snapshot: SnapshotId,
    pub(super) recordings: u8,
    /// Bytes of frames, behind the header.
    pub(super) frames_len: u64,
    /// Runs, behind the frames.
    pub(super) runs: u32,
    /// Entries of the frame table, behind the runs, that are replayed.
    pub(super) frames: u32,
    /// Entries behind those, of faded pages.
    pub(super) faded_entries: u32,
    /// Pages that are replayed, zero pages included.
    pub(super) pages: u64,
    pub(super) zero_pages: u64,
    pub(super) faded_pages: u64,
    /// XXH3-64 of the frame table.
    pub(super) table_checksum: u64,
    /// The checksum of the snapshot's header: its id can be chosen, and be that of other memory.
    pub(super) snapshot_checksum: u64,
}

impl Header {
    pub(super) fn encode(&self) -> Result<[u8; PAGE_SIZE], &'static str> {
        let mut bytes = Vec::with_capacity(PAGE_SIZE);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.recordings).to_le_bytes());
        bytes.extend_from_slice(&self.snapshot.0);
        bytes.extend_from_slice(&0u64.to_le_bytes());
        bytes.extend_from_slice(&self.file_len().ok_or("too many frames")?.to_le_bytes());
        bytes.extend_from_slice(&self.frames_len.to_le_bytes());
        bytes.extend_from_slice(&self.runs.to_le_bytes());
        bytes.extend_from_slice(&self.frames.to_le_bytes());
        bytes.extend_from_slice(&self.faded_entries.to_le_bytes());
        bytes.extend_from_slice(&0u32.to_le_bytes());
        bytes.extend_from_slice(&self.pages.to_le_bytes());
        bytes.extend_from_slice(&self.zero_pages.to_le_bytes());
        bytes.extend_from_slice(&self.faded_pages.to_le_bytes());
        bytes.extend_from_slice(&self.table_checksum.to_le_bytes());
        bytes.extend_from_slice(&self.snapshot_checksum.to_le_bytes());
        bytes.resize(CHECKSUM_OFFSET, 0);
        bytes.extend_from_slice(&checksum(&bytes).to_le_bytes());
        bytes.try_into().map_err(|_| "the header is not one page")
    }

    pub(super) fn decode(bytes: &[u8; PAGE_SIZE]) -> Result<Self, Error> {
        let corrupt = |what| Error::corrupt(Place::Header, what);
        let short = || corrupt("cut short");
        let mut fields = Fields::new(bytes);
        match fields.array().ok_or_else(short)? {
            MAGIC => {}
            crate::header::MAGIC => return Err(Error::SnapshotNotSet),
            _ => return Err(Error::NotAWorkingSet),
        }
        // Before the checksum: another version may lay out the rest differently.
        match fields.u32().ok_or_else(short)? {
            VERSION => {}
            other => return Err(Error::UnknownSetVersion(other)),
        }
        let (body, sum) = bytes.split_last_chunk::<8>().ok_or_else(short)?;
        if checksum(body) != u64::from_le_bytes(*sum) {
            return Err(corrupt("the checksum does not match"));
        }
        let recordings = fields.u32().ok_or_else(short)?;
        let snapshot = SnapshotId(fields.array().ok_or_else(short)?);
        match fields.u64().ok_or_else(short)? {
            0 => {}
            features => return Err(Error::UnknownFeatures(features)),
        }
        let file_len = fields.u64().ok_or_else(short)?;
        let frames_len = fields.u64().ok_or_else(short)?;
        let runs = fields.u32().ok_or_else(short)?;
        let frames = fields.u32().ok_or_else(short)?;
        let faded_entries = fields.u32().ok_or_else(short)?;
        let reserved = fields.u32().ok_or_else(short)?;
        let pages = fields.u64().ok_or_else(short)?;
        let zero_pages = fields.u64().ok_or_else(short)?;
        let faded_pages = fields.u64().ok_or_else(short)?;
        let table_checksum = fields.u64().ok_or_else(short)?;
        let snapshot_checksum = fields.u64().ok_or_else(short)?;
        if reserved != 0 || !fields.zeros(CHECKSUM_OFFSET.saturating_sub(FIELDS_LEN)) {
            return Err(corrupt("a reserved field is not zero"));
        }
        let recordings = u8::try_from(recordings)
            .ok()
            .filter(|recordings| (1..=MAX_RECORDINGS).contains(recordings))
            .ok_or_else(|| corrupt("there are not 1 to 8 recordings"))?;
        if zero_pages > pages {
            return Err(corrupt("more pages are zero than there are"));
        }
        let all_pages = pages
            .checked_add(faded_pages)
            .filter(|&all| all <= MAX_SET_PAGES)
            .ok_or_else(|| corrupt("more pages than the format allows"))?;
        let header = Self {
            snapshot,
            recordings,
            frames_len,
            runs,
            frames,
            faded_entries,
            pages,
            zero_pages,
            faded_pages,
            table_checksum,
            snapshot_checksum,
        };
        // A run has a page and an entry a run. So what a sparse file claims to have is bounded too.
        if u64::from(runs) > all_pages || header.entries() > runs.into() {
            return Err(corrupt("more frames or runs than pages"));
        }
        if header.file_len() != Some(file_len) {
            return Err(corrupt("the file length is not the sum of its parts"));
        }
        Ok(header)
    }

    /// Bytes of the file that frames lie in.
    pub(super) fn frames_at(&self) -> Range<u64> {
        // Saturating, here and below: `file_len` has been found not to overflow.
        HEADER_LEN..HEADER_LEN.saturating_add(self.frames_len)
    }

    /// Offset in the file of a run.
    pub(super) fn run_at(&self, run: u32) -> u64 {
        let before = u64::from(run).saturating_mul(RUN_LEN as u64);
        self.frames_at().end.saturating_add(before)
    }

    /// Entries of the frame table.
    pub(super) fn entries(&self) -> u64 {
        u64::from(self.frames).saturating_add(self.faded_entries.into())
    }

    /// Bytes of the file. None when no file is that long.
    pub(super) fn file_len(&self) -> Option<u64> {
        let runs = u64::from(self.runs).checked_mul(RUN_LEN as u64)?;
        let table = self.entries().checked_mul(ENTRY_LEN as u64)?;
        HEADER_LEN
            .checked_add(self.frames_len)?
            .checked_add(runs)?
            .checked_add(table)
    }
}

/// Bytes of the fields in front of the zeros.
const FIELDS_LEN: usize = 112;
