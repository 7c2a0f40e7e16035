//! A region map that contradicts itself, with checksums that are right.

use crate::common::forge::{Forge, REGIONS};
use crate::common::small;
use snapshot_format::{Error, Place, Snapshot};

const RECORD: usize = 64;

fn forge() -> Forge {
    Forge {
        bytes: small::file().to_vec(),
    }
}

fn opened(change: impl FnOnce(&mut Forge, usize)) -> Result<(), Error> {
    let mut forge = forge();
    let map = forge.section(REGIONS).offset;
    change(&mut forge, map);
    forge.repair();
    Snapshot::open(forge.bytes).map(drop)
}

#[track_caller]
fn assert_corrupt(text: &str, change: impl FnOnce(&mut Forge, usize)) {
    match opened(change) {
        Err(Error::Corrupt {
            place: Place::RegionMap,
            what,
        }) => assert!(what.contains(text), "{what}"),
        other => panic!("{other:?} instead of {text:?}"),
    }
}

#[test]
fn the_number_of_regions_is_that_of_the_records() {
    for count in [1 << 20, 7, 6] {
        assert_corrupt("", |forge, map| forge.set_u64(map, count));
    }
    for count in [(1 << 20) + 1, 1 << 58, 1 << 63, u64::MAX] {
        assert_corrupt("more regions than the format allows", |forge, map| {
            forge.set_u64(map, count);
        });
    }
    for count in 0..5 {
        assert_corrupt("", |forge, map| forge.set_u64(map, count));
    }
    for len in [0, 7, 8, 9, 8 + RECORD, 8 + 5 * RECORD - 1] {
        assert_corrupt("", |forge, _| {
            let entry = forge.section(REGIONS).entry;
            forge.set_u64(entry + 16, len as u64);
        });
    }
}

#[test]
fn numbers_of_a_region_at_their_extremes_are_refused() {
    let extremes = [
        0,
        1,
        4095,
        4096 * 1000,
        1 << 21,
        1 << 40,
        1 << 48,
        (1 << 48) + 4096,
        1 << 63,
        u64::MAX - 4095,
        u64::MAX,
    ];
    let good = forge();
    for number in 0..5 {
        let record = good.section(REGIONS).offset + 8 + number * RECORD;
        // Start: any aligned one that leaves room is a region's. Offset in the file: any.
        for value in extremes {
            let opened = opened(|forge, _| forge.set_u64(record, value));
            let page_size = if number == 3 { 1 << 21 } else { 4096 };
            let room = value
                .checked_add(good.u64(record + 8).next_multiple_of(4096))
                .is_some();
            assert_eq!(
                opened.is_ok(),
                value.is_multiple_of(page_size) && room,
                "start {value:#x} of region {number}"
            );
        }
        for value in extremes
            .into_iter()
            .filter(|&value| value != good.u64(record + 8))
        {
            assert_corrupt("", |forge, _| forge.set_u64(record + 8, value));
        }
        for value in extremes
            .into_iter()
            .filter(|&value| value != good.u64(record + 16))
        {
            assert_corrupt("do not follow", |forge, _| {
                forge.set_u64(record + 16, value);
            });
        }
        for value in extremes {
            opened(|forge, _| forge.set_u64(record + 24, value)).unwrap();
        }
        for value in extremes
            .into_iter()
            .filter(|&value| value != good.u64(record + 32))
        {
            assert_corrupt("name", |forge, _| forge.set_u64(record + 32, value));
        }
        let name_len = good.u32(record + 40);
        for value in [100, 8192, 8193, 1 << 31, u32::MAX, name_len + 1000] {
            assert_corrupt("name", |forge, _| forge.set_u32(record + 40, value));
        }
    }
}

#[test]
fn small_fields_of_a_region_have_known_values() {
    let good = forge();
    for number in [0, 4] {
        let record = good.section(REGIONS).offset + 8 + number * RECORD;
        for value in 0..=255_u8 {
            let set = |at: usize| opened(|forge, _| forge.bytes[record + at] = value);
            assert_eq!(
                set(44).is_ok(),
                value == 5 || number == 0 && (1..5).contains(&value),
                "kind {value}"
            );
            assert_eq!(set(45).is_ok(), value <= 7, "protection {value}");
            assert_eq!(set(47).is_ok(), value <= 1, "flags {value}");
            if value > 0 {
                assert_corrupt("a reserved field is not zero", |forge, _| {
                    forge.bytes[record + 48 + usize::from(value) % 16] = value;
                });
            }
            let shift = set(46);
            assert!(
                shift.is_ok() == (value == 12 || number == 4 && value == 21),
                "page shift {value}: {shift:?}"
            );
        }
    }
}

#[test]
fn names_are_utf_8_and_share_no_bytes() {
    let good = forge();
    let map = good.section(REGIONS);
    let names = map.offset + 8 + 5 * RECORD;
    assert_corrupt("a name is not UTF-8", |forge, _| forge.bytes[names] = 0xff);
    // Two regions with the same bytes for a name: a small file could ask for much memory.
    assert_corrupt("a name does not follow", |forge, map| {
        forge.set_u64(map + 8 + RECORD + 32, 0);
    });
    assert_corrupt("too long", |forge, _| {
        let mut bytes = forge.bytes[map.range()].to_vec();
        bytes.resize(bytes.len() + 10_000, b'n');
        forge.move_to_end(REGIONS, &bytes);
        let at = forge.section(REGIONS).offset + 8 + 4 * RECORD + 40;
        forge.set_u32(at, 8193);
    });
    // Bytes behind the last name are another version's business.
    opened(|forge, _| {
        let mut bytes = forge.bytes[map.range()].to_vec();
        bytes.extend_from_slice(&[0xff; 100]);
        forge.move_to_end(REGIONS, &bytes);
    })
    .unwrap();
}
