//! What was written is read back: chosen cases.

use crate::common::plan::{ID, Plan, Planned, What, metadata, parent_layer};
use crate::common::reading::{assert_reads_as, bulk_read};
use crate::common::rng::{Rng, page};
use crate::common::{CODECS, open, options};
use snapshot_format::{
    Codec, Content, Cursor, Error, Metadata, PAGE_SIZE, PageNo, PageSize, Protection, Region,
    RegionKind, Snapshot, SnapshotId, Source, Writer, WriterOptions,
};
use std::io::Cursor as Bytes;

#[test]
fn every_codec_and_frame_size_reads_back_random_layouts() {
    for codec in CODECS {
        for frame_pages in [1, 2, 3, 4, 16, 100, 512] {
            let plan = Plan::random(u64::from(frame_pages), 700);
            let file = plan.write(options(codec, frame_pages));
            assert_reads_as(&open(file), &plan.model());
        }
    }
}

#[test]
fn no_regions_are_a_snapshot_of_no_pages() {
    let plan = Plan::default();
    let snapshot = open(plan.write(options(Codec::Zstd, 4)));
    assert_reads_as(&snapshot, &plan.model());
    assert!(snapshot.regions().as_slice().is_empty());
    assert_eq!(snapshot.regions().region_of(PageNo(0)), None);
}

#[test]
fn one_page_of_every_kind_is_a_snapshot() {
    for what in [What::Zeros, What::ZeroBytes, What::Lost, What::Parent(77)] {
        let plan = Plan::raw(&[(what, 1)]);
        assert_reads_as(&open(plan.write(options(Codec::Lz4, 4))), &plan.model());
    }
    for seed in 0..30 {
        let plan = Plan::raw(&[(What::Data(seed), 1)]);
        assert_reads_as(&open(plan.write(options(Codec::Lz4, 4))), &plan.model());
    }
}

#[test]
fn a_raw_region_may_end_in_the_middle_of_a_page() {
    for tail in [1, 2047, 4095] {
        let plan = Plan {
            regions: vec![
                Planned {
                    region: Region::raw(0, 4096 + tail),
                    runs: vec![(What::Data(3), 2)],
                },
                Planned {
                    region: Region::raw(1 << 20, tail),
                    runs: vec![(What::Data(6), 1)],
                },
            ],
        };
        let snapshot = open(plan.write(options(Codec::Zstd, 4)));
        assert_reads_as(&snapshot, &plan.model());
        let regions = snapshot.regions().as_slice();
        assert_eq!(regions[0].region.len, 4096 + tail);
        assert_eq!(
            (regions[0].page_range(), regions[1].page_range()),
            (0..2, 2..3)
        );
    }
}

#[test]
fn no_frame_reaches_into_the_next_region() {
    let planned = |start| Planned {
        region: Region::raw(start, 3 * 4096),
        runs: vec![(What::Data(600), 3)],
    };
    let mut plan = Plan {
        regions: (0..5).map(|number| planned(number << 20)).collect(),
    };
    // Pages of bytes that are neither zero nor filled.
    plan.regions[0].runs = vec![
        (What::Data(seed_of_content(0)), 1),
        (What::Data(seed_of_content(1)), 2),
    ];
    let snapshot = open(plan.write(options(Codec::Lz4, 512)));
    let mut cursor = Cursor::new(snapshot.clone());
    for placed in snapshot.regions().as_slice() {
        let mut offsets = Vec::new();
        for number in placed.page_range() {
            if let Content::Frame { frame, .. } = cursor.content(PageNo(number)).unwrap() {
                assert!(frame.pages <= 3);
                offsets.push(frame.offset);
            }
        }
        offsets.dedup();
        assert!(
            offsets.len() <= 1,
            "one frame of at most 512 pages for a region of 3"
        );
    }
    assert_reads_as(&snapshot, &plan.model());
}

#[test]
fn frames_are_cut_by_the_number_of_the_page_in_its_region() {
    for frame_pages in [3, 7, 100, 300, 511] {
        let plan = Plan {
            regions: [(5, 1300), (6, 700)]
                .map(|(seed, pages)| Planned {
                    region: Region::raw(seed << 30, pages * 4096),
                    runs: vec![
                        (What::Data(seed), pages - 90),
                        (What::Zeros, 80),
                        (What::Data(seed), 10),
                    ],
                })
                .into(),
        };
        let snapshot = open(plan.write(options(Codec::Lz4, frame_pages)));
        let mut cursor = Cursor::new(snapshot.clone());
        for placed in snapshot.regions().as_slice() {
            let mut frame_of_window = std::collections::BTreeMap::new();
            for page in placed.page_range() {
                if let Content::Frame { frame, slot } = cursor.content(PageNo(page)).unwrap() {
                    let window = (page - placed.first_page.0) / u64::from(frame_pages);
                    let (first, next_slot) = frame_of_window.entry(window).or_insert((frame, 0));
                    assert_eq!((*first, *next_slot), (frame, slot), "page {page}");
                    *next_slot += 1;
                }
            }
            let frames: std::collections::BTreeSet<u64> = frame_of_window
                .values()
                .map(|(frame, _)| frame.offset)
                .collect();
            assert_eq!(
                frames.len(),
                frame_of_window.len(),
                "a frame in two windows"
            );
            for (frame, slots) in frame_of_window.values() {
                assert_eq!(frame.pages, *slots);
            }
        }
    }
}

/// A seed so that `page(seed + number)` has content.
fn seed_of_content(number: u64) -> u64 {
    let has_content = |seed: &u64| {
        let bytes = page(seed + number);
        bytes
            .as_chunks::<8>()
            .0
            .iter()
            .any(|word| word != &bytes[..8])
    };
    (0..).find(has_content).unwrap()
}

#[test]
fn every_field_of_a_region_is_read_back() {
    let mut rng = Rng(11);
    let kinds = [
        RegionKind::Private,
        RegionKind::Shared,
        RegionKind::Hugetlb,
        RegionKind::Stack,
        RegionKind::Raw,
    ];
    let mut regions = Vec::new();
    for bits in 0..8 {
        for kind in kinds {
            let huge = kind == RegionKind::Hugetlb;
            regions.push(Region {
                start: rng.below(1 << 40) << 21,
                len: if huge {
                    1 << 21
                } else {
                    4096 * (1 + rng.below(3))
                },
                offset: rng.next(),
                protection: Protection {
                    read: bits & 1 != 0,
                    write: bits & 2 != 0,
                    exec: bits & 4 != 0,
                },
                kind,
                shared: rng.below(2) == 0,
                page_size: if huge {
                    PageSize::Huge2M
                } else {
                    PageSize::Small
                },
                name: [
                    "",
                    "[heap]",
                    "/dev/shm/\u{fffd} (deleted)",
                    &"n".repeat(8192),
                ][rng.position(4)]
                .into(),
            });
        }
    }
    let mut writer = Writer::new(Bytes::new(Vec::new()), options(Codec::Lz4, 4)).unwrap();
    for region in &regions {
        writer.begin_region(region.clone()).unwrap();
        writer.zeros(region.pages()).unwrap();
    }
    let (file, _) = writer.finish(ID, &Metadata::default()).unwrap();
    let snapshot = open(file.into_inner());
    let read: Vec<Region> = (snapshot.regions().as_slice().iter())
        .map(|placed| placed.region.clone())
        .collect();
    assert_eq!(read, regions);
    for placed in snapshot.regions().as_slice() {
        for page in [placed.page_range().start, placed.page_range().end - 1] {
            assert_eq!(snapshot.regions().region_of(PageNo(page)), Some(placed));
            let into = (page - placed.first_page.0) * 4096;
            assert_eq!(placed.address_of(PageNo(page)), placed.region.start + into);
        }
    }
    assert_eq!(snapshot.regions().region_of(PageNo(snapshot.pages())), None);
}

#[test]
fn id_metadata_and_parent_are_read_back() {
    let process = Source::Process {
        pid: 4_000_000,
        start_time: u64::MAX,
        boot_id: "b".into(),
        uid: u32::MAX,
        name: "quo\"te\n".into(),
        exe: "/bin/\u{1f980}".into(),
        command_line: vec![String::new(), "-x".into()],
        stopped_us: 1,
    };
    for source in [process, Source::Unknown, Source::Raw { bytes: u64::MAX }] {
        let metadata = Metadata {
            source,
            ..metadata()
        };
        let parent = Some(parent_layer());
        let options = WriterOptions {
            parent,
            ..options(Codec::Zstd, 4)
        };
        let writer = Writer::new(Bytes::new(Vec::new()), options).unwrap();
        let (file, _) = writer.finish(SnapshotId([9; 16]), &metadata).unwrap();
        let snapshot = open(file.into_inner());
        assert_eq!(snapshot.id(), SnapshotId([9; 16]));
        assert_eq!(snapshot.metadata(), &metadata);
        assert_eq!(snapshot.parent(), Some(&parent_layer()));
    }
}

#[test]
fn an_id_is_written_and_read_as_hexadecimal_digits() {
    let id = SnapshotId(std::array::from_fn(|number| {
        u8::try_from(number * 17).unwrap()
    }));
    assert_eq!(id.to_string(), "00112233445566778899aabbccddeeff");
    assert_eq!(id.to_string().parse(), Ok(id));
    for wrong in [
        "",
        "0",
        "+0112233445566778899aabbccddeeff",
        "g0112233445566778899aabbccddeeff",
    ] {
        assert!(wrong.parse::<SnapshotId>().is_err(), "{wrong}");
    }
}

#[test]
fn a_file_may_be_followed_by_other_bytes() {
    let plan = Plan::random(5, 300);
    let mut file = plan.write(options(Codec::Zstd, 4));
    file.extend_from_slice(&[0xff; 5000]);
    assert_reads_as(&open(file), &plan.model());
}

#[test]
fn a_file_on_disk_reads_like_bytes_in_memory() {
    let plan = Plan::random(6, 600);
    let file = tempfile::tempfile().unwrap();
    let (file, summary) = plan.write_to(file, options(Codec::Lz4, 16), &[7]).unwrap();
    assert_eq!(file.metadata().unwrap().len(), summary.file_len);
    let snapshot = std::sync::Arc::new(Snapshot::open(file).unwrap());
    assert_reads_as(&snapshot, &plan.model());
}

#[test]
fn the_summary_and_the_survey_count_the_same() {
    for frame_pages in [1, 2] {
        let plan = Plan::random(8, 900);
        let (file, summary) = plan
            .write_to(
                Bytes::new(Vec::new()),
                options(Codec::Lz4, frame_pages),
                &[13],
            )
            .unwrap();
        let snapshot = open(file.into_inner());
        let survey = snapshot_format::verify::survey(&snapshot, 0..snapshot.pages()).unwrap();
        let frames = survey.stored.frames + survey.lz4.frames;
        let payload = survey.stored.payload_len + survey.lz4.payload_len;
        assert_eq!(survey.zstd.frames, 0);
        assert!(survey.stored.frames > 0 && survey.lz4.frames > 0);
        assert_eq!(summary.frames, frames);
        assert_eq!(summary.frames_len, payload + 8 * frames);
        assert_eq!(summary.pages, snapshot.pages());
        assert_eq!(
            [
                summary.zero_pages,
                summary.filled_pages,
                summary.content_pages,
                summary.lost_pages,
                summary.parent_pages
            ],
            [
                survey.zero_pages,
                survey.filled_pages,
                survey.content_pages,
                survey.lost_pages,
                survey.parent_pages
            ]
        );
    }
}

#[test]
fn every_range_of_pages_can_be_read_in_bulk() {
    // 3 units of work, frames that straddle them, gaps in frames.
    let plan = Plan::raw(&[
        (What::Data(1), 700),
        (What::Zeros, 90),
        (What::Data(2), 611),
    ]);
    let snapshot = open(plan.write(options(Codec::Lz4, 100)));
    let model = plan.model();
    let mut rng = Rng(4);
    for threads in 1..=4 {
        for _ in 0..4 {
            let start = rng.below(1401);
            let range = start..start + rng.below(1402 - start);
            crate::common::reading::assert_bulk_reads_as(&snapshot, &model, range, threads);
        }
    }
    let (bytes, end) = bulk_read(&snapshot, 1400..1402, 2);
    assert_eq!(bytes.len(), PAGE_SIZE);
    assert!(matches!(
        end,
        Err(Error::NoSuchPage {
            page: 1401,
            pages: 1401
        })
    ));
    let (bytes, end) = bulk_read(&snapshot, std::ops::Range { start: 9, end: 3 }, 2);
    assert!(bytes.is_empty() && end.is_ok());
}
