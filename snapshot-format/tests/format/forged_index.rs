//! Index entries that lie, with checksums that are right.

use crate::common::forge::{FRAMES, Forge, INDEX, PAGE, xxh3};
use crate::common::plan::{Plan, What};
use crate::common::small;
use crate::common::{CODECS, open, options};
use snapshot_format::fuzzing::{Limits, decode_inner, decode_leaf};
use snapshot_format::{Codec, Content, Cursor, Error, FrameRef, PageNo, Place, Snapshot};
use std::sync::Arc;

fn forge() -> Forge {
    Forge {
        bytes: small::file().to_vec(),
    }
}

/// What page 0 and page 66,000 are after a change of the entry at `entry` and a repair of the nodes above it.
fn changed(entry: usize, first: u64, second: u64) -> [Result<Content, Error>; 2] {
    let mut forge = forge();
    forge.set_u64(entry, first);
    forge.set_u64(entry + 8, second);
    forge.repair();
    let mut cursor = Cursor::new(Arc::new(Snapshot::open(forge.bytes).expect("a root")));
    [0, 66_000].map(|page| cursor.content(PageNo(page)))
}

#[track_caller]
fn assert_corrupt(outcome: &Result<Content, Error>, place: Place, text: &str) {
    match outcome {
        Err(Error::Corrupt { place: found, what }) if *found == place && what.contains(text) => {}
        other => panic!("{other:?} instead of {text:?}"),
    }
}

fn first_frame_page() -> u64 {
    let mut cursor = Cursor::new(open(forge().bytes));
    (0..8)
        .find(|&page| matches!(cursor.content(PageNo(page)).unwrap(), Content::Frame { .. }))
        .unwrap()
}

#[test]
fn unknown_classes_and_set_reserved_bits_are_refused_on_every_level() {
    let path = forge().path(0);
    assert_eq!(path.len(), 3);
    for (level, &entry) in path.iter().rev().enumerate() {
        for class in [0, 7, 8, 15, 1 | 16, 5 | 128] {
            let [page, elsewhere] = changed(entry, class, 0);
            assert_corrupt(&page, Place::IndexEntry(0), "the class is not known");
            elsewhere.unwrap();
        }
        for (class, second) in [
            (1, 1),
            (5, 1),
            (1, u64::MAX),
            (1 | 256, 0),
            (5 | 1 << 63, 0),
            (2 | 512, 3),
            (4 | 1 << 20, 3),
        ] {
            let [page, _] = changed(entry, class, second);
            assert_corrupt(&page, Place::IndexEntry(0), "reserved bits are not zero");
        }
        let [page, _] = changed(entry, 2, 0);
        assert_corrupt(&page, Place::IndexEntry(0), "a fill word is zero");
        let [page, _] = changed(entry, if level == 0 { 6 } else { 3 }, 0);
        let text = if level == 0 {
            "a node is referred to"
        } else {
            "the class is not known"
        };
        assert_corrupt(&page, Place::IndexEntry(0), text);
    }
}

#[test]
fn a_node_lies_in_the_index_and_matches_its_checksum() {
    let forge = forge();
    let len = forge.section(INDEX).len as u64;
    for &entry in &forge.path(0)[..2] {
        for offset in [len, len + 4096, 1 << 40, 1 << 63, u64::MAX - 4095] {
            let [page, _] = changed(entry, 6 | offset, 0);
            assert_corrupt(
                &page,
                Place::IndexEntry(0),
                "the node is not in the index section",
            );
        }
        for offset in [16, 2048, 1 << 4] {
            let [page, _] = changed(entry, 6 | offset, 0);
            assert_corrupt(&page, Place::IndexEntry(0), "reserved bits are not zero");
        }
    }
    // A wrong checksum that the node above vouches for.
    let mut forge = forge.clone();
    let entry = forge.path(0)[0];
    forge.set_u64(entry + 8, 0x1234);
    let root = forge.root();
    let sum = xxh3(&forge.bytes[root..root + PAGE]);
    let table = forge.section(INDEX).entry;
    forge.set_u64(table + 24, sum);
    forge.repair_header();
    let node = forge.section(INDEX).offset as u64 + (forge.u64(entry) ^ 6);
    let mut cursor = Cursor::new(open(forge.bytes));
    for _ in 0..2 {
        assert_corrupt(
            &cursor.content(PageNo(0)),
            Place::IndexNode(node),
            "the checksum does not match",
        );
    }
}

#[test]
fn a_node_that_was_good_for_one_entry_is_not_good_for_another_one() {
    // Two entries of the root name the same node, one of them with another checksum.
    let mut forge = forge();
    let root = forge.root();
    let first = forge.path(0)[0];
    assert_eq!(first, root);
    let node = forge.u64(first);
    forge.set_u64(root + 16, node);
    let sum = forge.u64(first + 8);
    forge.set_u64(root + 24, sum ^ 1);
    let sum = xxh3(&forge.bytes[root..root + PAGE]);
    let table = forge.section(INDEX).entry;
    forge.set_u64(table + 24, sum);
    forge.repair_header();
    let snapshot = open(forge.bytes);
    for order in [[0, 65_536], [65_536, 0]] {
        let mut cursor = Cursor::new(Arc::clone(&snapshot));
        for page in order {
            assert_eq!(
                cursor.content(PageNo(page)).is_ok(),
                page == 0,
                "page {page} in {order:?}"
            );
        }
    }
}

#[test]
fn nodes_that_contain_each_other_are_no_endless_way() {
    let mut forge = forge();
    let index = forge.section(INDEX).offset as u64;
    let path = forge.path(0);
    let (root, upper, leaf) = (
        forge.root() as u64 - index,
        forge.u64(path[0]) ^ 6,
        forge.u64(path[1]) ^ 6,
    );
    for entry in [path[0], path[1], path[0] + 16, path[1] + 16] {
        for target in [root, upper, leaf] {
            let mut forge = forge.clone();
            forge.set_u64(entry, 6 | target);
            forge.repair();
            let snapshot = open(forge.bytes);
            // An end, whatever it is; entries of a node of another level are not taken for frames out of bounds.
            drop(small::everything(&snapshot));
        }
    }
    // The same leaf everywhere: allowed, and content is content.
    for position in 0..256 {
        let (node, sum) = (forge.u64(path[1]), forge.u64(path[1] + 8));
        let entry = path[1] / PAGE * PAGE + position * 16;
        forge.set_u64(entry, node);
        forge.set_u64(entry + 8, sum);
    }
    forge.repair();
    let mut cursor = Cursor::new(open(forge.bytes));
    assert_eq!(
        cursor.content(PageNo(0)).unwrap(),
        cursor.content(PageNo(256 * 77)).unwrap()
    );
}

/// The bits of an entry of class 3.
fn entry_of(codec: u64, slot: u64, pages: u64, payload_len: u64) -> u64 {
    3 | codec << 4 | slot << 8 | (pages - 1) << 17 | payload_len << 26
}

#[test]
fn a_frame_entry_is_within_every_limit_or_refused() {
    let limits = Limits {
        frames_len: 10_000,
        index_len: 8192,
        max_frame_pages: 16,
        parent_pages: 100,
    };
    let leaf = |first: u64, second: u64| {
        decode_leaf(
            &(u128::from(first) | u128::from(second) << 64).to_le_bytes(),
            &limits,
        )
    };
    let frame = |codec, slot, offset, payload_len| {
        let frame = FrameRef {
            offset,
            payload_len,
            pages: 2,
            codec,
        };
        Ok(Content::Frame { frame, slot })
    };
    assert_eq!(
        leaf(entry_of(1, 1, 2, 500), 0),
        frame(Codec::Lz4, 1, 0, 500)
    );
    assert_eq!(
        leaf(entry_of(2, 0, 2, 8191), 1801),
        frame(Codec::Zstd, 0, 1801, 8191)
    );
    assert_eq!(
        leaf(entry_of(0, 1, 2, 8192), 1800),
        frame(Codec::Stored, 1, 1800, 8192)
    );
    for (first, second, text) in [
        (entry_of(3, 0, 2, 500), 0, "codec"),
        (entry_of(15, 0, 2, 500), 0, "codec"),
        (entry_of(1, 2, 2, 500), 0, "slot"),
        (entry_of(1, 511, 2, 500), 0, "slot"),
        (entry_of(1, 0, 17, 500), 0, "more pages than the header"),
        (entry_of(1, 0, 512, 500), 0, "more pages than the header"),
        (entry_of(1, 0, 2, 0), 0, "payload length"),
        (entry_of(1, 0, 2, 8192), 0, "payload length"),
        (entry_of(2, 0, 2, 8193), 0, "payload length"),
        (entry_of(2, 0, 16, 0x3f_ffff), 0, "payload length"),
        (entry_of(0, 0, 2, 8191), 0, "payload length"),
        (entry_of(0, 0, 2, 0), 0, "payload length"),
        (entry_of(0, 0, 2, 8193), 0, "payload length"),
        (entry_of(1, 0, 2, 500) | 1 << 48, 0, "reserved"),
        (entry_of(1, 0, 2, 500) | 1 << 63, 0, "reserved"),
        (entry_of(1, 0, 2, 500), 9493, "past the frames"),
        (entry_of(1, 0, 2, 500), u64::MAX, "past the frames"),
        (entry_of(1, 0, 2, 500), u64::MAX - 507, "past the frames"),
        (entry_of(0, 0, 2, 8192), 1801, "past the frames"),
        (4, 100, "not in the parent"),
        (4, u64::MAX, "not in the parent"),
    ] {
        let what = leaf(first, second).unwrap_err();
        assert!(what.contains(text), "{first:#x} {second}: {what}");
    }
    leaf(entry_of(1, 0, 2, 500), 9492).unwrap();
    leaf(4, 99).unwrap();
    let inner = |first: u64, second: u64, pages| {
        decode_inner(
            &(u128::from(first) | u128::from(second) << 64).to_le_bytes(),
            pages,
            &limits,
        )
    };
    inner(4, 0, 100).unwrap();
    inner(4, 99, 1).unwrap();
    for (first, pages) in [(1, 100), (100, 1), (0, 101), (u64::MAX, 2), (5, u64::MAX)] {
        assert!(
            inner(4, first, pages).is_err(),
            "{pages} pages from {first}"
        );
    }
    inner(6 | 4096, 0, 256).unwrap();
    assert!(inner(6 | 8192, 0, 256).is_err());
}

#[test]
fn a_frame_belongs_to_its_place() {
    // The same memory with other content before it: another place for the same frame.
    let plan = Plan::raw(&[(What::Data(1), 40)]);
    for codec in CODECS {
        let mut forge = Forge {
            bytes: plan.write(options(codec, 4)),
        };
        let mut cursor = Cursor::new(open(forge.bytes.clone()));
        let mut frames: Vec<FrameRef> = (0..40)
            .filter_map(|page| match cursor.content(PageNo(page)).unwrap() {
                Content::Frame { frame, .. } => Some(frame),
                _ => None,
            })
            .collect();
        frames.dedup();
        let (from, to) = (frames[0], frames.last().unwrap());
        let start = forge.section(FRAMES).offset;
        let at = |offset: u64| start + usize::try_from(offset).unwrap();
        let room = usize::try_from(from.payload_len.min(to.payload_len)).unwrap() + 8;
        // What a lost or a doubled write leaves behind.
        forge
            .bytes
            .copy_within(at(from.offset)..at(from.offset) + room, at(to.offset));
        let mut cursor = Cursor::new(open(forge.bytes));
        let moved = FrameRef {
            offset: to.offset,
            ..from
        };
        let mut out = vec![0; moved.content_len()];
        if room == usize::try_from(from.payload_len).unwrap() + 8 {
            let error = cursor.read_frame(&moved, &mut out).unwrap_err();
            assert!(
                error
                    .to_string()
                    .ends_with("the content does not match its checksum"),
                "{error}"
            );
        }
        assert!(cursor.frame_content(to).is_err());
        cursor.read_frame(&from, &mut out).unwrap();
    }
}

#[test]
fn payloads_that_do_not_decode_to_the_frame_are_refused() {
    let page = first_frame_page();
    let mut forge = forge();
    let entry = *forge.path(page).last().unwrap();
    let (first, offset) = (forge.u64(entry), forge.u64(entry + 8));
    let at = forge.section(FRAMES).offset + usize::try_from(offset).unwrap() + 8;
    let pages = usize::try_from(first >> 17 & 0x1ff).unwrap() + 1;
    let zstd_of = |len: usize| zstd::bulk::compress(&vec![7; len], 1).unwrap();
    let lz4_of = |len: usize| lz4_flex::block::compress(&vec![7; len]);
    let bomb = zstd_of(64 << 20);
    let mut cut = zstd_of(pages * PAGE);
    cut.pop();
    let two = [zstd_of(PAGE), zstd_of(PAGE * pages)].concat();
    for (codec, payload) in [
        (2, zstd_of(pages * PAGE - 1)),
        (2, zstd_of(pages * PAGE + 1)),
        (2, cut),
        (2, vec![0]),
        (2, vec![0xff; 100]),
        (2, two),
        (2, bomb[..bomb.len().min(2000)].to_vec()),
        (2, lz4_of(pages * PAGE)),
        (1, lz4_of(pages * PAGE - 1)),
        (1, lz4_of(pages * PAGE + 1)),
        (1, vec![0]),
        (1, vec![0xff; 900]),
        (1, lz4_of(100 << 10)),
        (1, zstd_of(pages * PAGE)),
        (1, vec![0xf0, 0xff, 0xff, 0xff]),
        (1, vec![0x1f, 1, 0, 0]),
    ] {
        forge.bytes[at..at + payload.len()].copy_from_slice(&payload);
        forge.set_u64(
            entry,
            entry_of(codec, 0, pages as u64, payload.len() as u64),
        );
        forge.repair();
        let snapshot = Arc::new(Snapshot::open(forge.bytes.clone()).unwrap());
        let error = Cursor::new(snapshot)
            .read_page(PageNo(page), &mut [0; PAGE])
            .unwrap_err();
        let place = Place::Frame(at as u64 - 8);
        assert!(
            matches!(error, Error::Corrupt { place: found, .. } if found == place),
            "{codec}: {error}"
        );
        // Found out by decoding, and not left to the checksum.
        assert!(!error.to_string().contains("checksum"), "{codec}: {error}");
    }
}
