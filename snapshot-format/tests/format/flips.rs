//! A flipped bit anywhere: the right content or an error, never other content.

use crate::common::forge::{FRAMES, Forge, INDEX};
use crate::common::plan::{Plan, What};
use crate::common::small::{self, Read};
use crate::common::{CODECS, options};
use snapshot_format::{Codec, Content, Cursor, Error, PageNo, ReadAt, Snapshot};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of which one is read as another, without copying the file for each.
struct Flipped {
    bytes: Vec<u8>,
    at: AtomicU64,
    mask: AtomicU64,
}

impl ReadAt for Flipped {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.bytes.read_exact_at(buffer, offset)?;
        let into = self.at.load(Ordering::Relaxed).wrapping_sub(offset);
        if let Some(byte) = usize::try_from(into)
            .ok()
            .and_then(|into| buffer.get_mut(into))
        {
            *byte ^= self.mask.load(Ordering::Relaxed).to_le_bytes()[0];
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

fn flipped(bytes: Vec<u8>, at: usize, mask: u8) -> Flipped {
    Flipped {
        bytes,
        at: AtomicU64::new(at as u64),
        mask: AtomicU64::new(mask.into()),
    }
}

/// What a reader who opens the file now sees.
fn read(file: Flipped) -> Result<Vec<Read>, Error> {
    small::everything(&Arc::new(Snapshot::open(file)?))
}

/// Names what the error is about.
fn is_clear(error: &Error) -> bool {
    match error {
        Error::NotASnapshot | Error::UnknownVersion(_) => true,
        Error::Corrupt { what, .. } => !what.is_empty(),
        _ => false,
    }
}

#[test]
fn the_small_file_has_everything_and_is_small() {
    for codec in CODECS {
        let file = small::plan().write(options(codec, 2));
        assert!(file.len() < 60 << 10, "{} bytes", file.len());
        let forge = Forge {
            bytes: file.clone(),
        };
        assert_eq!(forge.path(0).len(), 3);
        for kind in 1..=5 {
            assert!(forge.section(kind).len > 0);
        }
        let read = read(flipped(file, 0, 0)).unwrap();
        assert!(read == small::expected(&small::plan()));
    }
}

#[test]
fn a_flip_in_any_byte_is_an_error_or_has_no_effect() {
    let file = small::plan().write(options(Codec::Zstd, 2));
    let good = small::expected(&small::plan());
    let forge = Forge {
        bytes: file.clone(),
    };
    let frames = forge.section(FRAMES);
    let mut silent = Vec::new();
    // Of the bytes between sections, which nobody looks at, every 16th.
    let used =
        |at: &usize| *at < 4096 || (1..=5).any(|kind| forge.section(kind).range().contains(at));
    for at in (0..file.len()).filter(|at| used(at) || at % 16 == 0) {
        let masks = [1 << (at % 8), 0xff];
        // Zeros are told apart by any bit; what is not zero is hit twice.
        for mask in masks.into_iter().take(if file[at] == 0 { 1 } else { 2 }) {
            match read(flipped(file.clone(), at, mask)) {
                Ok(read) => {
                    assert!(read == good, "byte {at} ^ {mask:#x} gives other content");
                    silent.push(at);
                }
                Err(error) => assert!(is_clear(&error), "byte {at} ^ {mask:#x}: {error:?}"),
            }
        }
    }
    // Without effect are the bytes between sections, and bits of a payload that decode to the same content.
    let in_frames = silent
        .iter()
        .filter(|at| frames.range().contains(at))
        .count();
    assert_eq!(silent.iter().filter(|at| used(at)).count(), in_frames);
    assert!(silent.len() - in_frames > 500, "padding");
    assert!(in_frames < frames.len / 10, "{in_frames}");
}

#[test]
fn every_bit_of_the_header_and_of_a_frame_counts() {
    let good = small::expected(&small::plan());
    for codec in CODECS {
        let file = small::plan().write(options(codec, 2));
        let frames = Forge {
            bytes: file.clone(),
        }
        .section(FRAMES);
        let mut harmless = 0;
        let some = frames.offset..frames.offset + frames.len.min(250);
        for at in (0..300).chain(4080..4096).chain(some) {
            for bit in 0..8 {
                match read(flipped(file.clone(), at, 1 << bit)) {
                    // Another way to say the same, behind the checksum of the first frame.
                    Ok(read) if at >= frames.offset + 8 && read == good => harmless += 1,
                    other => assert!(
                        is_clear(&other.expect_err("a flip")),
                        "byte {at}, bit {bit}"
                    ),
                }
            }
        }
        assert!(harmless < 100, "{harmless} for {codec}");
    }
}

#[test]
fn a_flip_after_opening_is_an_error_that_names_its_place() {
    let file = small::plan().write(options(Codec::Lz4, 2));
    let forge = Forge {
        bytes: file.clone(),
    };
    let (index, frames) = (forge.section(INDEX), forge.section(FRAMES));
    let good = small::expected(&small::plan());
    let snapshot = Arc::new(Snapshot::open(flipped(file, usize::MAX, 0)).unwrap());
    // The root has been read and checked when the file was opened.
    for at in frames
        .range()
        .chain(index.offset..index.range().end - 4096)
        .step_by(3)
    {
        snapshot.storage().at.store(at as u64, Ordering::Relaxed);
        snapshot
            .storage()
            .mask
            .store(1 << (at % 8), Ordering::Relaxed);
        let error = match small::everything(&snapshot) {
            Ok(read) => {
                assert!(read == good && frames.range().contains(&at));
                continue;
            }
            Err(error) => error,
        };
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        let place = error.to_string();
        let kind = if frames.range().contains(&at) {
            "corrupt frame at byte "
        } else {
            "corrupt page index node at byte "
        };
        let byte: usize = place
            .strip_prefix(kind)
            .unwrap()
            .split(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        assert!(
            (byte..byte + 8192 + 8).contains(&at),
            "{place} for byte {at}"
        );
    }
    snapshot.storage().mask.store(0, Ordering::Relaxed);
    assert!(small::everything(&snapshot).unwrap() == good);
}

#[test]
fn a_cursor_that_met_a_bad_frame_still_reads_the_good_ones() {
    let plan = Plan::raw(&[(What::Data(1), 40)]);
    let model = plan.model();
    let storage = flipped(plan.write(options(Codec::Lz4, 2)), usize::MAX, 0);
    let snapshot = Arc::new(Snapshot::open(storage).unwrap());
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let mut frames: Vec<(u64, u64)> = Vec::new();
    for page in 0..40 {
        if let Content::Frame { frame, .. } = cursor.content(PageNo(page)).unwrap() {
            frames.push((page, frame.offset));
        }
    }
    frames.dedup_by_key(|&mut (_, offset)| offset);
    let mut out = [0; 4096];
    for (&(good, _), &(bad, offset)) in frames.iter().zip(&frames[1..]) {
        cursor.read_page(PageNo(good), &mut out).unwrap();
        // In the checksum: the content is decoded before the error is found.
        snapshot
            .storage()
            .at
            .store(4096 + offset + 3, Ordering::Relaxed);
        snapshot.storage().mask.store(0x10, Ordering::Relaxed);
        for _ in 0..2 {
            assert!(cursor.read_page(PageNo(bad), &mut out).is_err());
        }
        cursor.read_page(PageNo(good), &mut out).unwrap();
        assert!(
            out == *model.page(good),
            "page {good} after the bad page {bad}"
        );
        assert!(cursor.read_page(PageNo(bad), &mut out).is_err());
        snapshot.storage().mask.store(0, Ordering::Relaxed);
        cursor.read_page(PageNo(bad), &mut out).unwrap();
        assert!(out == *model.page(bad), "page {bad} when it is good again");
    }
    assert!(frames.len() > 10);
}

#[test]
fn a_cursor_that_met_a_bad_node_still_reads_the_good_ones() {
    // Leaves with a lost page each, at another place: more than a cursor remembers, so they displace each other.
    const LEAVES: u64 = 1100;
    let place = |leaf: u64| leaf % 251;
    let runs: Vec<(What, u64)> = (0..LEAVES)
        .flat_map(|leaf| {
            [
                (What::Zeros, 1 + place(leaf)),
                (What::Lost, 1),
                (What::Zeros, 254 - place(leaf)),
            ]
        })
        .collect();
    let file = Plan::raw(&runs).write(options(Codec::Lz4, 2));
    let forge = Forge {
        bytes: file.clone(),
    };
    let snapshot = Arc::new(Snapshot::open(flipped(file, usize::MAX, 0)).unwrap());
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let (good, mut shared) = (3, 0);
    for bad in (4..LEAVES).filter(|&bad| place(bad) != place(good)) {
        let of_good = |place: u64| PageNo(good * 256 + 1 + place);
        let of_bad = PageNo(bad * 256 + 1 + place(bad));
        assert_eq!(cursor.content(of_good(place(good))).unwrap(), Content::Lost);
        let node = forge.path(of_bad.0)[2] / 4096 * 4096;
        let at = node as u64 + 4090;
        snapshot.storage().at.store(at, Ordering::Relaxed);
        snapshot.storage().mask.store(0x10, Ordering::Relaxed);
        assert!(cursor.content(of_bad).is_err(), "leaf {bad}");
        assert_eq!(cursor.content(of_good(place(bad))).unwrap(), Content::Zero);
        assert_eq!(cursor.content(of_good(place(good))).unwrap(), Content::Lost);
        snapshot.storage().mask.store(0, Ordering::Relaxed);
        assert_eq!(cursor.content(of_bad).unwrap(), Content::Lost);
        shared += 1;
    }
    assert!(shared > 1000);
}
