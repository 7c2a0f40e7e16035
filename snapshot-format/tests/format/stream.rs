//! Raw memory of a length that is known at its end.

use crate::common::plan::{ID, Plan, Planned, What, metadata};
use crate::common::rng::page;
use crate::common::{CODECS, open, options};
use snapshot_format::{Codec, Region, Snapshot, WriteError, Writer};
use std::io::Cursor as Bytes;

fn writer(codec: Codec, frame_pages: u16) -> Writer<Bytes<Vec<u8>>> {
    Writer::new(Bytes::new(Vec::new()), options(codec, frame_pages)).unwrap()
}

/// Give `pages` pages of data in steps, the way of `Plan`, from page `number` of the snapshot on.
fn give(writer: &mut Writer<Bytes<Vec<u8>>>, seed: u64, number: u64, pages: u64, most: usize) {
    let mut done = 0;
    while done < pages {
        let space = writer.space().unwrap().as_chunks_mut::<4096>().0;
        let step = space
            .len()
            .min(most)
            .min(usize::try_from(pages - done).unwrap());
        for (slot, page_number) in space[..step].iter_mut().zip(number + done..) {
            *slot = page(seed + page_number);
        }
        writer.commit(step).unwrap();
        done += step as u64;
    }
}

#[test]
fn a_stream_is_the_same_file_as_a_region_of_its_length() {
    for (pages, tail) in [
        (1, 4096),
        (1, 1),
        (4, 4095),
        (511, 9),
        (512, 4096),
        (513, 4096),
        (1025, 100),
    ] {
        let len = (pages - 1) * 4096 + tail;
        for codec in CODECS {
            for frame_pages in [1, 3, 512] {
                let (mut stream, mut region) =
                    (writer(codec, frame_pages), writer(codec, frame_pages));
                stream.begin_stream().unwrap();
                give(&mut stream, 9, 0, pages, 100);
                stream.end_stream(len).unwrap();
                region.begin_region(Region::raw(0, len)).unwrap();
                give(&mut region, 9, 0, pages, 512);
                let [stream, region] = [stream, region]
                    .map(|writer| writer.finish(ID, &metadata()).unwrap().0.into_inner());
                assert!(
                    stream == region,
                    "{pages} pages in frames of {frame_pages} of {codec}"
                );
            }
        }
    }
}

#[test]
fn streams_and_regions_follow_each_other() {
    let mut writer = writer(Codec::Lz4, 4);
    writer.begin_region(Region::raw(0, 3 * 4096)).unwrap();
    give(&mut writer, 5, 0, 3, 2);
    writer.begin_stream().unwrap();
    give(&mut writer, 6, 3, 600, 512);
    writer.zeros(1000).unwrap();
    writer.end_stream(1600 * 4096).unwrap();
    writer.begin_stream().unwrap();
    writer.space().unwrap();
    writer.end_stream(0).unwrap();
    writer.begin_region(Region::raw(1 << 40, 4096)).unwrap();
    give(&mut writer, 7, 1603, 1, 1);
    let file = writer.finish(ID, &metadata()).unwrap().0.into_inner();
    let region = |start: u64, pages: u64| Region::raw(start, pages * 4096);
    let plan = Plan {
        regions: vec![
            Planned {
                region: region(0, 3),
                runs: vec![(What::Data(5), 3)],
            },
            Planned {
                region: region(0, 1600),
                runs: vec![(What::Data(6), 600), (What::Zeros, 1000)],
            },
            Planned {
                region: region(1 << 40, 1),
                runs: vec![(What::Data(7), 1)],
            },
        ],
    };
    let snapshot = open(file);
    crate::common::reading::assert_reads_as(&snapshot, &plan.model());
    let found: Vec<Region> = snapshot
        .regions()
        .as_slice()
        .iter()
        .map(|placed| placed.region.clone())
        .collect();
    assert_eq!(
        found,
        plan.regions
            .into_iter()
            .map(|planned| planned.region)
            .collect::<Vec<_>>()
    );
}

#[track_caller]
fn assert_usage<T>(outcome: Result<T, WriteError>) {
    match outcome {
        Err(WriteError::Usage(_)) => {}
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn a_stream_ends_with_the_length_of_its_pages() {
    for len in [0, 1, 4096, 2 * 4096 + 1, u64::MAX] {
        let mut writer = writer(Codec::Lz4, 4);
        writer.begin_stream().unwrap();
        writer.zeros(2).unwrap();
        assert_usage(writer.end_stream(len));
        assert_usage(writer.finish(ID, &metadata()));
    }
    let mut writer = writer(Codec::Lz4, 4);
    assert_usage(writer.end_stream(0));
    assert_usage(writer.end_stream(4096));
}

#[test]
fn an_open_stream_is_not_complete_whatever_it_holds() {
    for pages in [0, 1, 1 << 36] {
        let begun = || {
            let mut writer = writer(Codec::Lz4, 4);
            writer.begin_stream().unwrap();
            writer.zeros(pages).unwrap();
            writer
        };
        assert_usage(begun().finish(ID, &metadata()));
        assert_usage(begun().begin_stream());
        assert_usage(begun().begin_region(Region::raw(0, 4096)));
        let mut writer = begun();
        writer.end_stream(pages * 4096).unwrap();
        let file = writer.finish(ID, &metadata()).unwrap().0.into_inner();
        assert_eq!(Snapshot::open(file).unwrap().pages(), pages);
    }
}
