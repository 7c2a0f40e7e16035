//! The rules by example. Schedules at random are in `tests/model`.

use super::*;

pub(super) const X: u64 = 0x10_0000;
pub(super) const Y: u64 = 0x20_0000;
pub(super) const Z: u64 = 0x30_0000;
pub(super) const LEN: u64 = 0x4000;
const ALL: AddrRange = AddrRange::new(0, u64::MAX);

pub(super) fn range(start: u64) -> AddrRange {
    AddrRange::new(start, start + LEN)
}

pub(super) fn remap(from: u64, to: u64) -> Remap {
    Remap {
        from: Addr(from),
        to: Addr(to),
        len: LEN,
    }
}

/// X owes pages 0 to 3, Z pages 100 to 103.
pub(super) fn space() -> AddressSpace {
    let mut space = AddressSpace::new();
    for (start, page) in [(X, 0), (Z, 100)] {
        space.register(range(start), Kind::PRIVATE);
        space.owe(range(start), PageNo(page));
    }
    space
}

pub(super) fn at(space: &AddressSpace, address: u64) -> Found {
    space.at(Addr(address))
}

#[test]
fn settle_remove_and_unmap_are_the_same() {
    for settle in [
        AddressSpace::settle,
        AddressSpace::remove,
        AddressSpace::unmap,
    ] {
        let mut space = space();
        assert_eq!(
            settle(&mut space, AddrRange::new(X + 0x1000, X + 0x3000)),
            0x2000
        );
        assert_eq!(at(&space, X), Found::Owed(PageNo(0)));
        assert_eq!(at(&space, X + 0x1000), Found::Nothing);
        assert_eq!(at(&space, X + 0x3000), Found::Owed(PageNo(3)));
        assert_eq!(space.owes(), 2 * LEN - 0x2000);
    }
}

#[test]
fn a_move_and_its_tail() {
    let mut space = space();
    space.remap(remap(X, Y));
    assert_eq!(at(&space, X), Found::Nothing);
    assert_eq!(at(&space, Y + 0x2000), Found::Owed(PageNo(2)));
    space.unmap(range(X));
    assert_eq!(space.owes(), 2 * LEN);
    space.unmap(range(Y));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn moving_onto_something_drops_it() {
    let mut space = space();
    space.unmap(range(X));
    space.remap(remap(Z, X));
    assert_eq!(at(&space, X + 0x1000), Found::Owed(PageNo(101)));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn a_part_moves() {
    let mut space = space();
    space.remap(Remap {
        from: Addr(X + 0x1000),
        to: Addr(Y),
        len: 0x2000,
    });
    space.unmap(AddrRange::new(X + 0x1000, X + 0x3000));
    assert_eq!(at(&space, X), Found::Owed(PageNo(0)));
    assert_eq!(at(&space, X + 0x1000), Found::Nothing);
    assert_eq!(at(&space, X + 0x3000), Found::Owed(PageNo(3)));
    assert_eq!(at(&space, Y + 0x1000), Found::Owed(PageNo(2)));
    assert_eq!(
        space.run_around(Addr(Y + 0x1000)),
        Some((AddrRange::new(Y, Y + 0x2000), PageNo(1)))
    );
}

#[test]
fn a_child_owes_the_same_and_goes_its_own_way() {
    let mut parent = space();
    parent.remap(remap(X, Y));
    let mut child = parent.fork(None);
    parent.unmap(range(X));
    child.remap(remap(Y, X));
    assert_eq!(at(&child, X), Found::Owed(PageNo(0)));
    assert_eq!(at(&parent, Y), Found::Owed(PageNo(0)));
    child.unmap(range(Y));
    child.unmap(range(X));
    assert_eq!(
        child.owes(),
        LEN,
        "no tail of the parent's is swallowed in the child"
    );
}

#[test]
fn what_is_wiped_on_fork_is_zero_in_the_child() {
    let mut space = space();
    space.register(
        range(X),
        Kind {
            wiped_on_fork: true,
            ..Kind::PRIVATE
        },
    );
    let child = space.fork(None);
    assert_eq!(at(&child, X), Found::Nothing);
    assert_eq!(at(&child, Z), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, X), Found::Owed(PageNo(0)));
}

#[test]
fn poison_is_not_owed_and_not_nothing() {
    let mut space = space();
    space.poison(AddrRange::new(X, X + 0x1000));
    space.poison(AddrRange::new(X, X + 0x1000));
    assert_eq!(at(&space, X), Found::Poisoned);
    assert_eq!(space.owes(), 2 * LEN - 0x1000);
    assert_eq!(space.run_around(Addr(X)), None);
    assert_eq!(
        space.next_run(ALL),
        Some((AddrRange::new(X + 0x1000, X + LEN), PageNo(1)))
    );
    space.remap(remap(X, Y));
    assert_eq!(at(&space, Y), Found::Poisoned, "it moves like the rest");
    space.remove(range(Y));
    assert_eq!(
        (at(&space, Y), space.owes()),
        (Found::Nothing, LEN),
        "and is dropped like the rest"
    );
}

#[test]
fn parts_of_huge_pages_are_not_dropped() {
    let huge = AddrRange::new(0x4000_0000, 0x4080_0000);
    let kind = Kind {
        page_bytes: 2 << 20,
        ..Kind::PRIVATE
    };
    let mut space = AddressSpace::new();
    space.register(huge, kind);
    space.owe(huge, PageNo(0));
    assert_eq!(
        space.remove(AddrRange::new(0x4000_1000, 0x4060_1000)),
        4 << 20
    );
    assert_eq!(at(&space, 0x4000_0000), Found::Owed(PageNo(0)));
    assert_eq!(at(&space, 0x4020_0000), Found::Nothing);
    assert_eq!(at(&space, 0x4060_0000), Found::Owed(PageNo(3 * 512)));
}

#[test]
fn the_next_run_is_cut_at_mappings() {
    let mut space = AddressSpace::new();
    space.register(AddrRange::new(X, X + 0x2000), Kind::PRIVATE);
    space.register(
        AddrRange::new(X + 0x2000, X + LEN),
        Kind {
            shared: true,
            ..Kind::PRIVATE
        },
    );
    space.owe(range(X), PageNo(7));
    assert_eq!(
        space.next_run(ALL),
        Some((AddrRange::new(X, X + 0x2000), PageNo(7)))
    );
    assert_eq!(
        space.next_run(AddrRange::new(X + 0x2000, u64::MAX)),
        Some((AddrRange::new(X + 0x2000, X + LEN), PageNo(9)))
    );
    assert_eq!(space.next_run(AddrRange::new(X + LEN, u64::MAX)), None);
}

#[test]
fn a_second_place_of_a_shared_mapping_is_owed_the_same() {
    let mut space = space();
    space.register(
        range(X),
        Kind {
            shared: true,
            ..Kind::PRIVATE
        },
    );
    space.settle(AddrRange::new(X, X + 0x1000));
    space.register(AddrRange::new(Y + 0x3000, Y + LEN), Kind::PRIVATE);
    space.remap(Remap {
        from: Addr(X),
        to: Addr(Y),
        len: 0,
    });
    assert_eq!(
        at(&space, Y),
        Found::Nothing,
        "settled at the first place already"
    );
    assert_eq!(at(&space, Y + 0x2000), Found::Owed(PageNo(2)));
    assert_eq!(at(&space, X + 0x2000), Found::Owed(PageNo(2)));
    assert_eq!(
        at(&space, Y + 0x3000),
        Found::Nothing,
        "there is another mapping"
    );
}

#[test]
fn what_is_removed_from_a_file_is_removed_wherever_it_is_mapped() {
    let at = |offset| FileAt {
        file: (1, 7),
        offset,
    };
    let shared = |offset| Kind {
        shared: true,
        file: Some(at(offset)),
        ..Kind::PRIVATE
    };
    let mut space = space();
    // Both show the file; Z from its second page on.
    space.register(range(X), shared(0));
    space.register(range(Z), shared(0x1000));
    space.remap(remap(Z, Y));
    space.unmap(range(Z));
    let files = space.files_in(AddrRange::new(X + 0x1000, X + 0x2000));
    assert_eq!(files, [(at(0x1000), 0x1000)]);
    assert_eq!(space.remove(AddrRange::new(X + 0x1000, X + 0x2000)), 0x1000);
    assert_eq!(space.remove_from_file(at(0x1000), 0x1000), 0x1000);
    assert_eq!(super::tests::at(&space, Y), Found::Nothing);
    assert_eq!(
        super::tests::at(&space, Y + 0x1000),
        Found::Owed(PageNo(101))
    );
    assert_eq!(super::tests::at(&space, X), Found::Owed(PageNo(0)));
    assert_eq!(
        space.remove_from_file(
            FileAt {
                file: (1, 8),
                offset: 0
            },
            LEN
        ),
        0
    );
}
