//! Runs and the frame table: fixed-width records.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::codec::Codec;
use crate::entry::FrameRef;
use crate::fields::Fields;
use crate::header::{MAX_FRAME_PAGES, MAX_PAGES};
use std::ops::Range;

/// Bytes of a run.
pub(super) const RUN_LEN: usize = 16;

/// Bytes of an entry of the frame table.
pub(super) const ENTRY_LEN: usize = 40;

/// Most pages of all runs of an entry together, and so also most runs.
pub(super) const MAX_ENTRY_PAGES: u16 = MAX_FRAME_PAGES;

/// Consecutive pages that are alike; never more than a frame has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Numbers of the pages. That the snapshot has them is for the caller to check.
    pub pages: Range<u64>,
    /// All bytes are zero, and the frame holds none of them.
    pub zero: bool,
    /// Microseconds from the beginning of serving to the first touch of the page that was touched first.
    pub after_us: u32,
    /// The recordings that have the pages, as in [`Touched`](super::Touched).
    pub seen: u8,
}

impl Run {
    /// Number of pages.
    pub(super) fn count(&self) -> u64 {
        self.pages.end.saturating_sub(self.pages.start)
    }
}

/// What the pages of a run are to the set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Their content is in the frame.
    Content,
    /// They are zero.
    Zero,
    /// They are not replayed.
    Faded,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Content => 0,
            Self::Zero => 1,
            Self::Faded => 2,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Content),
            1 => Some(Self::Zero),
            2 => Some(Self::Faded),
            _ => None,
        }
    }
}

pub(super) fn encode_run(run: &Run, kind: Kind) -> [u8; RUN_LEN] {
    let count = u16::try_from(run.count()).unwrap_or(u16::MAX);
    let word = u64::from(run.after_us)
        | u64::from(count) << 32
        | u64::from(run.seen) << 48
        | u64::from(kind.number()) << 56;
    (u128::from(run.pages.start) | u128::from(word) << 64).to_le_bytes()
}

/// Decode a run of a set of so many recordings.
pub(super) fn decode_run(
    bytes: &[u8; RUN_LEN],
    recordings: u8,
) -> Result<(Run, Kind), &'static str> {
    let short = "a run is cut short";
    let mut fields = Fields::new(bytes);
    let first = fields.u64().ok_or(short)?;
    let after_us = fields.u32().ok_or(short)?;
    let count = u16::from_le_bytes(fields.array().ok_or(short)?);
    let [seen, kind] = fields.array().ok_or(short)?;
    if count == 0 || count > MAX_ENTRY_PAGES {
        return Err("a run is not 1 to 512 pages long");
    }
    let end = first
        .checked_add(count.into())
        .filter(|&end| end <= MAX_PAGES)
        .ok_or("a run has pages that no snapshot has")?;
    if seen == 0 || u32::from(seen).checked_shr(recordings.into()) != Some(0) {
        return Err("a run was seen in recordings that there are not");
    }
    let kind = Kind::from_number(kind).ok_or("the kind of a run is not known")?;
    let run = Run {
        pages: first..end,
        zero: kind == Kind::Zero,
        after_us,
        seen,
    };
    Ok((run, kind))
}

/// An entry of the frame table. Offsets are those in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where the content is; of 0 pages when there is none.
    pub(super) frame: FrameRef,
    pub(super) first_run: u32,
    pub(super) runs: u16,
    /// XXH3-64 of its runs XOR `first_run`.
    pub(super) runs_checksum: u64,
    /// XXH3-64 of the content XOR the offset; 0 when there is none.
    pub(super) checksum: u64,
}

const _: () = assert!(size_of::<Entry>() <= 40, "what open promises");

impl Entry {
    /// The run behind the entry's last.
    pub(super) fn end_run(&self) -> u32 {
        self.first_run.saturating_add(self.runs.into())
    }

    /// Offset in the file of the byte behind the content.
    pub(super) fn end(&self) -> u64 {
        self.frame
            .offset
            .saturating_add(self.frame.payload_len.into())
    }

    pub(super) fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut bytes = [0; ENTRY_LEN];
        let codec = u32::try_from(self.frame.codec.number()).unwrap_or(u32::MAX);
        let fields = [
            &self.frame.offset.to_le_bytes()[..],
            &self.frame.payload_len.to_le_bytes(),
            &self.first_run.to_le_bytes(),
            &self.runs.to_le_bytes(),
            &self.frame.pages.to_le_bytes(),
            &codec.to_le_bytes(),
            &self.runs_checksum.to_le_bytes(),
            &self.checksum.to_le_bytes(),
        ];
        for (to, from) in bytes.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    /// Decode an entry, and check it against itself.
    pub(super) fn decode(bytes: &[u8; ENTRY_LEN]) -> Result<Self, &'static str> {
        let short = "the entry is cut short";
        let mut fields = Fields::new(bytes);
        let offset = fields.u64().ok_or(short)?;
        let payload_len = fields.u32().ok_or(short)?;
        let first_run = fields.u32().ok_or(short)?;
        let runs = u16::from_le_bytes(fields.array().ok_or(short)?);
        let pages = u16::from_le_bytes(fields.array().ok_or(short)?);
        let codec = fields.u32().ok_or(short)?;
        let runs_checksum = fields.u64().ok_or(short)?;
        let checksum = fields.u64().ok_or(short)?;
        let codec = Codec::from_number(codec.into()).ok_or("the codec is not known")?;
        let frame = FrameRef {
            offset,
            payload_len,
            pages,
            codec,
        };
        if runs == 0 || runs > MAX_ENTRY_PAGES {
            return Err("there are not 1 to 512 runs");
        }
        if pages > MAX_ENTRY_PAGES {
            return Err("there are more than 512 pages of content");
        }
        let content_len = frame.content_len();
        let payload = usize::try_from(payload_len).unwrap_or(usize::MAX);
        let fits = match codec {
            Codec::Stored => payload == content_len,
            Codec::Lz4 | Codec::Zstd => payload > 0 && payload < content_len,
        };
        if !fits {
            return Err("the stored length does not go with the codec and the pages");
        }
        if pages == 0 && checksum != 0 {
            return Err("there is a checksum of no content");
        }
        Ok(Self {
            frame,
            first_run,
            runs,
            runs_checksum,
            checksum,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_was_seen_is_within_the_recordings() {
        for recordings in 1..=8_u8 {
            for seen in 0..=255_u8 {
                let run = Run {
                    pages: 3..5,
                    zero: false,
                    after_us: 1,
                    seen,
                };
                let decoded = decode_run(&encode_run(&run, Kind::Content), recordings);
                let possible = seen != 0 && u32::from(seen) < 1 << recordings;
                assert_eq!(decoded.is_ok(), possible, "{seen:#b} of {recordings}");
            }
        }
    }

    proptest! {
        /// There is one way to write each run and each entry: what can be read is what would be written.
        #[test]
        fn records_that_can_be_read_are_those_that_are_written(
            first in prop_oneof![0..MAX_PAGES + 2, any::<u64>()],
            numbers in any::<[u8; 4]>(),
            count in 0u16..520,
            seen in any::<u8>(),
            kind in 0u8..4,
            entry in any::<[u8; 32]>(),
            pages in 0u16..520,
            codec in 0u32..4,
        ) {
            let mut bytes = [0; RUN_LEN];
            bytes[..8].copy_from_slice(&first.to_le_bytes());
            bytes[8..12].copy_from_slice(&numbers);
            bytes[12..14].copy_from_slice(&count.to_le_bytes());
            bytes[14..].copy_from_slice(&[seen, kind]);
            if let Ok((run, kind)) = decode_run(&bytes, 8) {
                prop_assert!(run.count() == u64::from(count) && run.pages.end <= MAX_PAGES);
                prop_assert_eq!(encode_run(&run, kind), bytes);
            }
            let mut bytes = [0; ENTRY_LEN];
            bytes[..16].copy_from_slice(&entry[..16]);
            // Short enough to be possible.
            bytes[10..12].fill(0);
            bytes[16..18].copy_from_slice(&count.to_le_bytes());
            bytes[18..20].copy_from_slice(&pages.to_le_bytes());
            bytes[20..24].copy_from_slice(&codec.to_le_bytes());
            bytes[24..].copy_from_slice(&entry[16..]);
            if let Ok(entry) = Entry::decode(&bytes) {
                prop_assert!((1..=512).contains(&entry.runs) && entry.frame.pages <= 512);
                prop_assert_eq!(entry.encode(), bytes);
            }
        }
    }
}
