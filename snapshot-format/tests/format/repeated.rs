//! Pages that are what earlier pages are: in the file once, and decoded about once.

use crate::common::plan::{Plan, What};
use crate::common::reading::{assert_reads_as, bulk_read};
use crate::common::rng::Rng;
use crate::common::{CODECS, open, options};
use snapshot_format::{
    Codec, Content, Cursor, PageNo, ReadAt, SectionKind, Snapshot, WriterOptions, verify,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A parent and so many children, each of which has changed every `changed`th page.
fn family(pages: u64, children: u64, changed: u64) -> Plan {
    let mut runs = vec![(What::Data(1), pages)];
    for child in 1..=children {
        for page in 0..pages {
            let what = if page % changed == child % changed {
                What::Data(child << 40)
            } else {
                What::Again(page)
            };
            runs.push((what, 1));
        }
    }
    Plan::raw(&runs)
}

#[test]
fn families_read_back_with_every_codec_and_frame_size() {
    for codec in CODECS {
        for frame_pages in [1, 2, 3, 16, 100, 512] {
            for changed in [2, 5, 1000] {
                let plan = family(300, 2, changed);
                let file = plan.write(options(codec, frame_pages));
                assert_reads_as(&open(file), &plan.model());
            }
        }
    }
}

#[test]
fn repetitions_of_repetitions_and_of_pages_just_given_read_back() {
    let plan = Plan::raw(&[
        (What::Data(3), 5),
        (What::Again(0), 5),
        (What::Again(3), 7),
        (What::Zeros, 2000),
        (What::Lost, 3),
        (What::Parent(9), 700),
        (What::Again(0), 2700),
        (What::Data(4), 1),
        (What::Again(1), 5000),
        (What::Again(5421), 1),
    ]);
    for codec in CODECS {
        let file = plan.write(options(codec, 4));
        assert_reads_as(&open(file), &plan.model());
    }
}

#[test]
fn repeated_pages_take_an_entry_of_the_index_and_nothing_else() {
    let once = Plan::raw(&[(What::Data(1), 1000)]);
    let twice = Plan::raw(&[(What::Data(1), 1000), (What::Again(0), 1000)]);
    let summary = |plan: &Plan| {
        let out = std::io::Cursor::new(Vec::new());
        let written = plan.write_to(out, options(Codec::Zstd, 8), &[u64::MAX]);
        written.unwrap().1
    };
    let (once, twice) = (summary(&once), summary(&twice));
    assert_eq!(once.frames_len, twice.frames_len);
    assert_eq!(once.frames, twice.frames);
    assert_eq!(twice.pages, 2000);
    assert_eq!(twice.content_pages, 2 * once.content_pages);
    assert_eq!(twice.repeated_pages, once.content_pages);
    assert_eq!(once.repeated_pages, 0);
    assert!(twice.index_len <= 2 * once.index_len);
}

#[test]
fn repeated_memory_that_is_all_alike_has_no_node_of_its_own() {
    let plan = Plan::raw(&[
        (What::Zeros, 1 << 20),
        (What::Data(1), 5),
        (What::Again(0), 1 << 20),
    ]);
    let file = plan.write(options(Codec::Zstd, 8));
    assert!(file.len() < 64 << 10, "{}", file.len());
    let snapshot = open(file);
    let survey = verify::survey(&snapshot, 0..snapshot.pages()).unwrap();
    assert!(survey.zero_pages >= 2 << 20);
}

#[test]
fn an_index_that_waits_on_disk_is_read_back() {
    // 16 MiB of index, twice what is kept in memory.
    let plan = |runs: &[(What, u64)]| {
        let mut all = Vec::new();
        let mut rng = Rng(11);
        all.extend((0..1 << 20).map(|_| (What::Parent(rng.below(1 << 29)), 1)));
        all.extend_from_slice(runs);
        Plan::raw(&all)
    };
    let plan = plan(&[(What::Again(1 << 10), 1 << 18), (What::Again(77), 300)]);
    let file = plan.write(WriterOptions {
        spool_dir: std::env::temp_dir(),
        ..options(Codec::Lz4, 4)
    });
    let mut cursor = Cursor::new(open(file));
    for (number, what) in plan.pages().into_iter().skip(1 << 20).step_by(61) {
        let content = cursor.content(PageNo(number)).unwrap();
        match what {
            What::Parent(page) => assert_eq!(content, Content::Parent(PageNo(page))),
            other => panic!("{other:?}"),
        }
    }
}

/// Counts the bytes read.
struct Counted {
    bytes: Vec<u8>,
    read: AtomicU64,
    calls: AtomicU64,
}

impl ReadAt for Counted {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.read.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.bytes.read_exact_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

fn counted(bytes: Vec<u8>) -> Arc<Snapshot<Counted>> {
    let (read, calls) = (AtomicU64::new(0), AtomicU64::new(0));
    Arc::new(Snapshot::open(Counted { bytes, read, calls }).unwrap())
}

#[test]
fn the_own_and_the_parents_frame_in_turn_are_read_twice_and_not_for_each_page() {
    // Every second page is changed: 16 pages of a window are of two frames in turn.
    let plan = family(1600, 1, 2);
    let snapshot = counted(plan.write(options(Codec::Stored, 16)));
    let calls = || snapshot.storage().calls.load(Ordering::Relaxed);
    let before = calls();
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    for page in 1600..3200 {
        cursor.read_page(PageNo(page), &mut [0; 4096]).unwrap();
    }
    // Two frames and a node now and then, for each of 100 windows.
    assert!(calls() - before <= 220, "{}", calls() - before);
    let before = calls();
    bulk_read(&snapshot, 1600..3200, 1).1.unwrap();
    assert!(calls() - before <= 400, "{}", calls() - before);
}

#[test]
fn verifying_a_family_reads_what_it_shares_once() {
    let frames = |children| {
        let plan = family(1600, children, 1_000_000);
        let snapshot = counted(plan.write(options(Codec::Stored, 16)));
        let index: u64 = (snapshot.sections())
            .filter(|(kind, ..)| *kind == SectionKind::Index)
            .map(|(_, _, len)| len)
            .sum();
        let before = snapshot.storage().read.load(Ordering::Relaxed);
        verify::verify(&snapshot, 1, |bad| panic!("{bad:?}"), |_| {});
        // The thread that cuts the work reads the index too.
        snapshot.storage().read.load(Ordering::Relaxed) - before - 2 * (index - 4096)
    };
    let (alone, family) = (frames(0), frames(5));
    assert!(alone > 3 << 20, "{alone}");
    // For the page of its own, a unit of work of each child is read whole.
    assert!(family - alone < 5 * (200 << 10), "{alone} and {family}");
}

#[test]
fn a_bad_frame_is_reported_for_everyone_who_has_its_pages() {
    let plan = family(64, 3, 1000);
    let mut file = plan.write(options(Codec::Stored, 8));
    file[4096 + 20] ^= 1;
    let snapshot = open(file);
    for threads in [1, 3] {
        let mut bad = Vec::new();
        verify::verify(
            &snapshot,
            threads,
            |run| bad.push((run.first.0, run.pages)),
            |_| {},
        );
        let starts: Vec<_> = bad.iter().map(|&(first, _)| first / 64 * 64).collect();
        assert!(
            [0, 64, 128, 192].iter().all(|start| starts.contains(start)),
            "{bad:?}"
        );
        let pages: u64 = bad.iter().map(|&(_, pages)| pages).sum();
        assert!((4..=32).contains(&pages), "{bad:?}");
    }
}
