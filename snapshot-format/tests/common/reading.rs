//! Reading a snapshot in every way there is, and comparing with the model.

use super::plan::{Class, Model, parent_layer};
use snapshot_format::bulk::{self, Piece};
use snapshot_format::{Content, Cursor, Error, PAGE_SIZE, PageNo, ReadAt, Snapshot, verify};
use std::ops::Range;
use std::sync::Arc;

/// Everything that reads agrees with the model.
pub(crate) fn assert_reads_as<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, model: &Model) {
    assert_eq!(snapshot.pages(), model.pages());
    assert_pages_read_as(snapshot, model);
    assert_runs_agree(snapshot, model);
    for (threads, range) in (1..).zip(model.present_ranges()) {
        assert_bulk_reads_as(snapshot, model, range, 1 + threads % 4);
    }
    assert_bulk_stops_at_the_first_gap(snapshot, model);
    assert_survey_agrees(snapshot, model);
    assert_verify_is_content(snapshot);
}

pub(crate) fn assert_pages_read_as<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, model: &Model) {
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    for number in 0..model.pages() {
        assert_page_reads_as(&mut cursor, model, number);
    }
}

pub(crate) fn assert_page_reads_as<S: ReadAt>(cursor: &mut Cursor<S>, model: &Model, number: u64) {
    let mut out = [0xee; PAGE_SIZE];
    let read = cursor.read_page(PageNo(number), &mut out);
    match (model.class(number), read) {
        (Class::Lost, Err(Error::Lost(page))) => assert_eq!(page, number),
        (Class::Parent(_), Err(Error::InParent { page, parent })) => {
            assert_eq!((page, parent), (number, parent_layer().id));
        }
        (class, Ok(())) if class.is_present() => {
            assert!(out == *model.page(number), "page {number} differs");
        }
        (class, read) => panic!("page {number} is {class:?} and reads as {read:?}"),
    }
}

fn assert_runs_agree<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, model: &Model) {
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let mut number = 0;
    while number < model.pages() {
        let (first, pages) = cursor.run(PageNo(number)).expect("a good index");
        assert!(pages >= 1 && number + pages <= model.pages());
        for into in 0..pages {
            let content = cursor.content(PageNo(number + into)).expect("a good index");
            let (from_run, from_content) = match (first, content) {
                (Content::Parent(first), Content::Parent(page)) => {
                    (Class::Parent(first.0 + into), Class::Parent(page.0))
                }
                (first, content) => (class_of(first), class_of(content)),
            };
            assert_eq!(
                from_run,
                model.class(number + into),
                "page {}",
                number + into
            );
            assert_eq!(from_content, from_run, "page {}", number + into);
        }
        number += pages;
    }
    let end = cursor.content(PageNo(number));
    assert!(
        matches!(end, Err(Error::NoSuchPage { page, pages }) if page == number && pages == number)
    );
}

fn class_of(content: Content) -> Class {
    match content {
        Content::Zero => Class::Zero,
        Content::Fill(word) => Class::Fill(word),
        Content::Frame { .. } => Class::Content,
        Content::Parent(page) => Class::Parent(page.0),
        Content::Lost => Class::Lost,
    }
}

/// `bulk::read` of `range`, put together; pages of zeros are counted as bytes.
pub(crate) fn bulk_read<S: ReadAt>(
    snapshot: &Arc<Snapshot<S>>,
    range: Range<u64>,
    threads: usize,
) -> (Vec<u8>, Result<(), Error>) {
    let mut bytes = Vec::new();
    let mut next = range.start;
    let end = bulk::read(snapshot, range, threads, |piece| {
        match piece {
            Piece::Zeros(first, pages) => {
                assert_eq!(first.0, next);
                next += pages;
                let pages = usize::try_from(pages).expect("in memory");
                bytes.resize(bytes.len() + pages * PAGE_SIZE, 0);
            }
            Piece::Bytes(first, content) => {
                assert_eq!((first.0, content.len() % PAGE_SIZE), (next, 0));
                next += (content.len() / PAGE_SIZE) as u64;
                bytes.extend_from_slice(content);
            }
        }
        Ok::<(), Error>(())
    });
    (bytes, end)
}

pub(crate) fn assert_bulk_reads_as<S: ReadAt>(
    snapshot: &Arc<Snapshot<S>>,
    model: &Model,
    range: Range<u64>,
    threads: usize,
) {
    let at = |page: u64| usize::try_from(page).expect("in memory") * PAGE_SIZE;
    let (bytes, end) = bulk_read(snapshot, range.clone(), threads);
    end.expect("pages that are there");
    assert!(
        bytes == model.bytes[at(range.start)..at(range.end)],
        "pages {range:?} differ on {threads} threads"
    );
}

fn assert_bulk_stops_at_the_first_gap<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, model: &Model) {
    let gap = (0..)
        .zip(&model.classes)
        .find(|(_, class)| !class.is_present());
    let Some((gap, class)) = gap else { return };
    let (bytes, end) = bulk_read(snapshot, 0..model.pages(), 3);
    assert!(bytes == model.bytes[..bytes.len()]);
    assert_eq!(
        (bytes.len() / PAGE_SIZE) as u64,
        gap,
        "all pages before the gap"
    );
    match (class, end) {
        (Class::Lost, Err(Error::Lost(page)))
        | (Class::Parent(_), Err(Error::InParent { page, .. })) => {
            assert_eq!(page, gap);
        }
        (class, end) => panic!("{class:?} ends in {end:?}"),
    }
}

fn assert_survey_agrees<S: ReadAt>(snapshot: &Arc<Snapshot<S>>, model: &Model) {
    let survey = verify::survey(snapshot, 0..model.pages()).expect("a good index");
    assert_eq!(survey.zero_pages, model.count(|class| class == Class::Zero));
    assert_eq!(
        survey.filled_pages,
        model.count(|class| matches!(class, Class::Fill(_)))
    );
    assert_eq!(
        survey.content_pages,
        model.count(|class| class == Class::Content)
    );
    assert_eq!(survey.lost_pages, model.count(|class| class == Class::Lost));
    assert_eq!(
        survey.parent_pages,
        model.count(|class| matches!(class, Class::Parent(_)))
    );
    let in_frames = survey.stored.pages + survey.lz4.pages + survey.zstd.pages;
    assert_eq!(in_frames + survey.repeated_pages(), survey.content_pages);
    let middle = model.pages() / 3;
    let halves = [0..middle, middle..model.pages()]
        .map(|range| verify::survey(snapshot, range).expect("a good index"));
    assert_eq!(halves[0].plus(&halves[1]).zero_pages, survey.zero_pages);
    assert_eq!(
        halves[0].plus(&halves[1]).content_pages,
        survey.content_pages
    );
}

pub(crate) fn assert_verify_is_content<S: ReadAt>(snapshot: &Arc<Snapshot<S>>) {
    let mut checked = 0;
    verify::verify(
        snapshot,
        2,
        |bad| panic!("{bad:?}"),
        |pages| checked += pages,
    );
    assert_eq!(checked, snapshot.pages());
}
