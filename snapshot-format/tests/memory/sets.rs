//! Working sets: reading allocates nothing once it has room, and a hostile file gets no more than it justifies.

use crate::common::plan::{Plan, What};
use crate::common::rng::Rng;
use crate::common::{self, CODECS, set};
use crate::counting::{allocated, alone};
use snapshot_format::working_set::{self, Frames, History, WorkingSet};
use snapshot_format::{Codec, Cursor, PageNo, ReadAt};
use std::io::Cursor as Bytes;
use std::sync::Arc;

const MIB: usize = 1 << 20;

/// A set of every second page of 3000, some of them zero.
fn large(codec: Codec) -> Vec<u8> {
    let plan = Plan::raw(&[
        (What::Data(1), 2000),
        (What::Zeros, 500),
        (What::Data(2), 500),
    ]);
    let mut cursor = Cursor::new(common::open(plan.write(common::options(Codec::Lz4, 4))));
    let pages = (0..1500).map(|page| (PageNo(page * 2), 7));
    let history = History::of_recording(pages);
    let out = Bytes::new(Vec::new());
    let written = working_set::write(&history, &mut cursor, out, &set::options(codec, 32));
    written.unwrap().0.into_inner()
}

#[test]
fn replaying_allocates_nothing_after_the_first_frames() {
    let _alone = alone();
    for codec in CODECS {
        let set = Arc::new(WorkingSet::open(large(codec)).unwrap());
        let mut frames = Frames::new(Arc::clone(&set));
        let mut content = Vec::with_capacity(usize::from(set.max_frame_pages()) * 4096);
        let mut runs = Vec::with_capacity(512);
        assert!(set.frames() > 30);
        frames.read(0, &mut content).unwrap();
        let ((), counted) = allocated(|| {
            for frame in 0..set.frames() {
                set.runs(frame, &mut runs).unwrap();
                frames.read(frame, &mut content).unwrap();
            }
        });
        assert_eq!(counted.calls, 0, "{codec}: {counted:?}");
    }
}

#[test]
fn opening_takes_forty_bytes_for_each_frame() {
    let _alone = alone();
    let file = large(Codec::Lz4);
    let (set, counted) = allocated(|| WorkingSet::open(file).unwrap());
    // Entries, as much again while they are read, and the state of a hash.
    assert!(
        counted.peak <= 2 * 40 * (set.frames() + 1) + 512,
        "{counted:?} for {} frames",
        set.frames()
    );
}

#[test]
fn numbers_without_bytes_behind_them_reserve_nothing() {
    let _alone = alone();
    let good = set::file(Codec::Zstd, 2);
    let mut rng = Rng(4);
    let mut most = 0;
    for _ in 0..2000 {
        let mut bytes = good.clone();
        let at = match rng.below(2) {
            0 => 12 + rng.position(88),
            _ => bytes.len() - 40 * 5 + rng.position(40 * 5 - 8),
        };
        let value = [u64::MAX, 1 << 63, 1 << 36, 1 << 24, 1 << 31, rng.next()][rng.position(6)];
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        set::repair(&mut bytes);
        let (_, counted) = allocated(|| set_everything(bytes));
        most = most.max(counted.peak);
    }
    // The content of a frame of 512 pages.
    assert!(most < 3 * MIB, "{most}");
}

fn set_everything(bytes: Vec<u8>) -> usize {
    let set = WorkingSet::open(bytes).map(Arc::new);
    set.and_then(|set| set::everything(&set))
        .map_or(0, |everything| everything.frames.len())
}

#[test]
fn a_history_takes_no_more_than_the_runs_justify() {
    let _alone = alone();
    // A file of zero pages only: the most pages for the fewest bytes.
    let plan = Plan::raw(&[(What::Zeros, 1 << 17)]);
    let mut cursor = Cursor::new(common::open(plan.write(common::options(Codec::Lz4, 4))));
    let history = History::of_recording((0..1 << 17).map(|page| (PageNo(page), 1)));
    let out = Bytes::new(Vec::new());
    let options = set::options(Codec::Lz4, 512);
    let (out, summary) = working_set::write(&history, &mut cursor, out, &options).unwrap();
    assert_eq!((summary.frames, summary.file_len), (256, 4096 + 256 * 56));
    let set = WorkingSet::open(out.into_inner()).unwrap();
    let (history, counted) = allocated(|| set.history().unwrap());
    assert_eq!(history.pages().len(), 1 << 17);
    // 16 bytes for each page and what a table of page numbers takes.
    assert!(counted.peak < (1 << 17) * 80, "{counted:?}");
}

/// A file of zeros behind its header, which take no space.
struct Sparse(Vec<u8>);

impl ReadAt for Sparse {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        buffer.fill(0);
        if offset == 0 {
            buffer.copy_from_slice(&self.0);
        }
        Ok(())
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(u64::MAX)
    }
}

#[test]
fn a_sparse_file_is_not_believed() {
    let _alone = alone();
    let most = 1_u64 << 24;
    for (frames, faded) in [(most, 0), (0, most), (most / 2, most / 2)] {
        let mut header = set::file(Codec::Lz4, 2)[..4096].to_vec();
        let mut field = |at: usize, value: u64, len: usize| {
            header[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        field(40, 4096 + most * 56, 8);
        field(48, 0, 8);
        field(56, most, 4);
        field(60, frames, 4);
        field(64, faded, 4);
        field(72, frames, 8);
        field(80, frames, 8);
        field(88, faded, 8);
        set::repair(&mut header);
        let (opened, counted) = allocated(|| WorkingSet::open(Sparse(header)).map(drop));
        let said = opened.unwrap_err().to_string();
        assert!(said.contains("frame table entry 0"), "{said}");
        assert!(counted.peak < 3 * MIB, "{counted:?}");
    }
}
