//! What a writer refuses, and that it goes away when it is dropped.

use crate::common::plan::{ID, Plan, What, metadata, parent_layer};
use crate::common::{open, options};
use snapshot_format::{
    Codec, Metadata, PageNo, PageSize, ParentLayer, ProcessRegions, Processes, Region, RegionKind,
    WriteError, Writer, WriterOptions,
};
use std::io::Cursor as Bytes;

type Memory = Bytes<Vec<u8>>;

fn writer() -> Writer<Memory> {
    Writer::new(Bytes::new(Vec::new()), options(Codec::Lz4, 4)).unwrap()
}

#[track_caller]
fn assert_usage<T: std::fmt::Debug>(outcome: Result<T, WriteError>, text: &str) {
    match outcome {
        Err(WriteError::Usage(message)) if message.contains(text) => {}
        other => panic!("{other:?} instead of a usage error about {text:?}"),
    }
}

#[test]
fn frames_of_0_or_513_pages_are_refused() {
    for frame_pages in [0, 513, u16::MAX] {
        let made = Writer::new(Bytes::new(Vec::new()), options(Codec::Zstd, frame_pages));
        assert_usage(made, "1 to 512 are possible");
    }
}

#[test]
fn thousands_of_threads_are_refused() {
    for jobs in [1025, usize::MAX] {
        let options = WriterOptions {
            jobs,
            ..options(Codec::Zstd, 4)
        };
        assert_usage(Writer::new(Bytes::new(Vec::new()), options), "1 to 1024");
    }
}

#[test]
fn no_jobs_are_one_job() {
    let plan = Plan::random(3, 100);
    let none = plan.write(WriterOptions {
        jobs: 0,
        ..options(Codec::Lz4, 4)
    });
    assert_eq!(none, plan.write(options(Codec::Lz4, 4)));
}

#[test]
fn a_region_begins_when_the_last_one_is_complete() {
    let mut writer = writer();
    writer.begin_region(Region::raw(0, 8192)).unwrap();
    assert_usage(
        writer.begin_region(Region::raw(8192, 4096)),
        "before the last one is complete",
    );
    writer.zeros(1).unwrap();
    assert_usage(
        writer.begin_region(Region::raw(8192, 4096)),
        "before the last one is complete",
    );
    writer.zeros(1).unwrap();
    writer.begin_region(Region::raw(8192, 4096)).unwrap();
}

#[test]
fn a_snapshot_is_finished_when_the_last_region_is_complete() {
    for given in 0..3 {
        let mut writer = writer();
        writer.begin_region(Region::raw(0, 8192)).unwrap();
        writer.zeros(given).unwrap();
        let finished = writer.finish(ID, &Metadata::default());
        if given < 2 {
            assert_usage(finished.map(|_| ()), "the last region is not complete");
        } else {
            finished.unwrap();
        }
    }
}

#[test]
fn pages_are_given_to_a_region_that_has_room_for_them() {
    let mut writer = writer();
    assert_usage(writer.space().map(|_| ()), "no more pages");
    assert_usage(writer.commit(0), "no more pages");
    assert_usage(writer.zeros(1), "more pages");
    writer.begin_region(Region::raw(0, 3 * 4096)).unwrap();
    assert_eq!(writer.space().unwrap().len(), 3 * 4096);
    assert_usage(writer.commit(4), "more pages are committed");
    assert_usage(writer.commit(usize::MAX), "more pages are committed");
    assert_usage(writer.zeros(4), "more pages are given");
    assert_usage(writer.lost(u64::MAX), "more pages are given");
    writer.space().unwrap().fill(3);
    writer.commit(2).unwrap();
    assert_usage(writer.commit(2), "more pages are committed");
    assert_usage(writer.zeros(2), "more pages are given");
    writer.commit(0).unwrap();
    writer.zeros(0).unwrap();
    writer.commit(1).unwrap();
    // Nothing that was refused has left a trace.
    let (file, summary) = writer.finish(ID, &Metadata::default()).unwrap();
    assert_eq!((summary.pages, summary.filled_pages), (3, 3));
    assert_eq!(open(file.into_inner()).pages(), 3);
}

#[test]
fn pages_of_a_parent_are_pages_that_the_parent_has() {
    let mut without = writer();
    without.begin_region(Region::raw(0, 4096)).unwrap();
    assert_usage(
        without.parent(PageNo(0), 1),
        "the parent snapshot does not have",
    );
    let parent = Some(ParentLayer {
        pages: 10,
        ..parent_layer()
    });
    let options = WriterOptions {
        parent,
        ..options(Codec::Lz4, 4)
    };
    let mut with = Writer::new(Bytes::new(Vec::new()), options).unwrap();
    with.begin_region(Region::raw(0, 4096 * 20)).unwrap();
    for (first, pages) in [(10, 1), (0, 11), (9, 2), (u64::MAX, 1), (1, u64::MAX)] {
        assert_usage(
            with.parent(PageNo(first), pages),
            "the parent snapshot does not have",
        );
    }
    with.parent(PageNo(0), 10).unwrap();
    with.parent(PageNo(0), 10).unwrap();
    with.finish(ID, &metadata()).unwrap();
}

#[test]
fn pages_are_repeated_that_have_been_given() {
    let mut writer = writer();
    writer.begin_region(Region::raw(0, 4096 * 10)).unwrap();
    for (first, pages) in [(0, 1), (1, 0), (u64::MAX, 1), (0, u64::MAX)] {
        assert_usage(writer.repeat(PageNo(first), pages), "have not been given");
    }
    writer.space().unwrap()[..3 * 4096].fill(7);
    writer.commit(3).unwrap();
    for (first, pages) in [(3, 1), (0, 4), (2, 2), (1, u64::MAX)] {
        assert_usage(writer.repeat(PageNo(first), pages), "have not been given");
    }
    writer.repeat(PageNo(3), 0).unwrap();
    writer.repeat(PageNo(0), 3).unwrap();
    writer.repeat(PageNo(3), 3).unwrap();
    assert_usage(writer.repeat(PageNo(0), 2), "more pages are given");
    writer.repeat(PageNo(8), 1).unwrap();
    let (file, summary) = writer.finish(ID, &Metadata::default()).unwrap();
    assert_eq!((summary.pages, summary.filled_pages), (10, 10));
    assert_eq!((summary.content_pages, summary.repeated_pages), (0, 0));
    assert_eq!(open(file.into_inner()).pages(), 10);
}

#[test]
fn a_stream_repeats_its_own_pages() {
    let mut writer = writer();
    writer.begin_stream().unwrap();
    assert_usage(writer.repeat(PageNo(0), 1), "have not been given");
    writer.space().unwrap()[..4096].fill(7);
    writer.commit(1).unwrap();
    assert_usage(writer.repeat(PageNo(0), 2), "have not been given");
    writer.repeat(PageNo(0), 1).unwrap();
    writer.end_stream(8192).unwrap();
    let (_, summary) = writer.finish(ID, &Metadata::default()).unwrap();
    assert_eq!(summary.filled_pages, 2);
}

#[test]
fn processes_are_those_of_the_regions() {
    let finished = |list: &[(u32, u64)]| {
        let mut writer = writer();
        for number in 0..3 {
            writer.begin_region(Region::raw(number << 20, 4096))?;
            writer.zeros(1)?;
        }
        let record = |&(pid, regions)| ProcessRegions {
            pid,
            regions,
            pagemap: 0,
        };
        writer.processes(Processes {
            images: 1,
            list: list.iter().map(record).collect(),
        });
        let (file, _) = writer.finish(ID, &Metadata::default())?;
        Ok(open(file.into_inner()).processes().cloned())
    };
    for list in [&[(1, 3)][..], &[(1, 0), (2, 3), (3, 0)], &[(9, 1), (5, 2)]] {
        let processes = finished(list).unwrap().unwrap();
        let found: Vec<_> = processes
            .with_regions()
            .map(|(process, range)| (process.pid, range.len() as u64))
            .collect();
        assert_eq!(found, list);
    }
    assert_usage(finished(&[]), "the number of processes");
    for list in [&[(1, 2)][..], &[(1, 4)], &[(1, u64::MAX), (2, 4)]] {
        assert_usage(finished(list), "not as many regions");
    }
    assert_usage(finished(&[(0, 3)]), "a process id");
    assert_usage(finished(&[(1 << 31, 3)]), "a process id");
    assert_usage(finished(&[(7, 3), (7, 0)]), "there twice");
}

#[test]
fn a_parent_path_that_no_reader_takes_is_refused() {
    let path = |len: usize| {
        let parent = Some(ParentLayer {
            path: "p".repeat(len),
            ..parent_layer()
        });
        let options = WriterOptions {
            parent,
            ..options(Codec::Lz4, 4)
        };
        Writer::new(Bytes::new(Vec::new()), options)?.finish(ID, &metadata())
    };
    let (file, _) = path(4096).unwrap();
    assert_eq!(open(file.into_inner()).parent().unwrap().path.len(), 4096);
    assert_usage(path(4097).map(|_| ()), "path of the parent");
}

#[test]
fn regions_that_no_address_space_has_are_refused() {
    let good = Region {
        kind: RegionKind::Private,
        ..Region::raw(4096, 8192)
    };
    let wrong = [
        (
            Region {
                len: 0,
                ..good.clone()
            },
            "empty",
        ),
        (
            Region {
                len: 1,
                ..good.clone()
            },
            "not aligned",
        ),
        (
            Region {
                start: 1,
                ..good.clone()
            },
            "not aligned",
        ),
        (
            Region {
                page_size: PageSize::Huge2M,
                ..good.clone()
            },
            "not aligned",
        ),
        (
            Region {
                start: u64::MAX - 4095,
                ..good.clone()
            },
            "past the end",
        ),
        (
            Region {
                kind: RegionKind::Raw,
                start: u64::MAX - 4095,
                len: 1,
                ..good.clone()
            },
            "past the end",
        ),
        (Region::raw(0, u64::MAX), "the format allows"),
        (Region::raw(0, (1 << 48) + 1), "the format allows"),
        (
            Region {
                name: "n".repeat(8193),
                ..good.clone()
            },
            "name of a region is too long",
        ),
    ];
    let mut writer = writer();
    for (region, text) in wrong {
        assert_usage(writer.begin_region(region), text);
    }
    writer.begin_region(Region::raw(0, 1 << 47)).unwrap();
    writer.zeros(1 << 35).unwrap();
    assert_usage(
        writer.begin_region(Region::raw(0, (1 << 47) + 1)),
        "the format allows",
    );
    writer.begin_region(Region::raw(0, 1 << 47)).unwrap();
    writer.zeros(1 << 35).unwrap();
    assert_usage(writer.begin_region(good), "the format allows");
    let (file, _) = writer.finish(ID, &Metadata::default()).unwrap();
    assert_eq!(open(file.into_inner()).pages(), 1 << 36);
}

#[test]
fn a_region_map_that_no_reader_takes_is_refused() {
    let mut writer = writer();
    let mut refused = None;
    let named = Region {
        name: "n".repeat(8192),
        ..Region::raw(0, 4096)
    };
    for number in 0..33_000 {
        match writer.begin_region(named.clone()) {
            Ok(()) => writer.zeros(1).unwrap(),
            Err(error) => {
                refused = Some((number, error.to_string()));
                break;
            }
        }
    }
    // 256 MiB, 8 bytes of count, 64 + 8192 bytes each.
    assert_eq!(
        refused,
        Some((
            32_513,
            "the region map is longer than the format allows".into()
        ))
    );
}

#[test]
fn metadata_of_more_than_a_mebibyte_is_refused() {
    let metadata = |len| Metadata {
        host: "h".repeat(len),
        ..metadata()
    };
    let (file, _) = writer().finish(ID, &metadata(1_000_000)).unwrap();
    assert_eq!(open(file.into_inner()).metadata(), &metadata(1_000_000));
    let finished = writer().finish(ID, &metadata(1 << 20));
    assert_usage(finished.map(|_| ()), "the metadata is over 1048576 bytes");
}

#[test]
fn zstd_levels_beyond_the_codec_s_are_not_a_panic() {
    for level in [i32::MIN, -1000, 0, 23, i32::MAX] {
        let mut options = options(Codec::Zstd, 4);
        options.compression.level = level;
        let plan = Plan::raw(&[(What::Data(1), 3)]);
        match plan.write_to(Bytes::new(Vec::new()), options, &[1]) {
            Ok((file, _)) => {
                crate::common::reading::assert_reads_as(&open(file.into_inner()), &plan.model());
            }
            Err(error) => assert!(matches!(error, WriteError::Compress(_)), "{error:?}"),
        }
    }
}
