//! What is read and checked when a working set is opened.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use super::header::{HEADER_LEN, Header, MAGIC, VERSION};
use super::tables::{ENTRY_LEN, Entry};
use crate::error::{Error, Place};
use crate::storage::ReadAt;
use std::hash::Hasher;

/// Entries read with one call.
const READ_ENTRIES: usize = 1024;

/// Entries for which room is made before any is read: 2.5 MiB.
const MAX_RESERVED: usize = 1 << 16;

/// Why a file shorter than a header is refused, as precisely as its beginning allows.
pub(super) fn too_short<S: ReadAt>(storage: &S, actual: u64) -> Error {
    let mut start = [0; 12];
    if storage.read_exact_at(&mut start, 0).is_err() || !start.starts_with(&MAGIC) {
        return if start.starts_with(&crate::header::MAGIC) {
            Error::SnapshotNotSet
        } else {
            Error::NotAWorkingSet
        };
    }
    let version = start.last_chunk().map(|bytes| u32::from_le_bytes(*bytes));
    match version {
        None | Some(VERSION) => Error::Truncated {
            expected: HEADER_LEN,
            actual,
        },
        Some(other) => Error::UnknownSetVersion(other),
    }
}

/// Read the frame table, whose length has been compared with that of the file, in pieces.
pub(super) fn read_table<S: ReadAt>(storage: &S, header: &Header) -> Result<Vec<Entry>, Error> {
    let count = usize::try_from(header.entries()).unwrap_or(usize::MAX);
    // A sparse file has many entries for nothing: beyond this many, room comes as they turn out to be good.
    let mut entries = Vec::with_capacity(count.min(MAX_RESERVED));
    let mut piece = vec![[0; ENTRY_LEN]; count.min(READ_ENTRIES)];
    let mut at = header.run_at(header.runs);
    let mut sum = twox_hash::XxHash3_64::new();
    while entries.len() < count {
        let left = count.saturating_sub(entries.len());
        let piece = piece.get_mut(..left.min(READ_ENTRIES)).unwrap_or_default();
        let bytes = piece.as_flattened_mut();
        storage
            .read_exact_at(bytes, at)
            .map_err(|source| Error::read(Place::FrameTable, source))?;
        sum.write(bytes);
        at = at.saturating_add(bytes.len() as u64);
        for bytes in &*piece {
            let place = Place::FrameEntry(entries.len());
            let entry = Entry::decode(bytes).map_err(|what| Error::corrupt(place, what));
            entries.push(entry?);
        }
    }
    if sum.finish() != header.table_checksum {
        let what = "the checksum does not match";
        return Err(Error::corrupt(Place::FrameTable, what));
    }
    Ok(entries)
}

/// Check the entries against each other and the header.
pub(super) fn check_table(header: &Header, entries: &[Entry]) -> Result<(), Error> {
    let frames_at = header.frames_at();
    let (mut end, mut end_run, mut content) = (frames_at.start, 0, 0u64);
    for (number, entry) in entries.iter().enumerate() {
        let corrupt = |what| Error::corrupt(Place::FrameEntry(number), what);
        let faded = number as u64 >= header.frames.into();
        if entry.frame.offset < end || entry.end() > frames_at.end {
            return Err(corrupt(
                "the frame lies outside of the frames, or over the one before",
            ));
        }
        if entry.first_run != end_run {
            return Err(corrupt("its runs are not those behind the ones before"));
        }
        if faded && entry.frame.pages != 0 {
            return Err(corrupt("faded pages have content"));
        }
        (end, end_run) = (entry.end(), entry.end_run());
        content = content.saturating_add(entry.frame.pages.into());
    }
    if end_run != header.runs {
        let what = "there are not as many runs as the header says";
        return Err(Error::corrupt(Place::FrameTable, what));
    }
    if content != header.pages.saturating_sub(header.zero_pages) {
        let what = "there is not as much content as the header says";
        return Err(Error::corrupt(Place::FrameTable, what));
    }
    Ok(())
}
