//! Large memory with little in it: the index is as deep as it must be, and costs what is in it.

use crate::common::plan::{Class, ID, PARENT_PAGES, parent_layer};
use crate::common::reading::assert_verify_is_content;
use crate::common::rng::Rng;
use crate::common::{open, options};
use snapshot_format::{
    Codec, Content, Cursor, Metadata, PAGE_BYTES, PageNo, Region, Snapshot, Writer, WriterOptions,
    bulk, verify,
};
use std::collections::BTreeMap;
use std::io::Cursor as Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file of `pages` pages, zero but for those of `written` (with `content(seed)`).
fn sparse(pages: u64, written: &BTreeMap<u64, u64>) -> Vec<u8> {
    let mut writer = Writer::new(Bytes::new(Vec::new()), options(Codec::Lz4, 4)).unwrap();
    writer
        .begin_region(Region::raw(0, pages * PAGE_BYTES))
        .unwrap();
    let mut next = 0;
    for (&number, &seed) in written {
        writer.zeros(number - next).unwrap();
        writer.space().unwrap()[..4096].copy_from_slice(&content(seed));
        writer.commit(1).unwrap();
        next = number + 1;
    }
    writer.zeros(pages - next).unwrap();
    writer
        .finish(ID, &Metadata::default())
        .unwrap()
        .0
        .into_inner()
}

const SEED: u64 = 2;

/// A page that is neither zero nor filled.
fn content(seed: u64) -> [u8; 4096] {
    let mut page = [0x55; 4096];
    page[..8].copy_from_slice(&seed.to_le_bytes());
    page
}

fn assert_sparse_reads(snapshot: &Arc<Snapshot<Vec<u8>>>, written: &BTreeMap<u64, u64>) {
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let mut out = [0; 4096];
    let neighbours = written
        .keys()
        .flat_map(|&at| at.saturating_sub(300)..at + 300);
    let ends = [0, snapshot.pages() - 1, snapshot.pages() / 2];
    for number in neighbours
        .chain(ends)
        .filter(|&number| number < snapshot.pages())
    {
        cursor.read_page(PageNo(number), &mut out).unwrap();
        let expected = written
            .get(&number)
            .map_or([0; 4096], |&seed| content(seed));
        assert!(out == expected, "page {number}");
    }
    let survey = verify::survey(snapshot, 0..snapshot.pages()).unwrap();
    assert_eq!(survey.content_pages, written.len() as u64);
    assert_eq!(survey.zero_pages, snapshot.pages() - written.len() as u64);
}

#[test]
fn boundaries_of_the_index_levels_read_back() {
    for reach in [256_u64, 65_536, 1 << 24, 1 << 32] {
        for pages in [reach - 1, reach, reach + 1, reach + 256, reach + 257] {
            let written = BTreeMap::from([
                (0, SEED),
                (pages / 2, SEED),
                (reach.saturating_sub(257), SEED),
                (reach - 2, SEED),
                (pages - 1, SEED),
            ]);
            let snapshot = open(sparse(pages, &written));
            assert_sparse_reads(&snapshot, &written);
        }
    }
}

#[test]
fn memory_nobody_wrote_takes_one_node() {
    for pages in [1, 256, 257, 65_536, 65_537, (1 << 24) + 1, 1 << 36] {
        let file = sparse(pages, &BTreeMap::new());
        assert_eq!(
            file.len(),
            4 * 4096,
            "header, root, regions, metadata of {pages} pages"
        );
        assert_sparse_reads(&open(file), &BTreeMap::new());
    }
}

#[test]
fn sixty_four_gibibytes_with_a_few_pages_are_written_and_opened_at_once() {
    let pages = 64 << 30 >> 12;
    let written: BTreeMap<u64, u64> = (0..20).map(|number| (number * 838_861, SEED)).collect();
    let start = Instant::now();
    let file = sparse(pages, &written);
    assert!(file.len() < 300_000, "{} bytes", file.len());
    let snapshot = open(file);
    let survey = verify::survey(&snapshot, 0..pages).unwrap();
    // Some ten milliseconds; with a step per page or per leaf it would be many seconds.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!((survey.content_pages, survey.zero_pages), (20, pages - 20));
    assert_sparse_reads(&snapshot, &written);
}

#[test]
fn sparse_memory_is_verified_and_read_in_bulk() {
    let pages = 4 << 30 >> 12;
    let written = BTreeMap::from([(0, SEED), (70_000, SEED), (pages - 1, SEED)]);
    let snapshot = open(sparse(pages, &written));
    assert_verify_is_content(&snapshot);
    // Ranges that begin and end in runs.
    for range in [100..5000, 69_000..70_001, 70_001..700_000, 5..6, 9..9] {
        let survey = verify::survey(&snapshot, range.clone()).unwrap();
        let content = u64::from(range.contains(&70_000));
        let counted = (survey.content_pages, survey.zero_pages);
        assert_eq!(
            counted,
            (content, range.end - range.start - content),
            "{range:?}"
        );
    }
    let (mut next, mut content) = (0, Vec::new());
    bulk::read(&snapshot, 0..pages, 2, |piece| {
        match piece {
            bulk::Piece::Zeros(first, pages) => {
                assert_eq!(first.0, next);
                next += pages;
            }
            bulk::Piece::Bytes(first, bytes) => {
                assert_eq!(first.0, next);
                content.push(first.0);
                next += bytes.len() as u64 / PAGE_BYTES;
            }
        }
        Ok::<(), snapshot_format::Error>(())
    })
    .unwrap();
    assert_eq!((next, content), (pages, vec![0, 70_000, pages - 1]));
}

#[test]
fn runs_of_every_class_keep_their_boundaries_over_levels() {
    // Runs that begin and end off, on and across the boundaries of leaves and of nodes above them.
    let lens = [
        255, 1, 256, 257, 65_279, 65_536, 65_537, 300, 131_072, 3, 200_000,
    ];
    let mut runs = Vec::new();
    for (number, len) in lens.into_iter().enumerate() {
        runs.push((number % 4, len));
    }
    let options = WriterOptions {
        parent: Some(parent_layer()),
        ..options(Codec::Zstd, 4)
    };
    let mut writer = Writer::new(Bytes::new(Vec::new()), options).unwrap();
    let pages: u64 = lens.iter().sum();
    writer
        .begin_region(Region::raw(0, pages * PAGE_BYTES))
        .unwrap();
    let mut parent = 5;
    let mut expected = Vec::new();
    for &(class, len) in &runs {
        match class {
            0 => writer.zeros(len).unwrap(),
            1 => writer.lost(len).unwrap(),
            // Continues the run of parent pages before it, in a second call.
            _ => writer.parent(PageNo(parent), len).unwrap(),
        }
        for _ in 0..len {
            expected.push(match class {
                0 => Class::Zero,
                1 => Class::Lost,
                _ => {
                    parent += 1;
                    Class::Parent(parent - 1)
                }
            });
        }
    }
    let (file, summary) = writer.finish(ID, &Metadata::default()).unwrap();
    assert!(parent < PARENT_PAGES);
    let snapshot = open(file.into_inner());
    let mut cursor = Cursor::new(snapshot);
    let mut next = 0;
    let mut rng = Rng(12);
    // Every run from its beginning, then runs from anywhere in them.
    let mut runs_from = 0;
    while runs_from < 3000 {
        let number = if next < pages { next } else { rng.below(pages) };
        let (content, run) = cursor.run(PageNo(number)).unwrap();
        for into in [0, run / 2, run - 1] {
            let class = match content {
                Content::Zero => Class::Zero,
                Content::Lost => Class::Lost,
                Content::Parent(first) => Class::Parent(first.0 + into),
                other => panic!("page {number} is {other:?}"),
            };
            let page = number + into;
            assert_eq!(
                class,
                expected[usize::try_from(page).unwrap()],
                "page {page}"
            );
        }
        next += run;
        runs_from += u64::from(next >= pages);
    }
    assert!(
        summary.index_len < 40 * 4096,
        "{} bytes of index",
        summary.index_len
    );
}

#[test]
fn an_index_too_large_for_memory_goes_through_the_spool_folder() {
    // Every page of the parent twice: nothing is uniform, 9.6 MB of index.
    let write = |options: WriterOptions| {
        let options = WriterOptions {
            parent: Some(parent_layer()),
            ..options
        };
        let mut writer = Writer::new(Bytes::new(Vec::new()), options)?;
        writer.begin_region(Region::raw(0, 600_000 * PAGE_BYTES))?;
        for number in 0..300_000 {
            writer.parent(PageNo(number), 1)?;
            writer.parent(PageNo(number), 1)?;
        }
        writer.finish(ID, &Metadata::default())
    };
    let (file, summary) = write(options(Codec::Stored, 4)).unwrap();
    assert!(summary.index_len > 600_000 * 16);
    let snapshot = open(file.into_inner());
    let mut cursor = Cursor::new(snapshot);
    for number in (0..600_000).step_by(97) {
        assert_eq!(
            cursor.content(PageNo(number)).unwrap(),
            Content::Parent(PageNo(number / 2))
        );
    }
    let nowhere = WriterOptions {
        spool_dir: "/nonexistent/folder".into(),
        ..options(Codec::Stored, 4)
    };
    let error = write(nowhere).unwrap_err();
    assert!(
        matches!(error, snapshot_format::WriteError::Output(_)),
        "{error:?}"
    );
}
