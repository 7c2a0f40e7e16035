//! The rules by example. Schedules at random are in `tests/model`.

use super::*;

const X: u64 = 0x10_0000;
const Y: u64 = 0x20_0000;
const Z: u64 = 0x30_0000;
const LEN: u64 = 0x4000;
const ALL: AddrRange = AddrRange::new(0, u64::MAX);

fn range(start: u64) -> AddrRange {
    AddrRange::new(start, start + LEN)
}

fn remap(from: u64, to: u64) -> Remap {
    Remap {
        from: Addr(from),
        to: Addr(to),
        len: LEN,
    }
}

/// X owes pages 0 to 3, Z pages 100 to 103.
fn space() -> AddressSpace {
    let mut space = AddressSpace::new();
    for (start, page) in [(X, 0), (Z, 100)] {
        space.register(range(start), Kind::PRIVATE);
        space.owe(range(start), PageNo(page));
    }
    space
}

fn at(space: &AddressSpace, address: u64) -> Found {
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
fn a_late_unmap_does_not_hit_what_has_moved_there() {
    let mut space = space();
    space.remap(remap(X, Y));
    space.remap(remap(Z, X));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
}

#[test]
fn a_move_that_overtook_another_waits_for_it() {
    let mut space = space();
    // What is told of Z→X (onto X), X→Y.
    space.unmap(range(X));
    space.remap(remap(X, Y));
    assert!(space.wants_quiescence());
    space.remap(remap(Z, X));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(100)));
    assert_eq!(space.owes(), LEN);
    assert!(!space.wants_quiescence());
}

#[test]
fn the_tail_of_a_waiting_move_may_come_first() {
    let mut space = space();
    space.unmap(range(X));
    space.remap(remap(X, Y));
    space.unmap(range(X));
    space.remap(remap(Z, X));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(100)));
    space.unmap(range(Z));
    space.remap(remap(Y, X));
    space.unmap(range(Y));
    space.unmap(range(X));
    assert_eq!(space.owes(), 0, "the munmap at the end is a real one");
}

#[test]
fn what_waits_when_all_is_told_was_nothing() {
    let mut space = space();
    // Memory that nobody knows of moves, and much later something else moves to where it was.
    space.remap(remap(0x90_0000, Y));
    space.quiescent();
    space.remap(remap(Z, 0x90_0000));
    assert_eq!(at(&space, 0x90_0000), Found::Owed(PageNo(100)));
}

#[test]
fn a_tail_that_never_comes_swallows_nothing_later() {
    let mut space = space();
    space.remap(remap(X, Y)); // MREMAP_DONTUNMAP
    space.quiescent();
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    space.unmap(range(X));
    assert_eq!(at(&space, X), Found::Nothing);
}

#[test]
fn what_was_left_behind_moves_as_nothing() {
    let mut space = space();
    space.remap(remap(X, Y)); // MREMAP_DONTUNMAP
    // Swapped with Z, by way of a place that was free.
    space.remap(remap(X, 0x90_0000));
    space.unmap(range(X));
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    space.remap(remap(0x90_0000, Z));
    space.unmap(range(0x90_0000));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
    assert_eq!(space.owes(), 2 * LEN);
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
    let mut child = parent.fork();
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
fn a_child_forked_in_the_middle_of_a_move() {
    let mut parent = space();
    parent.unmap(range(X));
    let mut child = parent.fork();
    assert_eq!(parent.half_told(), [range(X)]);
    parent.remap(remap(Z, X));
    assert!(parent.half_told().is_empty());
    child.echo(remap(Z, X));
    assert_eq!(at(&child, X), Found::Owed(PageNo(100)));
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
    let child = space.fork();
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
    space.alias(Addr(X), Addr(Y));
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
