//! A snapshot with a page of every kind, read in every way.

use std::collections::HashSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Barrier, LazyLock};
use std::thread;

use snapshot_format::{
    Codec, Compression, Metadata, PAGE_SIZE, PageNo, Region, Snapshot, SnapshotId, Writer,
    WriterOptions,
};

use super::*;
use crate::source::CacheCounts;

pub(in crate::source) const PAGES: u64 = 600;

/// What the page is: 0 for zero, 1 for a repeated word.
pub(in crate::source) fn kind(page: u64) -> u64 {
    if (200..400).contains(&page) {
        0
    } else {
        page % 7
    }
}

pub(in crate::source) fn content(page: u64) -> Vec<u8> {
    match kind(page) {
        0 => vec![0; PAGE_SIZE],
        1 => (page + 1).to_le_bytes().repeat(512),
        _ => (0..512_u64)
            .flat_map(|word| ((word * word) ^ (page << 20)).to_le_bytes())
            .collect(),
    }
}

/// The content of all pages, made once: most of the time of these tests was making it.
pub(in crate::source) fn expected(page: u64) -> &'static [u8] {
    static ALL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| (0..PAGES).map(content).collect());
    &ALL[usize::try_from(page).expect("a small number")]
}

/// Page 599 is lost.
pub(in crate::source) fn file(frame_pages: u16) -> tempfile::NamedTempFile {
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
    file
}

fn open(file: &tempfile::NamedTempFile) -> Arc<Snapshot<File>> {
    let file = File::open(file.path()).expect("there");
    Arc::new(Snapshot::open(file).expect("good"))
}

/// Every way to read a snapshot: without a cache, with one that keeps everything, some frames, and nothing.
fn sources(frame_pages: u16) -> (tempfile::NamedTempFile, Vec<SnapshotSource>) {
    let file = file(frame_pages);
    let snapshot = open(&file);
    let some = 3 * u64::from(frame_pages) * 4096;
    let mut sources = vec![SnapshotSource::new(Arc::clone(&snapshot))];
    for limit in [u64::MAX, some, 0] {
        let cache = Arc::new(FrameCache::new(limit));
        sources.push(SnapshotSource::with_cache(Arc::clone(&snapshot), cache));
    }
    (file, sources)
}

fn counts(source: &SnapshotSource) -> CacheCounts {
    let shared = source.shared.as_ref().expect("it has a cache");
    shared.cache.counts()
}

/// Frames that the pages of a snapshot are in.
fn frames(source: &SnapshotSource) -> u64 {
    let mut cursor = Cursor::new(Arc::clone(&source.snapshot));
    let frames = (0..PAGES).filter_map(|page| match cursor.content(PageNo(page)) {
        Ok(Content::Frame { frame, .. }) => Some(frame),
        _ => None,
    });
    frames.collect::<HashSet<_>>().len() as u64
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
                    assert!(bytes == expected(page), "page {page}");
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
        let (_file, sources) = sources(frame_pages);
        for source in &sources {
            every_page(source, frame_pages);
        }
    }
}

fn every_page(source: &SnapshotSource, frame_pages: u16) {
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
            let gaps = pages.windows(2).filter(|pair| pair[0] + 1 != pair[1]);
            assert_eq!(block.pieces.len(), gaps.count() + 1, "page {page}");
        }
    }
    reader.read(PageNo(210), 1, &(0..PAGES), &mut block);
    assert_eq!(check(&block).len() as u64, ZEROS_AT_ONCE);
}

#[test]
fn only_what_is_welcome_comes_as_well() {
    let (_file, sources) = sources(64);
    for source in &sources {
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
}

#[test]
fn all_pages_of_a_range() {
    for frame_pages in [1, 4, 64] {
        let (_file, sources) = sources(frame_pages);
        let mut block = Block::default();
        for source in &sources {
            for range in [0..PAGES, 3..9, 190..410, 598..600] {
                source.reader().read_all(&range, &mut block);
                assert_eq!(check(&block), range.collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn huge_pages_are_one_piece() {
    let (_file, sources) = sources(4);
    for source in &sources {
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
}

/// Changes a bit in the middle of the file, which is somewhere in the frames.
fn flip(file: &tempfile::NamedTempFile) {
    let file = file.as_file();
    let position = file.metadata().expect("there").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, position).expect("there");
    file.write_all_at(&[byte[0] ^ 1], position).expect("there");
}

fn bad_pages(block: &Block) -> Vec<u64> {
    block
        .pieces
        .iter()
        .filter(|piece| matches!(piece.what, What::Bad(_)))
        .flat_map(|piece| piece.pages.clone())
        .collect()
}

#[test]
fn a_bad_frame_is_bad_for_all_its_pages_and_no_others() {
    let (file, sources) = sources(4);
    flip(&file);
    for source in &sources {
        let mut reader = source.reader();
        let mut block = Block::default();
        reader.read_all(&(0..PAGES - 1), &mut block);
        let bad = bad_pages(&block);
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
}

#[test]
fn a_failure_is_not_kept() {
    let (file, sources) = sources(4);
    flip(&file);
    for source in &sources {
        let mut reader = source.reader();
        let mut block = Block::default();
        reader.read_all(&(0..PAGES - 1), &mut block);
        assert!(!bad_pages(&block).is_empty());
        flip(&file);
        reader.read_all(&(0..PAGES - 1), &mut block);
        assert_eq!(check(&block).len() as u64, PAGES - 1);
        assert!(bad_pages(&block).is_empty());
        flip(&file);
    }
}

/// Reads everything in every way in eight threads that begin at the same time.
fn read_in_eight_threads(source: &SnapshotSource) {
    let start = Barrier::new(8);
    thread::scope(|scope| {
        for number in 0..8_u64 {
            let start = &start;
            scope.spawn(move || {
                let mut reader = source.reader();
                let mut block = Block::default();
                start.wait();
                for page in 0..PAGES {
                    // Not all in the same order.
                    let page = (page * (number * 2 + 1) * 7) % PAGES;
                    reader.read(PageNo(page), 1, &(0..PAGES), &mut block);
                    assert!(check(&block).contains(&page));
                }
                reader.read_all(&(0..PAGES), &mut block);
                assert_eq!(check(&block).len() as u64, PAGES);
                reader.read(PageNo(0), 512, &(0..PAGES), &mut block);
                assert!(block.bytes == (0..512).flat_map(content).collect::<Vec<_>>());
            });
        }
    });
}

#[test]
fn many_readers_decode_a_frame_once() {
    let (_file, sources) = sources(16);
    let source = &sources[1];
    read_in_eight_threads(source);
    let counts = counts(source);
    assert_eq!(counts.decodes, frames(source));
    assert_eq!(counts.frames, counts.decodes);
    assert_eq!(counts.evictions, 0);
    assert!(counts.hits > 8 * counts.decodes, "{counts:?}");
}

#[test]
fn a_small_cache_is_never_wrong_and_never_larger_than_it_may() {
    let (_file, sources) = sources(16);
    read_in_eight_threads(&sources[2]);
    let some = counts(&sources[2]);
    assert!(some.decodes > frames(&sources[2]), "{some:?}");
    assert!(some.evictions > 0 && some.frames > 0, "{some:?}");
    assert!(some.bytes <= 3 * 16 * 4096, "{some:?}");
    read_in_eight_threads(&sources[3]);
    let none = counts(&sources[3]);
    assert_eq!((none.hits, none.frames, none.bytes), (0, 0, 0));
}

#[test]
fn snapshots_that_share_a_cache_do_not_share_frames() {
    // The same id, the same places, other content.
    let (one, other) = (file(4), file(4));
    let cache = Arc::new(FrameCache::new(u64::MAX));
    let source = |file| SnapshotSource::with_cache(open(file), Arc::clone(&cache));
    let (first, second) = (source(&one), source(&other));
    flip(&other);
    let mut block = Block::default();
    first.reader().read_all(&(0..PAGES - 1), &mut block);
    assert!(bad_pages(&block).is_empty());
    second.reader().read_all(&(0..PAGES - 1), &mut block);
    assert!(!bad_pages(&block).is_empty());
    second.clone().reader().read_all(&(0..9), &mut block);
    assert!(counts(&first).hits > 0, "a clone is the same source");
}
