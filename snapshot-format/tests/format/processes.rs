//! The list of processes: read back, damaged, forged.

use crate::common::forge::{Forge, PAGE, PROCESSES};
use crate::common::{CODECS, open, options, small};
use snapshot_format::{Codec, Error, Place, Snapshot};
use std::sync::Arc;

const HEAD: usize = 16;
const RECORD: usize = 32;

fn file() -> Vec<u8> {
    small::tree_file(options(Codec::Lz4, 2))
}

/// What opening says after a change of the section at the offset that it is told, and a repair of all checksums.
fn opened(change: impl FnOnce(&mut Forge, usize)) -> Result<(), Error> {
    let mut forge = Forge { bytes: file() };
    let at = forge.section(PROCESSES).offset;
    change(&mut forge, at);
    forge.repair();
    Snapshot::open(forge.bytes).map(drop)
}

#[track_caller]
fn assert_corrupt(text: &str, change: impl FnOnce(&mut Forge, usize)) {
    match opened(change) {
        Err(Error::Corrupt {
            place: Place::Processes,
            what,
        }) => assert!(what.contains(text), "{what}"),
        other => panic!("{other:?} instead of {text:?}"),
    }
}

#[test]
fn processes_are_read_back_and_so_are_their_pages() {
    let (plan, processes) = small::tree();
    for codec in CODECS {
        for frame_pages in [1, 2, 3, 16] {
            let snapshot = open(small::tree_file(options(codec, frame_pages)));
            assert_eq!(snapshot.processes(), Some(&processes));
            assert!(small::everything(&snapshot).unwrap() == small::expected(&plan));
        }
    }
    let ranges: Vec<_> = processes.with_regions().map(|(_, range)| range).collect();
    assert_eq!(ranges, [0..2, 2..4, 4..4, 4..5]);
}

#[test]
fn a_file_of_one_memory_says_nothing_of_processes() {
    let snapshot = open(small::file().to_vec());
    assert_eq!(snapshot.processes(), None);
}

#[test]
fn a_reader_that_does_not_know_the_section_reads_the_pages() {
    let mut forge = Forge { bytes: file() };
    let entry = forge.section(PROCESSES).entry;
    forge.set_u32(entry, 1 << 31);
    forge.repair();
    let snapshot = open(forge.bytes);
    assert_eq!(snapshot.processes(), None);
    assert!(small::everything(&snapshot).unwrap() == small::expected(&small::tree().0));
}

#[test]
fn any_flip_in_the_section_is_found_when_the_file_is_opened() {
    let good = file();
    let section = Forge {
        bytes: good.clone(),
    }
    .section(PROCESSES);
    for at in section.range() {
        for bit in 0..8 {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << bit;
            let opened = Snapshot::open(bytes).map(drop);
            let what = "the checksum does not match";
            assert!(
                matches!(opened, Err(Error::Corrupt { place: Place::Processes, what: found }) if found == what),
                "{opened:?}"
            );
        }
    }
}

#[test]
fn a_section_cut_or_made_longer_is_refused() {
    let whole = HEAD + 4 * RECORD;
    for len in (0..whole).chain([whole + 1, whole + 8, whole + RECORD, PAGE]) {
        assert_corrupt("", |forge, _| {
            let entry = forge.section(PROCESSES).entry;
            forge.set_u64(entry + 16, len as u64);
        });
    }
    for count in [0, 1, 3, 5, 1 << 20, 1 << 59, 1 << 63, u64::MAX] {
        assert_corrupt("as long as", |forge, at| forge.set_u64(at, count));
    }
    assert_corrupt("1 to 1048576", |forge, at| {
        let entry = forge.section(PROCESSES).entry;
        forge.set_u64(at, 0);
        forge.set_u64(entry + 16, HEAD as u64);
    });
    assert_corrupt("longer than the format allows", |forge, _| {
        let records = (1 << 20) + 1;
        let mut bytes = vec![0; HEAD + RECORD * records];
        bytes[..8].copy_from_slice(&(records as u64).to_le_bytes());
        forge.move_to_end(PROCESSES, &bytes);
    });
}

#[test]
fn records_that_contradict_themselves_or_the_regions_are_refused() {
    for record in 0..4 {
        let record = HEAD + record * RECORD;
        for reserved in [4, 7, 24, 31] {
            assert_corrupt("reserved", |forge, at| {
                forge.bytes[at + record + reserved] = 1;
            });
        }
        for pid in [0, 1 << 31, u32::MAX] {
            assert_corrupt("process id", |forge, at| forge.set_u32(at + record, pid));
        }
        for regions in [3, 6, 1 << 20, 1 << 63, u64::MAX] {
            assert_corrupt("regions", |forge, at| {
                forge.set_u64(at + record + 8, regions);
            });
        }
        // Checksums of images are for those who have the images.
        for value in [0, 1, u64::MAX] {
            opened(|forge, at| forge.set_u64(at + record + 16, value)).unwrap();
        }
    }
    assert_corrupt("twice", |forge, at| {
        forge.set_u32(at + HEAD, 107);
    });
    opened(|forge, at| forge.set_u64(at + 8, 5)).unwrap();
}

#[test]
fn a_file_with_processes_is_refused_wherever_it_is_cut() {
    let file = file();
    for cut in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        assert!(Snapshot::open(file[..cut].to_vec()).is_err(), "{cut}");
    }
    assert!(
        Arc::new(Snapshot::open(file).unwrap())
            .processes()
            .is_some()
    );
}
