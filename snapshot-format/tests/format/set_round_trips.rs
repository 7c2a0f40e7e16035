//! Working sets against a model: what is replayed, in which order, with which content.

use crate::common::plan::{Class, Model, Plan};
use crate::common::rng::Rng;
use crate::common::set::{Everything, everything, options};
use crate::common::{self, CODECS, set};
use proptest::prelude::*;
use snapshot_format::working_set::{self, History, Options, Summary, Touched, WorkingSet};
use snapshot_format::{Codec, Cursor, PageNo};
use std::collections::HashMap;
use std::io::Cursor as Bytes;
use std::sync::Arc;

fn written(plan: &Plan, history: &History, options: &Options) -> (Vec<u8>, Summary) {
    let snapshot = common::open(plan.write(common::options(Codec::Lz4, 4)));
    let mut cursor = Cursor::new(snapshot);
    let out = Bytes::new(Vec::new());
    let (out, summary) = working_set::write(history, &mut cursor, out, options).unwrap();
    assert_eq!(out.get_ref().len() as u64, summary.file_len);
    (out.into_inner(), summary)
}

fn read(file: Vec<u8>) -> (Arc<WorkingSet<Vec<u8>>>, Everything) {
    let set = Arc::new(WorkingSet::open(file).unwrap());
    let read = everything(&set).unwrap();
    (set, read)
}

/// Pages in windows of 256, sorted in each; those that the snapshot does not have are not there.
fn ordered<'a>(
    pages: impl Iterator<Item = &'a Touched>,
    model: &Model,
    present: bool,
) -> Vec<Touched> {
    let exist: Vec<Touched> = pages
        .filter(|touched| touched.page.0 < model.pages())
        .copied()
        .collect();
    let mut ordered = Vec::new();
    for window in exist.chunks(256) {
        let mut window = window.to_vec();
        window.sort_by_key(|touched| touched.page);
        window.retain(|touched| !present || model.class(touched.page.0).is_present());
        ordered.extend(window);
    }
    ordered
}

/// Everything about the file of `history` is as the model says.
fn assert_set_is(plan: &Plan, history: &History, options: &Options) {
    let model = plan.model();
    let (file, summary) = written(plan, history, options);
    let (set, read) = read(file.clone());
    let stays = |touched: &&Touched| history.stays(touched);
    let pages = history.pages().iter();
    let stay = ordered(pages.clone().filter(stays), &model, true);
    let fade = ordered(pages.filter(|touched| !stays(touched)), &model, false);

    let mut next = stay.iter();
    for (runs, content) in &read.frames {
        assert!(content.len() <= usize::from(options.frame_pages) * 4096);
        let mut content = content.chunks(4096);
        for run in runs {
            let expected: Vec<_> = run.pages.clone().map(|_| next.next().unwrap()).collect();
            let times = expected.iter().map(|touched| touched.after_us);
            assert_eq!(Some(run.after_us), times.min());
            for (page, touched) in run.pages.clone().zip(expected) {
                assert_eq!((PageNo(page), run.seen), (touched.page, touched.seen));
                assert_eq!(run.zero, model.class(page) == Class::Zero);
                if !run.zero {
                    assert!(content.next().unwrap() == model.page(page), "page {page}");
                }
            }
        }
        assert!(content.next().is_none());
    }
    assert!(next.next().is_none());

    let remembered: Vec<_> = read
        .history
        .pages()
        .iter()
        .map(|touched| (touched.page, touched.seen))
        .collect();
    let expected: Vec<_> = stay
        .iter()
        .chain(&fade)
        .map(|touched| (touched.page, touched.seen))
        .collect();
    assert!(remembered == expected);
    let at: HashMap<_, _> = history
        .pages()
        .iter()
        .map(|touched| (touched.page, touched.after_us))
        .collect();
    for touched in read.history.pages() {
        assert!(
            touched.after_us <= at[&touched.page],
            "never later than it was"
        );
    }
    assert_eq!(summary.pages, stay.len() as u64);
    assert_eq!(
        (set.pages(), set.zero_pages(), set.faded_pages()),
        (summary.pages, summary.zero_pages, summary.faded)
    );
    assert_eq!(summary.faded, fade.len() as u64);
    assert_eq!(
        summary.left_out,
        history.pages().len() as u64 - summary.pages - summary.faded
    );
    assert_eq!(
        (set.frames() as u64, set.file_len()),
        (summary.frames, file.len() as u64)
    );
    let at = set.frames_at();
    assert_eq!((at.start, at.end - at.start), (4096, summary.frames_len));
    // Nothing is lost when a set is made of a set.
    if summary.left_out == 0 {
        let again = written(plan, &read.history, options).0;
        assert!(again == file);
    }
}

/// Recordings of random pages, most of them in all, in pieces that are in order.
fn recordings(seed: u64, pages: u64) -> History {
    let mut rng = Rng(seed);
    let mut known: Option<History> = None;
    for _ in 0..=rng.below(4) {
        let mut touches = Vec::new();
        let mut at = 0;
        for _ in 0..rng.below(40) {
            let first = rng.below(pages + 2);
            for page in first..first + 1 + rng.below(40) {
                at += u32::try_from(rng.below(90)).unwrap();
                touches.push((PageNo(page), at));
            }
        }
        let recording = History::of_recording(touches);
        known = Some(match known {
            Some(known) => known.then(&recording),
            None => recording,
        });
    }
    known.unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn sets_read_back(
        seed in any::<u64>(), most in 8u64..2500, codec in 0usize..3,
        frame_pages in prop_oneof![1u16..5, Just(32), Just(256), Just(512), 1u16..=512],
    ) {
        let plan = Plan::random(seed, most);
        let history = recordings(seed ^ 1, plan.model().pages());
        assert_set_is(&plan, &history, &options(CODECS[codec], frame_pages));
    }
}

#[test]
fn the_small_set_has_everything() {
    for codec in CODECS {
        let (set, read) = read(set::file(codec, 2));
        assert!(set.frames() > 2 && set.zero_pages() > 1 && set.faded_pages() > 1);
        assert_eq!(set.recordings(), 3);
        let seen: Vec<_> = read
            .history
            .pages()
            .iter()
            .map(|touched| touched.seen)
            .collect();
        assert!(
            [0b111, 0b11, 0b101, 0b1]
                .iter()
                .all(|seen| seen == &0b1 || seen_in(&read, *seen)),
            "{seen:?}"
        );
        assert!(
            codec == Codec::Stored
                || (0..set.frames()).any(|frame| set.stored(frame).unwrap().codec == codec)
        );
    }
}

fn seen_in(read: &Everything, seen: u8) -> bool {
    read.frames
        .iter()
        .flat_map(|(runs, _)| runs)
        .any(|run| run.seen == seen)
}

#[test]
fn a_set_of_nothing_is_a_set() {
    for pages in [vec![], vec![(PageNo(1 << 35), 5)]] {
        let plan = Plan::random(3, 40);
        let history = History::of_recording(pages);
        let (file, summary) = written(&plan, &history, &Options::default());
        assert_eq!(
            (file.len(), summary.left_out),
            (4096, history.pages().len() as u64)
        );
        let (set, read) = read(file);
        assert_eq!(
            (set.frames(), set.pages(), set.max_frame_pages()),
            (0, 0, 0)
        );
        assert!(read.history.pages().is_empty());
    }
}

#[test]
fn frames_that_are_not_there_are_an_error() {
    let (set, _) = read(set::file(Codec::Lz4, 2));
    let (mut runs, mut content) = (vec![], vec![]);
    let mut frames = working_set::Frames::new(Arc::clone(&set));
    for frame in [set.frames(), set.frames() + 1, usize::MAX] {
        for error in [set.runs(frame, &mut runs), frames.read(frame, &mut content)] {
            let said = error.unwrap_err().to_string();
            assert!(said.contains("does not exist"), "{said}");
        }
        assert!(set.stored(frame).is_none());
    }
}

#[test]
fn frames_of_no_pages_or_too_many_are_refused() {
    let mut cursor = Cursor::new(common::open(
        Plan::random(3, 40).write(common::options(Codec::Lz4, 4)),
    ));
    for frame_pages in [0, 513, u16::MAX] {
        let out = Bytes::new(Vec::new());
        let options = Options {
            frame_pages,
            ..Options::default()
        };
        let written = working_set::write(&History::of_recording([]), &mut cursor, out, &options);
        assert!(matches!(
            written,
            Err(snapshot_format::WriteError::Usage(_))
        ));
    }
}

/// An id can be chosen (`uffd-snapshot pack --id`), and be given to other memory.
#[test]
fn a_set_belongs_to_one_file_and_not_to_all_of_its_id() {
    let snapshot = |codec| common::open(common::small::plan().write(common::options(codec, 4)));
    let (one, other) = (snapshot(Codec::Lz4), snapshot(Codec::Zstd));
    assert_eq!(one.id(), other.id());
    let history = History::of_recording([(PageNo(0), 1)]);
    let mut cursor = Cursor::new(Arc::clone(&one));
    let out = Bytes::new(Vec::new());
    let options = Options::default();
    let (file, _) = working_set::write(&history, &mut cursor, out, &options).unwrap();
    let set = WorkingSet::open(file.into_inner()).unwrap();
    assert!(set.belongs_to(&one) && !set.belongs_to(&other));
}
