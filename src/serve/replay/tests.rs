//! A set of a small snapshot, without threads and without a target.

use snapshot_format::working_set::{self, Frames, History, Options};
use snapshot_format::{Cursor, Metadata, Region, Snapshot, SnapshotId, Writer, WriterOptions};

use super::*;

const ROOT: SpaceId = SpaceId(0);
const PAGES: u64 = 64;

fn range(start: u64, pages: u64) -> AddrRange {
    AddrRange::at(Addr(start), pages * PAGE_BYTES)
}

/// Page N begins with N; every eighth is zero.
fn snapshot() -> Arc<Snapshot<File>> {
    let file = tempfile::tempfile().expect("space");
    let output = file.try_clone().expect("a descriptor");
    let mut writer = Writer::new(output, WriterOptions::default()).expect("good options");
    writer
        .begin_region(Region::raw(0, PAGES * PAGE_BYTES))
        .expect("a region");
    for page in 0..PAGES {
        if page.is_multiple_of(8) {
            writer.zeros(1).expect("room");
        } else {
            let word = page.to_le_bytes();
            let room = &mut writer.space().expect("room")[..PAGE_SIZE];
            room.fill(0x55);
            room[..8].copy_from_slice(&word);
            writer.commit(1).expect("room");
        }
    }
    writer
        .finish(SnapshotId([7; 16]), &Metadata::default())
        .expect("written");
    Arc::new(Snapshot::open(file).expect("a snapshot"))
}

/// A set of these pages, with four pages of content in a frame.
fn set(pages: impl IntoIterator<Item = u64>) -> Arc<WorkingSet<File>> {
    let touches = pages.into_iter().zip(0..);
    let history = History::of_recording(touches.map(|(page, time)| (PageNo(page), time)));
    let file = tempfile::tempfile().expect("space");
    let options = Options {
        frame_pages: 4,
        ..Options::default()
    };
    let output = file.try_clone().expect("a descriptor");
    working_set::write(&history, &mut Cursor::new(snapshot()), output, &options).expect("a set");
    Arc::new(WorkingSet::open(file).expect("a set"))
}

/// All of the snapshot is owed, in two places.
fn space() -> AddressSpace {
    let mut space = AddressSpace::new();
    for (start, first) in [(0x10_0000, 0), (0x80_0000, PAGES / 2)] {
        space.register(range(start, PAGES / 2), Kind::PRIVATE);
        space.owe(range(start, PAGES / 2), PageNo(first));
    }
    space
}

fn request(page: u64) -> Request {
    Request {
        space: ROOT,
        at: Addr(0),
        page: PageNo(page),
        needed: 1,
        welcome: page..page + 1,
        crowded: false,
        purpose: Purpose::Neighbours,
    }
}

/// What a thread of the pool does.
fn decoded(set: &Arc<WorkingSet<File>>, plan: &Plan) -> Block {
    let mut block = Block::default();
    Frames::new(Arc::clone(set))
        .read(plan.frame, &mut block.bytes)
        .expect("a good frame");
    block.pieces.extend_from_slice(&plan.pieces);
    block
}

#[test]
fn pages_are_found_where_they_belong() {
    let mut space = space();
    space.register(range(0x30_0000, 2), Kind::PRIVATE);
    space.owe(range(0x30_0000, 2), PageNo(1000));
    let places = {
        let mut places = Places::default();
        places.add(ROOT, &space);
        places
    };
    let found = |pages: Range<u64>| -> Vec<(u64, u64, u64)> {
        let parts = places.parts(&pages);
        let numbers =
            |(pages, _, at, _): (Range<u64>, SpaceId, Addr, Kind)| (pages.start, pages.end, at.0);
        parts.map(numbers).collect()
    };
    assert_eq!(found(30..34), [(30, 32, 0x11_e000), (32, 34, 0x80_0000)]);
    assert_eq!(found(0..2000).len(), 3);
    assert_eq!(found(1001..1002), [(1001, 1002, 0x30_1000)]);
    assert!(found(64..1000).is_empty() && found(1002..1100).is_empty());
}

/// Each page with its own content, in its own place; across the border of two places, too.
#[test]
fn a_plan_puts_every_page_where_it_belongs() {
    let (set, space) = (set(29..36), space());
    let mut replay = Replay::new(Arc::clone(&set), [(ROOT, &space)]);
    let mut pages = Vec::new();
    while let Planned::Frame(plan) = replay.plan_next(|_| Some(&space)).expect("a good set") {
        let block = decoded(&set, &plan);
        for (piece, place) in block.pieces.iter().zip(&plan.places[0].1) {
            assert_eq!(
                place.len(),
                (piece.pages.end - piece.pages.start) * PAGE_BYTES
            );
            for page in piece.pages.clone() {
                let at = place.start.plus((page - piece.pages.start) * PAGE_BYTES);
                assert_eq!(space.at(at), crate::space::Found::Owed(PageNo(page)));
                match block.bytes_of(piece, &(page..page + 1)) {
                    Some(bytes) => assert_eq!(bytes[..8], page.to_le_bytes()),
                    None => assert!(piece.what == What::Zero && page.is_multiple_of(8)),
                }
                pages.push(page);
            }
        }
    }
    pages.sort_unstable();
    assert!(pages.into_iter().eq(29..36));
}

/// Pages of a frame that belong to two processes, each in its own.
#[test]
fn a_frame_may_be_of_several_processes() {
    const OTHER: SpaceId = SpaceId(5);
    let set = set(2..6);
    let [mut one, mut other] = [AddressSpace::new(), AddressSpace::new()];
    for (space, first) in [(&mut one, 0), (&mut other, 4)] {
        space.register(range(0x10_0000, 4), Kind::PRIVATE);
        space.owe(range(0x10_0000, 4), PageNo(first));
    }
    let mut replay = Replay::new(set, [(ROOT, &one), (OTHER, &other)]);
    let owed = |id| Some(if id == ROOT { &one } else { &other });
    let Ok(Planned::Frame(plan)) = replay.plan_next(owed) else {
        panic!("all is owed");
    };
    let pages: Vec<_> = plan
        .pieces
        .iter()
        .map(|piece| piece.pages.clone())
        .collect();
    assert_eq!(pages, [2..4, 4..6]);
    let nowhere = AddrRange::at(Addr(0), 0);
    let [(first, its), (second, others)] = plan.places() else {
        panic!("{plan:?}");
    };
    assert_eq!((*first, *second), (ROOT, OTHER));
    assert_eq!(its[..], [range(0x10_2000, 2), nowhere]);
    assert_eq!(others[..], [nowhere, range(0x10_0000, 2)]);
}

/// What is not owed any more is not decoded for, and what has no place is left out without harm to what follows it.
#[test]
fn what_is_settled_is_passed_over() {
    let set = set(1..6);
    let mut space = space();
    space.settle(range(0x10_0000 + PAGE_BYTES, 3));
    let mut replay = Replay::new(Arc::clone(&set), [(ROOT, &space)]);
    let Ok(Planned::Frame(plan)) = replay.plan_next(|_| Some(&space)) else {
        panic!("page 4 is owed");
    };
    let block = decoded(&set, &plan);
    assert_eq!(block.pieces.len(), 1);
    let bytes = block.bytes_of(&block.pieces[0], &(4..5)).expect("bytes");
    assert_eq!(bytes[..8], 4_u64.to_le_bytes());
    space.settle(range(0x10_0000, PAGES / 2));
    assert!(matches!(
        replay.plan_next(|_| Some(&space)),
        Ok(Planned::End)
    ));
}

#[test]
fn a_fault_waits_for_the_frame_that_is_being_decoded() {
    let (set, space) = (set(1..12), space());
    let mut replay = Replay::new(Arc::clone(&set), [(ROOT, &space)]);
    assert!(replay.fetch(&request(2)).is_none(), "nobody decodes it");
    let Ok(Planned::Frame(plan)) = replay.plan_next(|_| Some(&space)) else {
        panic!("there are frames");
    };
    assert!(matches!(replay.fetch(&request(2)), Some(None)), "it comes");
    assert!(matches!(replay.fetch(&request(4)), Some(None)), "it comes");
    assert!(replay.fetch(&request(40)).is_none(), "not of the set");
    assert!(replay.fetch(&request(11)).is_none(), "of a later frame");

    let block = decoded(&set, &plan);
    let waited: Vec<u64> = replay
        .came(plan, block)
        .iter()
        .map(|request| request.page.0)
        .collect();
    assert_eq!(waited, [2, 4]);
    let Some(Some(block)) = replay.fetch(&request(3)) else {
        panic!("it is here");
    };
    assert!(block.piece_of(PageNo(3)).is_some());
    assert!(!replay.is_over());
}
