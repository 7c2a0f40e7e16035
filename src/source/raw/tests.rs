//! A file with data, zero pages and a hole, read in every way, and cut off.

use std::os::unix::fs::FileExt;

use super::*;
use crate::source::snapshot::tests::{PAGES, content, expected, kind};

/// Pages 200 to 399 are a hole. Of the others every seventh is zero, and stands in the file.
fn source() -> (tempfile::NamedTempFile, RawSource) {
    let file = tempfile::NamedTempFile::new().expect("space");
    file.as_file().set_len(PAGES * 4096).expect("space");
    for page in (0..200).chain(400..PAGES) {
        let at = page * 4096;
        file.as_file()
            .write_all_at(&content(page), at)
            .expect("space");
    }
    let source = RawSource::new(File::open(file.path()).expect("there"), file.path());
    let source = source.expect("whole pages");
    assert_eq!(source.pages(), PAGES);
    (file, source)
}

/// Every page that a block has is what it should be; returns those, and those that are bad.
fn check(block: &Block) -> (Vec<u64>, Vec<u64>) {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for piece in &block.pieces {
        for page in piece.pages.clone() {
            match &piece.what {
                What::Zero => assert_eq!(kind(page), 0, "page {page}"),
                What::Bytes(_) => {
                    let bytes = block.bytes_of(piece, &(page..page + 1)).expect("bytes");
                    assert!(bytes == expected(page), "page {page}");
                    assert_ne!(kind(page), 0, "page {page} is zero");
                }
                What::Bad(_) => {
                    bad.push(page);
                    continue;
                }
            }
            good.push(page);
        }
    }
    assert!(good.is_sorted() && bad.is_sorted());
    (good, bad)
}

/// A block in which other things have been.
fn used_block() -> Block {
    Block {
        bytes: vec![9; 700 * PAGE_SIZE],
        pieces: vec![Piece {
            pages: 0..700,
            what: What::Bytes(0),
        }],
    }
}

#[test]
fn every_page_comes_with_its_window() {
    let (_file, source) = source();
    let mut reader = source.reader();
    let mut block = used_block();
    // Forwards, and to and fro.
    for page in (0..PAGES).chain((0..PAGES).map(|page| page * 7 % PAGES)) {
        reader.read(PageNo(page), 1, &(0..PAGES), &mut block);
        let (good, bad) = check(&block);
        assert_eq!(bad, [0; 0]);
        let expected = match page {
            200..400 => page..(page + ZEROS_AT_ONCE).min(400),
            _ => page / WINDOW * WINDOW..((page / WINDOW + 1) * WINDOW).min(PAGES),
        };
        assert_eq!(good, expected.collect::<Vec<_>>(), "page {page}");
    }
}

#[test]
fn only_what_is_welcome_comes_as_well() {
    let (_file, source) = source();
    let mut reader = source.reader();
    let mut block = used_block();
    for (page, welcome, expected) in [
        (70, 70..71, 70..71),
        (70, 68..75, 68..75),
        (70, 0..72, 64..72),
        (70, 72..80, 70..71),
        (100, 0..0, 100..101),
        (210, 205..215, 210..215),
        (210, 0..0, 210..211),
        (210, 300..400, 210..242),
    ] {
        reader.read(PageNo(page), 1, &welcome, &mut block);
        let (good, _) = check(&block);
        if welcome.start > page && page == 210 {
            assert!(good.contains(&page));
            continue;
        }
        assert_eq!(good, expected.collect::<Vec<_>>(), "page {page}");
    }
}

#[test]
fn all_pages_of_a_range() {
    let (_file, source) = source();
    let mut block = used_block();
    for range in [0..PAGES, 3..9, 190..410, 210..300, 300..599, 598..600, 7..7] {
        source.reader().read_all(&range, &mut block);
        let (good, bad) = check(&block);
        assert_eq!(good, range.collect::<Vec<_>>());
        assert_eq!(bad, [0; 0]);
    }
}

#[test]
fn huge_pages_are_one_piece() {
    let (file, source) = source();
    // Zeros that stand in the file.
    file.as_file()
        .write_all_at(&vec![0; 64 * PAGE_SIZE], 256 * 4096)
        .expect("space");
    let mut reader = source.reader();
    for (first, needed, what) in [
        (0, 512, What::Bytes(0)),
        (200, 50, What::Zero),
        (256, 64, What::Zero),
        (240, 100, What::Zero),
        (390, 20, What::Bytes(0)),
        (536, 128, What::Bad(String::new())),
    ] {
        let mut block = used_block();
        reader.read(PageNo(first), needed, &(0..PAGES), &mut block);
        assert_eq!(block.pieces.len(), 1);
        let piece = &block.pieces[0];
        assert_eq!(piece.pages, first..first + needed);
        assert_eq!(
            std::mem::discriminant(&piece.what),
            std::mem::discriminant(&what),
            "page {first}"
        );
        if let Some(bytes) = block.bytes_of(piece, &piece.pages) {
            let expected: Vec<u8> = piece.pages.clone().flat_map(content).collect();
            assert!(bytes == expected);
        }
    }
}

#[test]
fn what_is_cut_off_is_bad_and_never_zero() {
    for known in [false, true] {
        for pages in [100, 300, 450] {
            let (file, source) = source();
            let mut reader = source.reader();
            let mut block = used_block();
            if known {
                // The hole is remembered.
                reader.read(PageNo(310), 1, &(0..PAGES), &mut block);
            }
            // In the middle of a page.
            file.as_file().set_len(pages * 4096 + 17).expect("shorter");
            for page in [350].into_iter().chain((0..PAGES).rev()) {
                reader.read(PageNo(page), 1, &(0..PAGES), &mut block);
                let (good, bad) = check(&block);
                assert!(good.iter().all(|&page| page < pages), "{good:?}");
                // Nobody's neighbours are poisoned.
                let expected: &[u64] = if page < pages { &[] } else { &[page] };
                assert_eq!(bad, expected, "page {page} of {pages}");
            }
            reader.read_all(&(0..PAGES), &mut block);
            let (good, bad) = check(&block);
            assert_eq!(good, (0..pages).collect::<Vec<_>>());
            assert_eq!(bad, (pages..PAGES).collect::<Vec<_>>());
            let why = block.pieces.iter().find_map(|piece| match &piece.what {
                What::Bad(why) => Some(why),
                _ => None,
            });
            let why = why.expect("some are bad");
            let name = format!("{:?}", file.path());
            let at = format!("byte {}", pages * 4096 + 17);
            assert!(why.contains(&name) && why.contains(&at), "{why}");
            reader.read(PageNo(pages - 64), 128, &(0..PAGES), &mut block);
            assert!(matches!(block.pieces[0].what, What::Bad(_)));
        }
    }
}

#[test]
fn pages_that_the_file_never_had_are_bad() {
    let (file, source) = source();
    file.as_file().set_len(2 * PAGES * 4096).expect("space");
    let mut reader = source.reader();
    let mut block = used_block();
    reader.read(PageNo(PAGES), 1, &(0..2 * PAGES), &mut block);
    assert_eq!(check(&block), (vec![], vec![PAGES]));
    reader.read_all(&(PAGES - 2..PAGES + 2), &mut block);
    assert_eq!(check(&block).1, [PAGES, PAGES + 1]);
    reader.read(PageNo(u64::MAX - 1), 1, &(0..u64::MAX), &mut block);
    assert_eq!(check(&block).1, [u64::MAX - 1]);
}

#[test]
fn what_is_known_of_a_file_is_not_asked_again() {
    let (file, source) = source();
    let mut extents = Extents::default();
    let raw = &source.0.file;
    assert_eq!(extents.hole_at(raw, 250), Some(400));
    // Seen only by who asks the system.
    file.as_file()
        .write_all_at(&content(1), 300 * 4096)
        .expect("space");
    assert_eq!(extents.hole_at(raw, 300), Some(400));
    assert_eq!(extents.hole_at(raw, 249), Some(300));
    assert_eq!(extents.hole_at(raw, 300), None);
    assert_eq!(extents.hole_at(raw, 100), None);
    assert_eq!(extents.known_end(), 200);
    assert_eq!(extents.hole_at(raw, 199), None);
    assert_eq!(extents.hole_at(raw, 200), Some(300));
}

#[test]
fn a_page_that_cannot_be_read_is_the_only_bad_one() {
    // A directory opens, has a length and is never read.
    let directory = tempfile::tempdir().expect("space");
    let raw = RawFile {
        file: File::open(directory.path()).expect("there"),
        path: "the name".into(),
        pages: 3,
    };
    let mut block = Block::default();
    let failures = raw.fill(&(0..3), &mut block);
    let pages: Vec<_> = failures
        .iter()
        .map(|failure| failure.pages.clone())
        .collect();
    assert_eq!(pages, [0..1, 1..2, 2..3]);
    assert!(
        failures[1].why.contains("\"the name\" at byte 4096"),
        "{}",
        failures[1].why
    );
}

#[test]
fn zero_is_zero_to_the_last_byte() {
    for len in [PAGE_SIZE, 65, 3] {
        let mut bytes = vec![0; len];
        assert!(is_zero(&bytes));
        for at in 0..len {
            bytes[at] = 0x80;
            assert!(!is_zero(&bytes), "byte {at} of {len}");
            bytes[at] = 0;
        }
    }
}
