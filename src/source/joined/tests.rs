//! Files of zeros, holes and bytes, one behind the other, read in every way against what was written.

use std::fs::File;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;

/// What a page of a test file is: a hole, zeros that stand in the file, or bytes of this kind.
type Kinds = Vec<u8>;

fn content(kind: u8, page: u64) -> Vec<u8> {
    if kind < 2 {
        return vec![0; PAGE_SIZE];
    }
    let mut bytes = vec![kind; PAGE_SIZE];
    bytes[8..16].copy_from_slice(&page.to_le_bytes());
    bytes
}

/// Files with these pages. Pages are told apart by their numbers in the whole.
fn joined(files: &[Kinds]) -> (JoinedSource, Vec<tempfile::NamedTempFile>) {
    let mut number = 0;
    let mut kept = Vec::new();
    let mut sources = Vec::new();
    for kinds in files {
        let file = tempfile::NamedTempFile::new().expect("space");
        file.as_file()
            .set_len(kinds.len() as u64 * 4096)
            .expect("space");
        for (page, kind) in (0..).zip(kinds) {
            if *kind > 0 {
                let bytes = content(*kind, number);
                file.as_file()
                    .write_all_at(&bytes, page * 4096)
                    .expect("space");
            }
            number += 1;
        }
        let open = File::open(file.path()).expect("there");
        sources.push(RawSource::new(open, file.path()).expect("whole pages"));
        kept.push(file);
    }
    (JoinedSource::new(sources), kept)
}

/// Every page of a block is what was written, or bad because there is none. Returns their numbers.
fn check(block: &Block, all: &[u8]) -> Vec<u64> {
    let mut pages = Vec::new();
    for piece in &block.pieces {
        for page in piece.pages.clone() {
            pages.push(page);
            let kind = usize::try_from(page).ok().and_then(|page| all.get(page));
            match (&piece.what, kind) {
                (What::Zero, Some(kind)) => assert!(*kind < 2, "page {page} is not zero"),
                (What::Bytes(_), Some(kind)) => {
                    let bytes = block.bytes_of(piece, &(page..page + 1)).expect("bytes");
                    assert!(bytes == content(*kind, page), "page {page}");
                }
                (What::Bad(_), None) => {}
                (what, kind) => panic!("page {page} of kind {kind:?} is {what:?}"),
            }
        }
    }
    assert!(pages.is_sorted_by(|one, next| one < next), "{pages:?}");
    pages
}

fn used_block() -> Block {
    Block {
        bytes: vec![9; 50 * PAGE_SIZE],
        pieces: vec![Piece {
            pages: 3..9,
            what: What::Bytes(0),
        }],
    }
}

fn files() -> impl Strategy<Value = Vec<Kinds>> {
    let kinds = prop::collection::vec(prop_oneof![Just(0), Just(1), 2u8..5], 1..40);
    prop::collection::vec(kinds, 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_page_of_every_file_in_every_way(files in files()) {
        let (source, _kept) = joined(&files);
        let all = files.concat();
        let pages = all.len() as u64;
        prop_assert_eq!(source.pages(), pages);
        let mut reader = source.reader();
        let mut block = used_block();
        for page in 0..pages {
            reader.read(PageNo(page), 1, &(0..pages), &mut block);
            prop_assert!(check(&block, &all).contains(&page));
            for welcome in [page..page + 1, page.saturating_sub(3)..page + 4, 0..0] {
                reader.read(PageNo(page), 1, &welcome, &mut block);
                let got = check(&block, &all);
                let welcome = |got: &u64| *got == page || welcome.contains(got);
                prop_assert!(got.contains(&page) && got.iter().all(welcome));
            }
            for needed in [2, 5, 64] {
                reader.read(PageNo(page), needed, &(0..pages), &mut block);
                let all_there = page + needed <= pages;
                let [piece] = &block.pieces[..] else {
                    panic!("{needed} pages from {page} on are {block:?}");
                };
                prop_assert_eq!(&piece.pages, &(page..page + needed));
                prop_assert_eq!(all_there, !matches!(piece.what, What::Bad(_)));
                if all_there {
                    check(&block, &all);
                }
            }
            let end = (page * 7 % 50 + page).min(pages);
            reader.read_all(&(page..end), &mut block);
            prop_assert_eq!(check(&block, &all), (page..end).collect::<Vec<_>>());
        }
    }
}

#[test]
fn files_lie_behind_each_other() {
    let (source, _kept) = joined(&[vec![2; 3], vec![3], vec![4; 20]]);
    let firsts: Vec<u64> = (0..5).map(|file| source.first_page(file)).collect();
    assert_eq!(firsts, [0, 3, 4, 24, 24]);
    assert_eq!(source.granularity(), 16);
}

#[test]
fn what_lies_behind_the_last_file_is_bad() {
    let files = [vec![2; 3], vec![3; 2]];
    let (source, _kept) = joined(&files);
    let mut block = used_block();
    for page in [5, 100, u64::MAX - 1] {
        source
            .reader()
            .read(PageNo(page), 1, &(0..u64::MAX), &mut block);
        assert!(matches!(block.pieces[0].what, What::Bad(_)), "{block:?}");
    }
    source.reader().read_all(&(1..9), &mut block);
    assert_eq!(check(&block, &files.concat()), (1..9).collect::<Vec<_>>());
}

#[test]
fn a_file_that_was_cut_off_is_bad_and_the_next_is_not() {
    let files = [vec![2; 30], vec![3; 30]];
    let (source, kept) = joined(&files);
    kept[0].as_file().set_len(10 * 4096).expect("shorter");
    let mut block = used_block();
    let mut reader = source.reader();
    reader.read_all(&(5..40), &mut block);
    for page in 5..40 {
        let piece = block.piece_of(PageNo(page)).expect("all are there");
        let is_bad = matches!(piece.what, What::Bad(_));
        assert_eq!(is_bad, (10..30).contains(&page), "page {page}");
    }
    reader.read(PageNo(28), 4, &(0..60), &mut block);
    assert!(matches!(
        block.pieces[..],
        [Piece {
            what: What::Bad(_),
            ..
        }]
    ));
    reader.read(PageNo(30), 4, &(0..60), &mut block);
    check(&block, &files.concat());
}

#[test]
fn no_files_have_no_pages() {
    let source = JoinedSource::new(Vec::new());
    let mut block = used_block();
    source.reader().read(PageNo(0), 1, &(0..1), &mut block);
    assert!(matches!(block.pieces[0].what, What::Bad(_)));
    assert_eq!((source.pages(), source.granularity()), (0, 1));
}
