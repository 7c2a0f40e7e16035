//! A small working set with everything in it, all that can be read from one, and making its checksums right again. The
//! layout is written down here once more, from SPEC.md and not from the crate.

use super::small;
use snapshot_format::working_set::{self, Frames, History, Options, Run, WorkingSet};
use snapshot_format::{Codec, Compression, Cursor, Error, PageNo, ReadAt, SnapshotId};
use std::io::Cursor as Bytes;
use std::sync::Arc;

/// Three recordings of restores of [`small::plan`]: with content, zero, lost, in the parent, beyond the end, and faded.
pub(crate) fn history() -> History {
    let recording = |pages: &[u64]| {
        History::of_recording((1..).zip(pages).map(|(at, &page)| (PageNo(page), at * 100)))
    };
    recording(&[0, 5, 600, 601, 9, 12, 1 << 30, 11])
        .then(&recording(&[3, 4, 1, 0, 7, 8, 600, 10]))
        .then(&recording(&[4, 3, 5, 2, 7, 700, 10, 0, 1, 8, 601]))
}

pub(crate) fn options(codec: Codec, frame_pages: u16) -> Options {
    Options {
        compression: Compression {
            codec,
            level: 1,
            frame_pages: 1,
        },
        frame_pages,
    }
}

/// The set of [`history`].
pub(crate) fn file(codec: Codec, frame_pages: u16) -> Vec<u8> {
    let mut cursor = Cursor::new(super::open(small::file().to_vec()));
    let out = Bytes::new(Vec::new());
    let options = options(codec, frame_pages);
    let written = working_set::write(&history(), &mut cursor, out, &options);
    written.expect("memory does not fail").0.into_inner()
}

/// All that a set says.
#[derive(PartialEq, Eq)]
pub(crate) struct Everything {
    pub(crate) snapshot: SnapshotId,
    pub(crate) history: History,
    pub(crate) frames: Vec<(Vec<Run>, Vec<u8>)>,
}

impl std::fmt::Debug for Everything {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let runs: Vec<_> = self.frames.iter().map(|(runs, _)| runs).collect();
        write!(f, "{} {:?} {runs:?}", self.snapshot, self.history)
    }
}

/// Read everything, or the first error; and whatever can be read is in itself as it must be.
pub(crate) fn everything<S: ReadAt>(set: &Arc<WorkingSet<S>>) -> Result<Everything, Error> {
    let mut reader = Frames::new(Arc::clone(set));
    let (mut frames, mut failed) = (Vec::new(), None);
    for frame in 0..set.frames() {
        let (mut runs, mut content) = (vec![], vec![1, 2, 3]);
        let read_runs = set.runs(frame, &mut runs);
        let read_content = reader.read(frame, &mut content);
        assert!(read_runs.is_ok() || runs.is_empty());
        assert!(read_content.is_ok() || content.is_empty());
        if let Err(error) = read_runs.and(read_content) {
            failed.get_or_insert(error);
            continue;
        }
        let count = |zero| {
            let runs = runs.iter().filter(|run| run.zero == zero);
            runs.map(|run| run.pages.end - run.pages.start).sum::<u64>()
        };
        assert_eq!(count(false) * 4096, content.len() as u64);
        assert!(count(false) <= set.max_frame_pages().into());
        assert!(count(true) + count(false) <= 512 && !runs.is_empty());
        for run in &runs {
            assert!(run.pages.start < run.pages.end && run.pages.end <= 1 << 36);
            assert!(run.seen != 0 && u32::from(run.seen) < 1 << set.recordings());
        }
        frames.push((runs, content));
    }
    let history = set.history()?;
    if let Some(error) = failed {
        return Err(error);
    }
    let pages = history.pages().len() as u64;
    assert_eq!(pages, set.pages() + set.faded_pages());
    assert_eq!(history.recordings(), set.recordings());
    let snapshot = set.snapshot();
    Ok(Everything {
        snapshot,
        history,
        frames,
    })
}

/// Make all checksums right, as far as the file is long enough to have them.
pub(crate) fn repair(bytes: &mut [u8]) {
    let u64_at = |bytes: &[u8], at: usize| {
        let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
        u64::from_le_bytes(*field.expect("inside the file"))
    };
    let u32_at = |bytes: &[u8], at: usize| u64_at(bytes, at) & 0xffff_ffff;
    let in_file = |bytes: &[u8], from: u64, len: u64| {
        let end = from.checked_add(len)?;
        let range = usize::try_from(from).ok()?..usize::try_from(end).ok()?;
        bytes.get(range.clone()).map(|_| range)
    };
    let runs_at = u64_at(bytes, 48).saturating_add(4096);
    let runs_len = u32_at(bytes, 56) * 16;
    let entries = u32_at(bytes, 60) + u32_at(bytes, 64);
    let table = in_file(bytes, runs_at.saturating_add(runs_len), entries * 40);
    if let Some(table) = table {
        for entry in table.clone().step_by(40) {
            let first = u32_at(bytes, entry + 12);
            let runs = u32_at(bytes, entry + 16) & 0xffff;
            if let Some(runs) = in_file(bytes, runs_at.saturating_add(first * 16), runs * 16) {
                let sum = twox_hash::XxHash3_64::oneshot(&bytes[runs]) ^ first;
                bytes[entry + 24..entry + 32].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let sum = twox_hash::XxHash3_64::oneshot(&bytes[table]);
        bytes[96..104].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = twox_hash::XxHash3_64::oneshot(&bytes[..4088]);
    bytes[4088..4096].copy_from_slice(&sum.to_le_bytes());
}
