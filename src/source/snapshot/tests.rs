//! A snapshot with a page of every kind, read in every way.

use std::fs::File;
use std::sync::Arc;

use snapshot_format::{
    Codec, Compression, Metadata, PAGE_SIZE, PageNo, Region, Snapshot, SnapshotId, Writer,
    WriterOptions,
};

use super::*;

const PAGES: u64 = 600;

/// What the page is.
fn kind(page: u64) -> u64 {
    if (200..400).contains(&page) {
        0
    } else {
        page % 7
    }
}

fn content(page: u64) -> Vec<u8> {
    match kind(page) {
        0 => vec![0; PAGE_SIZE],
        1 => (page + 1).to_le_bytes().repeat(512),
        _ => (0..512_u64)
            .flat_map(|word| ((word * word) ^ (page << 20)).to_le_bytes())
            .collect(),
    }
}

/// Page 599 is lost.
fn source(frame_pages: u16) -> (tempfile::NamedTempFile, SnapshotSource) {
    let file = tempfile::NamedTempFile::new().expect("space");
    let compression = Compression {
        codec: Codec::Lz4,
        level: 0,
        frame_pages,
    };
    let options = WriterOptions {
        compression,
        ..WriterOptions::default()
    };
    let output = file.as_file().try_clone().expect("a descriptor");
    let mut writer = Writer::new(output, options).expect("good options");
    writer
        .begin_region(Region::raw(0, PAGES * 4096))
        .expect("a region");
    for page in 0..PAGES - 1 {
        writer.space().expect("space")[..PAGE_SIZE].copy_from_slice(&content(page));
        writer.commit(1).expect("space");
    }
    writer.lost(1).expect("space");
    writer
        .finish(SnapshotId([1; 16]), &Metadata::default())
        .expect("finished");
    let snapshot = Snapshot::open(File::open(file.path()).expect("there")).expect("good");
    (file, SnapshotSource::new(Arc::new(snapshot)))
}

/// Every page that a block has is what it should be.
fn check(block: &Block) -> Vec<u64> {
    let mut pages = Vec::new();
    for piece in &block.pieces {
        for page in piece.pages.clone() {
            pages.push(page);
            match &piece.what {
                What::Zero => assert_eq!(kind(page), 0, "page {page}"),
                What::Bytes(_) => {
                    let bytes = block.bytes_of(piece, &(page..page + 1)).expect("bytes");
                    assert!(bytes == content(page), "page {page}");
                }
                What::Bad(_) => assert_eq!(page, PAGES - 1),
            }
        }
    }
    assert!(pages.is_sorted());
    pages
}

#[test]
fn every_page_comes_with_its_frame() {
    for frame_pages in [1, 4, 64] {
        let (_file, source) = source(frame_pages);
        let mut reader = source.reader();
        let mut block = Block::default();
        for page in 0..PAGES {
            reader.read(PageNo(page), 1, &(0..PAGES), &mut block);
            let pages = check(&block);
            assert!(pages.contains(&page), "page {page}");
            let near = u64::from(frame_pages).max(ZEROS_AT_ONCE);
            assert!(pages.iter().all(|&other| other.abs_diff(page) < near));
            if kind(page) > 1 && frame_pages == 4 && page < PAGES - 8 {
                let frame = page / 4 * 4..page / 4 * 4 + 4;
                let expected: Vec<u64> = frame.filter(|&page| kind(page) > 1).collect();
                assert_eq!(pages, expected, "page {page}");
            }
        }
        reader.read(PageNo(210), 1, &(0..PAGES), &mut block);
        assert_eq!(check(&block).len() as u64, ZEROS_AT_ONCE);
    }
}

#[test]
fn only_what_is_welcome_comes_as_well() {
    let (_file, source) = source(64);
    let mut reader = source.reader();
    let mut block = Block::default();
    for (page, welcome) in [(70, 70..71), (70, 68..75), (210, 205..215), (100, 0..0)] {
        reader.read(PageNo(page), 1, &welcome, &mut block);
        let pages = check(&block);
        assert!(pages.contains(&page));
        assert!(
            pages
                .iter()
                .all(|other| *other == page || welcome.contains(other)),
            "{pages:?}"
        );
    }
}

#[test]
fn all_pages_of_a_range() {
    for frame_pages in [1, 4, 64] {
        let (_file, source) = source(frame_pages);
        let mut block = Block::default();
        for range in [0..PAGES, 3..9, 190..410, 598..600] {
            source.reader().read_all(&range, &mut block);
            assert_eq!(check(&block), range.collect::<Vec<_>>());
        }
    }
}

#[test]
fn huge_pages_are_one_piece() {
    let (_file, source) = source(4);
    let mut reader = source.reader();
    let mut block = Block::default();
    for (first, what) in [
        (0, What::Bytes(0)),
        (200, What::Zero),
        (536, What::Bad(String::new())),
    ] {
        let needed = if first == 0 { 512 } else { 64 };
        block.bytes.resize(7, 9);
        reader.read(PageNo(first), needed, &(0..PAGES), &mut block);
        assert_eq!(block.pieces.len(), 1);
        assert_eq!(block.pieces[0].pages, first..first + needed);
        assert_eq!(
            std::mem::discriminant(&block.pieces[0].what),
            std::mem::discriminant(&what)
        );
        if first == 0 {
            let expected: Vec<u8> = (0..512).flat_map(content).collect();
            assert!(block.bytes == expected);
        }
    }
}

#[test]
fn a_bad_frame_is_bad_for_all_its_pages_and_no_others() {
    let (file, source) = source(4);
    let length = file.as_file().metadata().expect("there").len();
    // Somewhere in the frames.
    let position = length / 2;
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(file.as_file(), &mut byte, position).expect("there");
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[byte[0] ^ 1], position)
        .expect("there");
    let mut reader = source.reader();
    let mut block = Block::default();
    reader.read_all(&(0..PAGES - 1), &mut block);
    let bad: Vec<u64> = block
        .pieces
        .iter()
        .filter(|piece| matches!(piece.what, What::Bad(_)))
        .flat_map(|piece| piece.pages.clone())
        .collect();
    assert!(!bad.is_empty() && bad.len() <= 4, "{bad:?}");
    for page in 0..PAGES - 1 {
        reader.read(PageNo(page), 1, &(0..PAGES), &mut block);
        let piece = block.piece_of(PageNo(page)).expect("the page");
        assert_eq!(
            matches!(piece.what, What::Bad(_)),
            bad.contains(&page),
            "page {page}"
        );
    }
}
