//! The same input and options give the same bytes, whoever worked in which order.

use crate::common::plan::{Plan, What};
use crate::common::{CODECS, options};
use snapshot_format::{Codec, WriterOptions};

/// Several batches, several regions, all kinds of pages.
fn plan() -> Plan {
    let mut plan = Plan::random(31, 800);
    plan.regions.extend(
        Plan::raw(&[
            (What::Data(40), 513),
            (What::Zeros, 1030),
            (What::Data(41), 300),
            (What::Parent(5), 2000),
            (What::Data(42), 1),
            (What::ZeroBytes, 600),
            (What::Data(43), 77),
            (What::Again(1), 1500),
            (What::Data(44), 3),
            (What::Again(700), 2000),
            (What::Again(12), 5),
        ])
        .regions,
    );
    plan
}

#[test]
fn the_number_of_threads_does_not_show_in_the_file() {
    let plan = plan();
    for (codec, frame_pages) in [
        (Codec::Lz4, 4),
        (Codec::Lz4, 16),
        (Codec::Zstd, 3),
        (Codec::Stored, 100),
    ] {
        let one = plan.write(options(codec, frame_pages));
        for jobs in [2, 3, 8] {
            let many = plan.write(WriterOptions {
                jobs,
                ..options(codec, frame_pages)
            });
            assert!(
                one == many,
                "{codec} {frame_pages} on {jobs} threads differs"
            );
        }
    }
}

#[test]
fn the_steps_of_the_caller_do_not_show_in_the_file() {
    let plan = plan();
    for codec in CODECS {
        let whole = plan.write(options(codec, 7));
        for steps in [&[1][..], &[5, 700, 3], &[511], &[512, 513]] {
            let stepped = plan.write_in_steps(options(codec, 7), steps);
            assert!(whole == stepped, "{codec} in steps of {steps:?} differs");
        }
    }
}

#[test]
fn the_steps_of_the_caller_do_not_show_in_a_deep_index() {
    for what in [What::Zeros, What::Lost, What::Parent(3)] {
        let plan = Plan::raw(&[
            (What::Data(1), 3),
            (what, 300_000),
            (What::Data(9), 2),
            (What::Zeros, 100_000),
        ]);
        let whole = plan.write(options(Codec::Lz4, 4));
        for steps in [&[65_536][..], &[253, 65_536, 131_072, 1], &[700]] {
            let stepped = plan.write_in_steps(options(Codec::Lz4, 4), steps);
            assert!(whole == stepped, "{what:?} in steps of {steps:?} differs");
        }
    }
}

#[test]
fn zeros_said_and_zeros_given_are_the_same_file() {
    let said = plan();
    let mut given = said.clone();
    for (what, _) in given
        .regions
        .iter_mut()
        .flat_map(|planned| &mut planned.runs)
    {
        if *what == What::Zeros {
            *what = What::ZeroBytes;
        }
    }
    assert!(said.write(options(Codec::Lz4, 4)) == given.write(options(Codec::Lz4, 4)));
}

#[test]
fn what_was_compressed_before_does_not_show_in_a_frame() {
    // The same 16 pages (the size from which LZ4 uses its larger table) and the same 4, after different others.
    for (codec, frame_pages) in [
        (Codec::Lz4, 15),
        (Codec::Lz4, 16),
        (Codec::Lz4, 4),
        (Codec::Zstd, 16),
    ] {
        let frames = |before: u64| {
            let pages = u64::from(frame_pages);
            // `Data` is seeded by page number, so the same seed gives the same page in both files.
            let plan = Plan::raw(&[(What::Data(before), 20 * pages), (What::Data(99), pages)]);
            last_frame(&plan.write(options(codec, frame_pages)))
        };
        assert_eq!(frames(1), frames(1 << 40), "{codec} {frame_pages}");
    }
}

/// Payload of the frame of the last page.
fn last_frame(file: &[u8]) -> Vec<u8> {
    use snapshot_format::{Content, Cursor, PageNo, SectionKind};
    let snapshot = crate::common::open(file.to_vec());
    let frames = snapshot
        .sections()
        .find(|(kind, ..)| *kind == SectionKind::Frames)
        .unwrap();
    let mut cursor = Cursor::new(snapshot.clone());
    let frame = (0..snapshot.pages()).rev().find_map(|number| {
        match cursor.content(PageNo(number)).unwrap() {
            Content::Frame { frame, .. } => Some(frame),
            _ => None,
        }
    });
    let frame = frame.unwrap();
    let from = usize::try_from(frames.1 + frame.offset + 8).unwrap();
    file[from..from + usize::try_from(frame.payload_len).unwrap()].to_vec()
}
