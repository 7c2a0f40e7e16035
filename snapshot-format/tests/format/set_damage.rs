//! Damaged working sets: the right content or an error, never other content and never a panic.

use crate::common::rng::Rng;
use crate::common::set::{Everything, everything, file, repair};
use crate::common::{CODECS, small};
use snapshot_format::working_set::WorkingSet;
use snapshot_format::{Codec, Error, ReadAt, Snapshot};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn read(bytes: Vec<u8>) -> Result<Everything, Error> {
    everything(&Arc::new(WorkingSet::open(bytes)?))
}

#[test]
fn a_flip_in_any_byte_is_an_error_or_has_no_effect() {
    for codec in CODECS {
        let mut bytes = file(codec, 2);
        let set = WorkingSet::open(bytes.clone()).unwrap();
        let frames = set.frames_at();
        let good = read(bytes.clone()).unwrap();
        let mut silent = 0;
        for at in 0..bytes.len() {
            for mask in [1 << (at % 8), 0xff] {
                bytes[at] ^= mask;
                match read(bytes.clone()) {
                    // Another way to say the same.
                    Ok(read) => {
                        assert!(read == good, "{codec}: byte {at} ^ {mask:#x}");
                        assert!(frames.contains(&(at as u64)), "{codec}: byte {at}");
                        silent += 1;
                    }
                    Err(Error::NotAWorkingSet) => assert!(at < 8),
                    Err(Error::UnknownSetVersion(version)) => {
                        assert!((8..12).contains(&at) && version != 1);
                    }
                    Err(Error::Corrupt { what, .. }) => assert!(!what.is_empty()),
                    Err(error) => panic!("{codec}: byte {at} ^ {mask:#x}: {error:?}"),
                }
                bytes[at] ^= mask;
            }
        }
        assert!(silent < bytes.len() / 20, "{codec}: {silent}");
        assert!(codec != Codec::Stored || silent == 0);
    }
}

#[test]
fn a_file_cut_at_any_length_says_so() {
    let bytes = file(Codec::Zstd, 2);
    for cut in 0..bytes.len() {
        match WorkingSet::open(bytes[..cut].to_vec()).unwrap_err() {
            Error::NotAWorkingSet => assert!(cut < 12),
            Error::Truncated { expected, actual } => {
                let promised = if cut < 4096 { 4096 } else { bytes.len() };
                assert_eq!((expected, actual), (promised as u64, cut as u64));
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
    let good = read(bytes.clone()).unwrap();
    let longer = [bytes, vec![9; 5000]].concat();
    assert!(
        read(longer).unwrap() == good,
        "bytes behind it are nobody's"
    );
}

/// Bytes that end earlier and earlier, and of which one is read as another.
struct Failing {
    bytes: Vec<u8>,
    len: AtomicU64,
    flipped: AtomicU64,
}

impl ReadAt for Failing {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if offset + buffer.len() as u64 > self.len.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.read_exact_at(buffer, offset)?;
        let into = self.flipped.load(Ordering::Relaxed).wrapping_sub(offset);
        let into = usize::try_from(into).unwrap();
        if let Some(byte) = buffer.get_mut(into) {
            *byte ^= 0x20;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

#[test]
fn a_file_cut_or_flipped_while_open_gives_errors_with_the_place_and_never_other_content() {
    let bytes = file(Codec::Lz4, 2);
    let len = bytes.len() as u64;
    let good = read(bytes.clone()).unwrap();
    let storage = Failing {
        bytes,
        len: AtomicU64::new(len),
        flipped: AtomicU64::new(u64::MAX),
    };
    let set = Arc::new(WorkingSet::open(storage).unwrap());
    let storage = || set.storage();
    let table_at = len - (set.frames() as u64 + 1) * 40;
    for at in (4096..table_at).rev() {
        storage().len.store(at, Ordering::Relaxed);
        match everything(&set) {
            Err(Error::Read { source, .. }) => {
                assert_eq!(source.kind(), io::ErrorKind::UnexpectedEof);
            }
            read => panic!("cut at {at}: {read:?}"),
        }
        storage().len.store(len, Ordering::Relaxed);
        storage().flipped.store(at, Ordering::Relaxed);
        match everything(&set) {
            Ok(read) => assert!(read == good, "byte {at}"),
            Err(Error::Corrupt { place, .. }) => {
                let place = place.to_string();
                let kind = if set.frames_at().contains(&at) {
                    "frame at byte "
                } else {
                    "runs of frame "
                };
                assert!(place.starts_with(kind), "byte {at}: {place}");
            }
            Err(error) => panic!("byte {at}: {error:?}"),
        }
        storage().flipped.store(u64::MAX, Ordering::Relaxed);
    }
    assert!(everything(&set).unwrap() == good);
}

#[test]
fn each_kind_of_file_is_told_from_the_other() {
    let (set, snapshot) = (file(Codec::Lz4, 2), small::file().to_vec());
    for len in [12, 100, 4096, 5000] {
        let error = WorkingSet::open(snapshot[..len].to_vec()).unwrap_err();
        assert!(matches!(error, Error::SnapshotNotSet), "{len}: {error:?}");
        let error = Snapshot::open(set[..len].to_vec()).unwrap_err();
        assert!(matches!(error, Error::SetNotSnapshot), "{len}: {error:?}");
    }
    for bytes in [vec![], vec![0; 9000], b"hello".to_vec()] {
        let error = WorkingSet::open(bytes).unwrap_err();
        assert!(matches!(error, Error::NotAWorkingSet), "{error:?}");
    }
    let mut newer = set;
    newer[8] = 2;
    let said = WorkingSet::open(newer).unwrap_err().to_string();
    assert!(
        said.contains("version 2 is not known, this program reads version 1"),
        "{said}"
    );
}

/// Change a field, make the checksums right, and say what a reader finds.
fn forged(at: usize, bytes: &[u8]) -> Result<Everything, Error> {
    let mut forged = file(Codec::Stored, 2);
    forged[at..at + bytes.len()].copy_from_slice(bytes);
    repair(&mut forged);
    read(forged)
}

#[test]
fn every_rule_of_the_tables_is_checked() {
    let good = file(Codec::Stored, 2);
    let set = WorkingSet::open(good.clone()).unwrap();
    let runs = usize::try_from(set.frames_at().end).unwrap();
    let count = usize::try_from(u32::from_le_bytes(*good[56..].first_chunk().unwrap())).unwrap();
    let table = runs + count * 16;
    let last = good.len() - 40;
    assert!(
        forged(0, b"\x89").is_ok(),
        "repairing changes nothing that is good"
    );
    for (at, bytes, what) in [
        (12, &[0u8][..], "1 to 8 recordings"),
        (12, &[9], "1 to 8 recordings"),
        (32, &[1], "features 0x1"),
        (40, &[7], "sum of its parts"),
        (48, &[0xff; 8], "sum of its parts"),
        (56, &[0xff; 4], "more frames or runs than pages"),
        (56, &[13], "sum of its parts"),
        (60, &[0xff; 8], "more frames or runs than pages"),
        (64, &[2], "sum of its parts"),
        (68, &[1], "reserved"),
        (72, &[0xff; 8], "more pages"),
        (72, &[0, 0, 0, 1], "more pages than the format allows"),
        (72, &[99], "as much content"),
        (80, &[99], "zero"),
        (88, &[0xff; 8], "more pages than the format allows"),
        (88, &[99], "not as many"),
        (112, &[1], "reserved"),
        (4087, &[1], "reserved"),
        (runs, &[0xff; 8], "no snapshot has"),
        (runs, &[0xff, 0xff, 0xff, 0xff, 16], "no snapshot has"),
        (runs + 12, &[0, 0], "1 to 512 pages"),
        (runs + 12, &[1, 2], "1 to 512 pages"),
        (runs + 14, &[0], "recordings that there are not"),
        (runs + 14, &[8], "recordings that there are not"),
        (runs + 15, &[3], "kind of a run"),
        (runs + 15, &[2], "mixed up"),
        (runs + 15, &[1], "content is not"),
        (runs + 12, &[99], "content is not"),
        (table, &[0xff; 8], "outside"),
        (table, &[0; 8], "outside"),
        (table + 40, &[0, 0x10], "outside"),
        (table + 8, &[1], "stored length"),
        (table + 12, &[1], "behind the ones before"),
        (table + 16, &[0, 0], "1 to 512 runs"),
        (table + 16, &[0xff, 0xff], "1 to 512 runs"),
        (table + 18, &[0xff, 0xff], "512 pages of content"),
        (table + 20, &[1], "stored length"),
        (table + 20, &[3], "codec"),
        (table + 20, &[0, 0, 0, 1], "codec"),
        (table + 32, &[0xff; 8], "does not match its checksum"),
        (last + 8, &[1], "stored length"),
        (last + 32, &[1], "checksum of no content"),
    ] {
        let error = forged(at, bytes).expect_err(what).to_string();
        assert!(error.contains(what), "{at}: {error}, not {what}");
    }
}

#[test]
fn a_page_in_two_runs_is_an_error_of_the_history() {
    let good = file(Codec::Stored, 2);
    let set = WorkingSet::open(good.clone()).unwrap();
    let runs = usize::try_from(set.frames_at().end).unwrap();
    let second = good[runs + 16..runs + 24].to_vec();
    let error = forged(runs, &second).unwrap_err().to_string();
    assert!(error.contains("twice"), "{error}");
}

#[test]
fn random_changes_behind_good_checksums_never_panic() {
    let good = CODECS.map(|codec| file(codec, 3));
    let mut rng = Rng(11);
    let mut accepted = 0;
    for _ in 0..6000 {
        let mut bytes = good[rng.position(3)].clone();
        for _ in 0..=rng.below(3) {
            let tables = bytes.len() - 40 * 8;
            let at = match rng.below(4) {
                0 => rng.position(112),
                1 => tables + rng.position(bytes.len() - tables),
                2 => tables - 16 * 12 + rng.position(16 * 12),
                _ => rng.position(bytes.len()),
            };
            bytes[at] = rng.next().to_le_bytes()[0];
        }
        repair(&mut bytes);
        accepted += u32::from(read(bytes).is_ok());
    }
    assert!(accepted > 50, "{accepted}: times and the like may change");
}

/// Add to the number of so many bytes at a place.
fn add(bytes: &mut [u8], at: usize, len: usize, more: i64) {
    let mut number = [0; 8];
    number[..len].copy_from_slice(&bytes[at..at + len]);
    let number = u64::from_le_bytes(number).wrapping_add_signed(more);
    bytes[at..at + len].copy_from_slice(&number.to_le_bytes()[..len]);
}

#[test]
fn numbers_that_agree_with_their_neighbours_are_found_by_those_further_away() {
    let good = file(Codec::Stored, 2);
    let set = WorkingSet::open(good.clone()).unwrap();
    assert_eq!(set.frames(), 3);
    let entry = |number: usize| good.len() - (4 - number) * 40;
    let runs = usize::try_from(set.frames_at().end).unwrap();
    let mut all_runs = (runs..entry(0)).step_by(16);
    let zero_run = all_runs.find(|run| good[run + 15] == 1).unwrap();
    let (runs_field, frames, faded_entries) = (56, 60, 64);
    let (pages, zero_pages, faded_pages) = (72, 80, 88);
    for (changes, what) in [
        // A frame and the faded pages behind it, shifted by a byte.
        (
            &[(entry(2), 8, 1), (entry(3), 8, 1)][..],
            "outside of the frames",
        ),
        (
            &[(frames, 4, -1), (faded_entries, 4, 1)],
            "faded pages have content",
        ),
        (&[(zero_run + 12, 2, 510)], "more than 512 pages"),
        (
            &[(pages, 8, -1), (zero_pages, 8, -1)],
            "more pages than the header says",
        ),
        (
            &[(pages, 8, 1), (zero_pages, 8, 1)],
            "fewer pages than the header says",
        ),
        (
            &[(pages, 8, 1), (zero_pages, 8, 1), (faded_pages, 8, -1)],
            "fewer pages than the header says",
        ),
        (&[(faded_pages, 8, 1)], "are not as many as the runs have"),
    ] {
        let mut bytes = good.clone();
        for &(at, len, more) in changes {
            add(&mut bytes, at, len, more);
        }
        repair(&mut bytes);
        let error = read(bytes).expect_err(what).to_string();
        assert!(error.contains(what), "{error}, not {what}");
    }
    // A run more, that belongs to nobody.
    let mut bytes = good[..entry(0)].to_vec();
    bytes.extend_from_slice(&good[entry(0) - 16..]);
    add(&mut bytes, runs_field, 4, 1);
    add(&mut bytes, 40, 8, 16);
    add(&mut bytes, faded_pages, 8, 1);
    repair(&mut bytes);
    let error = read(bytes).unwrap_err().to_string();
    assert!(error.contains("as many runs as the header says"), "{error}");
}
