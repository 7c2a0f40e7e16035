//! A header and a section table that contradict themselves, with checksums that are right.

use crate::common::forge::{
    ENTRY, FILE_LEN, FRAMES, Forge, INDEX, MAX_FRAME_PAGES, METADATA, PAGES, PARENT, REGIONS,
    SECTION_COUNT, TABLE,
};
use crate::common::small;
use snapshot_format::{Error, Place, SectionKind, Snapshot};
use std::sync::Arc;

fn forge() -> Forge {
    Forge {
        bytes: small::file().to_vec(),
    }
}

/// What opening says of the file after a change and a repair of all checksums.
#[track_caller]
fn opened(change: impl FnOnce(&mut Forge)) -> Result<Snapshot<Vec<u8>>, Error> {
    let mut forge = forge();
    change(&mut forge);
    forge.repair();
    Snapshot::open(forge.bytes)
}

#[track_caller]
fn assert_corrupt(place: Place, text: &str, change: impl FnOnce(&mut Forge)) {
    match opened(change) {
        Err(Error::Corrupt { place: found, what }) => {
            assert!(found == place && what.contains(text), "{found}: {what}");
        }
        other => panic!("{other:?} instead of {text:?}"),
    }
}

#[test]
fn a_repaired_file_without_a_change_is_the_same_file() {
    let good = forge();
    let mut repaired = good.clone();
    repaired.repair();
    assert!(good.bytes == repaired.bytes);
}

#[test]
fn another_version_or_feature_is_refused_by_name() {
    for version in [0, 2, u32::MAX] {
        // Whether or not its checksum is where ours is.
        let mut forge = forge();
        forge.set_u32(8, version);
        let error = Snapshot::open(forge.bytes.clone()).unwrap_err();
        assert!(
            matches!(error, Error::UnknownVersion(found) if found == version),
            "{error:?}"
        );
        forge.repair_header();
        let error = Snapshot::open(forge.bytes).unwrap_err();
        assert!(
            matches!(error, Error::UnknownVersion(found) if found == version),
            "{error:?}"
        );
    }
    for bits in [1, 1 << 63, u64::MAX] {
        let error = opened(|forge| forge.set_u64(32, bits)).unwrap_err();
        assert!(
            matches!(error, Error::UnknownFeatures(found) if found == bits),
            "{error:?}"
        );
    }
}

#[test]
fn the_reserved_bytes_of_the_header_are_zero() {
    for at in [60, 61, 100, 127] {
        assert_corrupt(Place::Header, "a reserved field is not zero", |forge| {
            forge.bytes[at] = 1;
        });
    }
    for at in [TABLE + 5 * ENTRY, 1000, 4087] {
        assert_corrupt(
            Place::Header,
            "behind the section table is not zero",
            |forge| forge.bytes[at] = 1,
        );
    }
    assert_corrupt(
        Place::SectionTable(2),
        "a reserved field is not zero",
        |forge| {
            forge.set_u32(TABLE + 2 * ENTRY + 4, 1);
        },
    );
}

#[test]
fn numbers_of_the_header_at_their_extremes_are_refused() {
    let extremes = [
        0,
        1,
        70_000,
        (1 << 36) - 1,
        1 << 36,
        (1 << 36) + 1,
        1 << 52,
        1 << 63,
        u64::MAX,
    ];
    let good = forge();
    for value in extremes
        .into_iter()
        .filter(|&value| value != good.u64(PAGES))
    {
        let text = if value > 1 << 36 {
            "more pages than the format allows"
        } else {
            "as many pages as the header"
        };
        let place = if value > 1 << 36 {
            Place::Header
        } else {
            Place::RegionMap
        };
        assert_corrupt(place, text, |forge| forge.set_u64(PAGES, value));
    }
    let real = good.u64(FILE_LEN);
    for value in [1, 4097, real - 1, real + 1, u64::MAX] {
        assert_corrupt(Place::Header, "not whole pages", |forge| {
            forge.set_u64(FILE_LEN, value);
        });
    }
    for value in [0, 4096, 8192, real - 4096] {
        let error = opened(|forge| forge.set_u64(FILE_LEN, value))
            .unwrap_err()
            .to_string();
        assert!(error.contains("past the end of the file"), "{error}");
    }
    for value in [real + 4096, 1 << 40, 1 << 63, u64::MAX - 4095] {
        let error = opened(|forge| forge.set_u64(FILE_LEN, value)).unwrap_err();
        assert!(
            matches!(error, Error::Truncated { expected, actual } if (expected, actual) == (value, real))
        );
    }
    for value in [0, 513, 65_536, 65_537, u32::MAX] {
        assert_corrupt(Place::Header, "1 to 512 pages", |forge| {
            forge.set_u32(MAX_FRAME_PAGES, value);
        });
    }
    for value in [124, 1000, u32::MAX] {
        assert_corrupt(Place::Header, "more sections than fit", |forge| {
            forge.set_u32(SECTION_COUNT, value);
        });
    }
    // Entries of zeros begin before the end of the header.
    assert_corrupt(Place::SectionTable(5), "overlaps", |forge| {
        forge.set_u32(SECTION_COUNT, 6);
    });
}

#[test]
fn every_section_but_the_parent_must_be_there() {
    for (kind, text) in [
        (REGIONS, "there is no region map"),
        (INDEX, "there is no page index"),
        (FRAMES, "there is no frames section"),
        (METADATA, "there is no metadata section"),
    ] {
        assert_corrupt(Place::Header, text, |forge| {
            let entry = forge.section(kind).entry;
            forge.set_u32(entry, 77);
        });
    }
    assert_corrupt(Place::Header, "there is no region map", |forge| {
        forge.set_u32(SECTION_COUNT, 0);
        forge.bytes[TABLE..4088].fill(0);
    });
    let orphan = opened(|forge| {
        let entry = forge.section(PARENT).entry;
        forge.set_u32(entry, 77);
    });
    let orphan = Arc::new(orphan.unwrap());
    assert_eq!(orphan.parent(), None);
    let error = small::everything(&orphan).unwrap_err().to_string();
    assert!(error.contains("not in the parent snapshot"), "{error}");
}

#[test]
fn sections_of_unknown_kinds_are_skipped() {
    let mut forge = forge();
    let table = forge.bytes[TABLE..TABLE + 5 * ENTRY].to_vec();
    // Two of the same unknown kind, one of them empty, behind and between the known ones.
    forge.bytes.extend_from_slice(&[0xcc; 8192]);
    let end = forge.bytes.len() as u64;
    let unknown = |kind: u64, offset: u64, len: u64| {
        [kind, offset, len, 0xbad].map(u64::to_le_bytes).concat()
    };
    let first = forge.u64(TABLE + 8);
    let new = [
        unknown(1000, first, 0),
        table,
        unknown(1000, end - 8192, 4097),
        unknown(1 << 31, end, 0),
    ]
    .concat();
    forge.bytes[TABLE..TABLE + new.len()].copy_from_slice(&new);
    forge.set_u32(SECTION_COUNT, 8);
    forge.set_u64(FILE_LEN, end);
    forge.repair();
    let snapshot = Arc::new(Snapshot::open(forge.bytes).unwrap());
    assert!(small::everything(&snapshot).unwrap() == small::expected(&small::plan()));
    let kinds: Vec<SectionKind> = snapshot.sections().map(|(kind, ..)| kind).collect();
    assert_eq!(
        kinds
            .iter()
            .filter(|kind| **kind == SectionKind::Unknown(1000))
            .count(),
        2
    );
    assert_eq!(kinds[7], SectionKind::Unknown(1 << 31));
}

#[test]
fn a_section_is_aligned_in_order_alone_and_in_the_file() {
    let good = forge();
    for number in 0..5 {
        let entry = TABLE + number * ENTRY;
        let (offset, len) = (good.u64(entry + 8), good.u64(entry + 16));
        for value in [offset + 1, offset + 4095, 1, u64::MAX] {
            assert_corrupt(Place::SectionTable(number), "not aligned", |forge| {
                forge.set_u64(entry + 8, value);
            });
        }
        for value in [0, offset - 4096] {
            assert_corrupt(Place::SectionTable(number), "overlaps", |forge| {
                forge.set_u64(entry + 8, value);
            });
        }
        for value in [1 << 63, 1 << 40, u64::MAX - 4095] {
            assert_corrupt(Place::SectionTable(number), "past the end", |forge| {
                forge.set_u64(entry + 8, value);
            });
        }
        for value in [
            u64::MAX,
            1 << 63,
            u64::MAX - offset,
            u64::MAX - offset + 1,
            good.u64(FILE_LEN) - offset + 1,
        ] {
            assert_corrupt(Place::SectionTable(number), "past the end", |forge| {
                forge.set_u64(entry + 16, value);
            });
        }
        // Into the next section: the next one is told.
        if number < 4 {
            let next = good.u64(entry + ENTRY + 8);
            assert_corrupt(Place::SectionTable(number + 1), "overlaps", |forge| {
                forge.set_u64(entry + 16, next - offset + 1);
            });
            assert_corrupt(Place::SectionTable(number + 1), "twice", |forge| {
                let kind = forge.u32(entry);
                forge.set_u32(entry + ENTRY, kind);
            });
        }
        for value in [0, 1, len - 1, len + 1] {
            // Never more than an error.
            drop(opened(|forge| forge.set_u64(entry + 16, value)));
        }
    }
}

#[test]
fn an_index_is_whole_nodes_and_at_least_one() {
    let len = forge().section(INDEX).len as u64;
    for value in [0, 1, 4095, 4097, len - 1] {
        assert_corrupt(Place::IndexRoot, "not whole nodes", |forge| {
            let entry = forge.section(INDEX).entry;
            forge.set_u64(entry + 16, value);
        });
    }
}

#[test]
fn metadata_is_an_object_of_json_and_no_more() {
    let with = |json: &[u8]| {
        let mut forge = forge();
        forge.move_to_end(METADATA, json);
        forge.repair();
        Snapshot::open(forge.bytes)
    };
    let nested = |depth| [b"{\"x\":".repeat(depth), b"1".to_vec(), b"}".repeat(depth)].concat();
    let deep_source = [&b"{\"source\":"[..], &b"[".repeat(500_000)].concat();
    for wrong in [
        &b""[..],
        b"null",
        b"1",
        b"\"text\"",
        b"[]",
        b"[0,\"\"]",
        b"{",
        b"{}x",
        b"\xff\xfe",
        b"{\"host\":\"\xff\"}",
        b"{\"created_unix\":1e400}",
        &nested(100_000),
        &deep_source,
        &vec![b'['; 1 << 20],
        &vec![b' '; 1 << 20],
    ] {
        let start = String::from_utf8_lossy(&wrong[..wrong.len().min(40)]).into_owned();
        match with(wrong) {
            Err(Error::Corrupt {
                place: Place::Metadata,
                what,
            }) => assert_eq!(what, "not the JSON object it should be"),
            other => panic!("{start}: {other:?}"),
        }
    }
    for fine in [
        &b"{}"[..],
        b" {\"unknown\":[1,{}],\"host\":\"h\"} ",
        b"{\"host\":1,\"created_unix\":-1,\"compressed\":7}",
        b"{\"source\":{\"type\":\"later\",\"x\":{\"y\":[1]}}}",
        b"{\"source\":{\"type\":\"process\",\"pid\":\"x\"}}",
        b"{\"source\":{\"type\":\"raw\",\"new\":null}}",
        &nested(100),
    ] {
        with(fine).unwrap();
    }
    let long = [b"{}".to_vec(), vec![b' '; 1 << 20]].concat();
    match with(&long) {
        Err(Error::Corrupt {
            place: Place::Metadata,
            what,
        }) => assert_eq!(what, "longer than the format allows"),
        other => panic!("{other:?}"),
    }
    with(&long[..1 << 20]).unwrap();
}

#[test]
fn a_parent_section_is_an_id_a_length_and_a_path() {
    let with = |bytes: &[u8]| {
        let mut forge = forge();
        forge.move_to_end(PARENT, bytes);
        forge.repair();
        Snapshot::open(forge.bytes)
    };
    for (len, text) in [
        (0, "cut short"),
        (23, "cut short"),
        (4097 + 24, "longer than the format allows"),
    ] {
        let error = with(&vec![b'p'; len]).unwrap_err();
        assert!(
            matches!(error, Error::Corrupt { place: Place::Parent, what } if what.contains(text)),
            "{error}"
        );
    }
    let error = with(&[&[0; 24][..], &[0xff]].concat()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "corrupt parent section: the path is not UTF-8"
    );
    let of_pages = |pages: u64| with(&[&[0; 16][..], &pages.to_le_bytes(), b"path"].concat());
    of_pages(1 << 36).unwrap();
    for pages in [(1 << 36) + 1, 1 << 63, u64::MAX] {
        let error = of_pages(pages).unwrap_err().to_string();
        assert_eq!(
            error,
            "corrupt parent section: more pages than the format allows"
        );
    }
    for len in [0, 1, 4096] {
        let path = [vec![0; 24], vec![b'p'; len]].concat();
        let snapshot = with(&path).unwrap();
        assert_eq!(snapshot.parent().unwrap().path.len(), len);
    }
}
