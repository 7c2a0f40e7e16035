//! Files that end too early, before and after they are opened.

use crate::common::forge::{FRAMES, Forge, INDEX, METADATA, PARENT, REGIONS};
use crate::common::options;
use crate::common::plan::{Plan, What};
use crate::common::rng::Rng;
use crate::common::small;
use snapshot_format::{Codec, Content, Cursor, Error, PageNo, ReadAt, Snapshot, bulk, verify};
use std::io;
use std::sync::Arc;

#[test]
fn a_file_cut_anywhere_says_so() {
    let file = small::plan().write(options(Codec::Zstd, 2));
    let forge = Forge {
        bytes: file.clone(),
    };
    let mut cuts: Vec<usize> = (0..20)
        .chain([100, 4095, 4096, 4097, file.len() - 1])
        .collect();
    for kind in 1..=5 {
        let section = forge.section(kind);
        for at in [section.offset, section.range().end] {
            cuts.extend([at - 1, at, (at + 1).min(file.len() - 1)]);
        }
    }
    let mut rng = Rng(3);
    cuts.extend((0..300).map(|_| rng.position(file.len())));
    for cut in cuts {
        let error = Snapshot::open(file[..cut].to_vec()).unwrap_err();
        match error {
            // Without magic and version nothing is known of it.
            Error::NotASnapshot => assert!(cut < 12),
            Error::Truncated { expected, actual } => {
                assert!(cut >= 12);
                assert_eq!(actual, cut as u64);
                let promised = if cut < 4096 { 4096 } else { file.len() };
                assert_eq!(expected, promised as u64);
            }
            other => panic!("cut at {cut}: {other:?}"),
        }
    }
}

#[test]
fn a_file_cut_while_open_gives_read_errors_and_never_other_content() {
    let plan = Plan::raw(&[
        (What::Data(1), 500),
        (What::Lost, 9),
        (What::Parent(4), 9),
        (What::Data(2), 300),
    ]);
    let model = plan.model();
    let bytes = plan.write(options(Codec::Lz4, 4));
    let forge = Forge {
        bytes: bytes.clone(),
    };
    let (frames, index) = (forge.section(FRAMES), forge.section(INDEX));
    let mut rng = Rng(8);
    let mut cuts = vec![
        0,
        4096,
        frames.offset + 7,
        frames.range().end - 1,
        index.offset + 1,
        index.range().end,
    ];
    cuts.extend((0..12).map(|_| rng.position(bytes.len())));
    for cut in cuts {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &bytes).unwrap();
        let snapshot = Arc::new(Snapshot::open(file).unwrap());
        snapshot.storage().set_len(cut as u64).unwrap();
        let mut cursor = Cursor::new(Arc::clone(&snapshot));
        let (mut right, mut failed) = (0, 0);
        for number in 0..model.pages() {
            let mut out = [0; 4096];
            match cursor.read_page(PageNo(number), &mut out) {
                Ok(()) => {
                    assert!(
                        out == *model.page(number),
                        "page {number} with {cut} bytes left"
                    );
                    right += 1;
                }
                Err(Error::Read { source, .. }) => {
                    assert_eq!(source.kind(), std::io::ErrorKind::UnexpectedEof);
                    failed += 1;
                }
                Err(Error::Lost(_) | Error::InParent { .. }) => right += 1,
                Err(error) => panic!("page {number}: {error:?}"),
            }
        }
        assert_eq!(
            failed == 0,
            cut >= index.range().end - 4096,
            "{cut} bytes left"
        );
        assert_eq!(right + failed, model.pages());
        let mut bad = 0;
        verify::verify(&snapshot, 2, |found| bad += found.pages, |_| {});
        assert_eq!(bad, failed, "{cut} bytes left");
        if let Some(range) = model.present_ranges().pop() {
            let read = bulk::read(&snapshot, range, 2, |_| Ok::<(), Error>(()));
            assert!(matches!(read, Ok(()) | Err(Error::Read { .. })));
        }
    }
}

#[test]
fn a_hole_in_a_file_is_not_taken_for_zero_pages() {
    // What is left when a crash loses data blocks: zeros instead of a frame, of a node.
    let file = small::plan().write(options(Codec::Stored, 2));
    let good = small::expected(&small::plan());
    for from in (4096..file.len()).step_by(4096) {
        let mut holed = file.clone();
        holed[from..from + 4096].fill(0);
        let outcome = Snapshot::open(holed.clone())
            .and_then(|snapshot| small::everything(&Arc::new(snapshot)));
        match outcome {
            Ok(read) => assert!(read == good && holed == file, "a hole at {from}"),
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error:?}"),
        }
    }
}

#[test]
fn a_caller_may_pass_any_frame_and_any_buffer() {
    let snapshot = crate::common::open(small::plan().write(options(Codec::Zstd, 2)));
    let mut cursor = Cursor::new(Arc::clone(&snapshot));
    let good = (0..8).find_map(|page| match cursor.content(PageNo(page)).unwrap() {
        Content::Frame { frame, .. } => Some(frame),
        _ => None,
    });
    let good = good.unwrap();
    let mut out = vec![0; good.content_len()];
    cursor.read_frame(&good, &mut out).unwrap();
    for len in [0, 1, 4096, 100_000] {
        let read = cursor.read_frame(&good, &mut vec![0; len]);
        assert_eq!(read.is_ok(), len == good.content_len());
    }
    for (offset, payload_len, pages) in [
        (u64::MAX, good.payload_len, good.pages),
        (u64::MAX - 8, 8, 1),
        (good.offset, u32::MAX, good.pages),
        (good.offset, 0, 0),
        (good.offset, 0, good.pages),
        (good.offset + 1, good.payload_len, good.pages),
        (good.offset, good.payload_len - 1, good.pages),
        (good.offset, good.payload_len, u16::MAX),
    ] {
        for codec in crate::common::CODECS {
            let frame = snapshot_format::FrameRef {
                offset,
                payload_len,
                pages,
                codec,
            };
            let mut out = vec![0; frame.content_len()];
            assert!(cursor.read_frame(&frame, &mut out).is_err(), "{frame:?}");
            assert!(cursor.frame_content(&frame).is_err(), "{frame:?}");
        }
    }
    assert!(cursor.frame_content(&good).unwrap() == out);
}

/// Storage with a bad sector: reads that touch this byte fail.
struct Damaged {
    bytes: Vec<u8>,
    at: u64,
}

impl ReadAt for Damaged {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if (offset..offset + buffer.len() as u64).contains(&self.at) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.bytes.read_exact_at(buffer, offset)
    }

    fn len(&self) -> io::Result<u64> {
        ReadAt::len(&self.bytes)
    }
}

#[test]
fn storage_that_fails_is_told_with_the_place_that_was_read() {
    let forge = Forge {
        bytes: small::file().to_vec(),
    };
    let section = |kind: u32| forge.section(kind).offset;
    let leaf = forge.path(0)[2] / 4096 * 4096;
    for (at, place) in [
        (0, "header".into()),
        (section(REGIONS) + 9, "region map".into()),
        (section(METADATA), "metadata".into()),
        (section(PARENT), "parent section".into()),
        (forge.root() + 4095, "root of the page index".into()),
        (leaf, format!("page index node at byte {leaf}")),
        (section(FRAMES), "frame at byte 4096".into()),
    ] {
        let bytes = forge.bytes.clone();
        let storage = Damaged {
            bytes,
            at: at as u64,
        };
        let error = Snapshot::open(storage)
            .and_then(|snapshot| small::everything(&Arc::new(snapshot)))
            .unwrap_err();
        let expected = format!("cannot read {place}: Input/output error (os error 5)");
        assert_eq!(error.to_string(), expected);
        assert!(matches!(error, Error::Read { .. }));
    }
}
