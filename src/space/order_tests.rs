//! Events that come late, by example. `tests/model` found them, in schedules at random.

use super::tests::{LEN, X, Y, Z, at, range, remap, space};
use super::*;

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
    space.remap(remap(Z, X));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(100)));
    assert_eq!(space.owes(), LEN);
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
fn a_tail_that_never_comes_swallows_nothing_later() {
    let mut space = space();
    space.remap(remap(X, Y)); // MREMAP_DONTUNMAP
    space.quiescent();
    assert_eq!(space.kind_at(Addr(X)), Some(Kind::PRIVATE), "left behind");
    space.unmap(range(X));
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    space.unmap(range(X));
    assert_eq!(at(&space, X), Found::Nothing);
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
fn a_child_forked_in_the_middle_of_a_move() {
    let mut parent = space();
    parent.unmap(range(X));
    let mut child = parent.fork(None);
    assert_eq!(parent.half_told(), [range(X)]);
    assert_eq!(child.half_told(), [range(X)]);
    let (_, place) = parent.remap(remap(Z, X));
    assert!(parent.half_told().is_empty());
    let place = place.expect("it took place before the fork");
    assert!(place.is_before(child.now()));
    child.took_place_at(place, remap(Z, X));
    assert_eq!(at(&child, X), Found::Owed(PageNo(100)));
}

#[test]
fn a_move_to_where_something_was_that_has_left_in_silence() {
    let mut space = space();
    space.register(range(Y), Kind::PRIVATE);
    // What is told of X→Y (onto Y), Z→X.
    space.unmap(range(Y));
    space.remap(remap(Z, X));
    space.remap(remap(X, Y));
    space.unmap(range(Z));
    space.unmap(range(X));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
    assert_eq!(space.owes(), 2 * LEN);
}

#[test]
fn an_unmap_of_a_place_that_something_has_left_in_silence() {
    let mut space = space();
    // What is told of Z→X (onto X), and of munmap(2) of a range that Z was in, with other memory.
    space.register(range(Z - LEN), Kind::PRIVATE);
    space.unmap(range(X));
    space.unmap(AddrRange::new(Z - LEN, Z + LEN));
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn pages_dropped_from_what_has_come_in_silence() {
    let mut space = space();
    space.unmap(range(X));
    space.remove(AddrRange::new(X, X + 0x1000));
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    assert_eq!(at(&space, X), Found::Nothing);
    assert_eq!(at(&space, X + 0x1000), Found::Owed(PageNo(101)));
}

#[test]
fn two_moves_that_were_both_overtaken() {
    let mut space = space();
    space.register(range(Y), Kind::PRIVATE);
    let away = |from| remap(from, 0x40_0000);
    // What is told of Z→X (onto X), X→Y (onto Y), and of Y moving away.
    space.unmap(range(X));
    space.unmap(range(Y));
    space.remap(away(Y));
    space.remap(remap(Z, X));
    space.unmap(range(Y));
    space.remap(remap(X, Y));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, 0x40_0000), Found::Owed(PageNo(100)));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn an_unmap_and_a_later_move_are_two_calls() {
    let mut space = space();
    // munmap(X); V→Z when Z has gone; then Z→X, which is not onto anything.
    let v = 0x50_0000;
    space.register(range(v), Kind::PRIVATE);
    space.owe(range(v), PageNo(200));
    space.unmap(range(X));
    space.unmap(range(Z));
    space.remap(remap(v, Z));
    space.remap(remap(Z, X));
    assert_eq!(at(&space, X), Found::Owed(PageNo(200)));
    // munmap(Y) of nothing owed, pages of X dropped, X→Y.
    space.quiescent();
    space.register(range(Y), Kind::PRIVATE);
    space.unmap(range(Y));
    space.remove(range(X));
    space.remap(remap(X, Y));
    assert_eq!(at(&space, Y), Found::Nothing);
}

#[test]
fn what_a_shorter_move_cuts_off_is_told_late() {
    let mut space = space();
    // X→Y with two pages less, Z→X; the cut is told when Z is there.
    space.remap(Remap {
        len: LEN - 0x2000,
        ..remap(X, Y)
    });
    space.remap(remap(Z, X));
    space.unmap(AddrRange::new(X + 0x2000, X + LEN));
    space.unmap(AddrRange::new(X, X + 0x2000));
    assert_eq!(at(&space, X + 0x3000), Found::Owed(PageNo(103)));
}

#[test]
fn the_first_word_of_a_move_that_looks_like_the_last_of_another() {
    let mut space = space();
    let w = 0x40_0000;
    space.register(range(w), Kind::PRIVATE);
    space.owe(range(w), PageNo(200));
    space.remap(remap(X, Y)); // MREMAP_DONTUNMAP
    space.unmap(range(X)); // the first word of Z→X
    space.remap(remap(w, Z));
    space.remap(remap(Z, X));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Z), Found::Owed(PageNo(200)));
}

#[test]
fn what_was_moved_before_the_fork_is_wiped_all_the_same() {
    let mut parent = space();
    let wiped = Kind {
        wiped_on_fork: true,
        ..Kind::PRIVATE
    };
    parent.register(range(Z), wiped);
    parent.register(range(Z - LEN), Kind::PRIVATE);
    parent.unmap(range(X));
    parent.unmap(AddrRange::new(Z - LEN, Z + LEN));
    let mut child = parent.fork(None);
    let (_, place) = parent.remap(remap(Z, X));
    child.took_place_at(place.expect("it took place before the fork"), remap(Z, X));
    assert_eq!(at(&child, X), Found::Nothing);
    assert_eq!(at(&parent, X), Found::Owed(PageNo(100)));
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
fn a_move_overtaken_by_one_of_what_it_moves_onto() {
    let mut space = space();
    // Z→X (onto X), X→Y; the second one's first word comes first.
    space.remap(remap(X, Y));
    space.unmap(range(X));
    space.remap(remap(Z, X));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert!(space.is_in_doubt());
    space.settle_doubts();
    assert!(!space.is_in_doubt());
    assert_eq!(at(&space, Y), Found::Owed(PageNo(100)));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn what_has_moved_to_a_place_is_unmapped_there() {
    let mut space = space();
    // X→Y, Z→X, munmap(X), by one thread.
    space.remap(remap(X, Y));
    space.unmap(range(X));
    space.remap(remap(Z, X));
    space.unmap(range(Z));
    space.unmap(range(X));
    assert!(!space.is_in_doubt());
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
    assert_eq!(space.owes(), LEN);
}

#[test]
fn a_move_overtaken_by_one_to_where_it_left() {
    let mut space = space();
    // X→Y, Z→X: the kernel chose the place for the second one, which comes first.
    space.remap(remap(Z, X));
    space.remap(remap(X, Y));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, X), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
    // The same onto other memory.
    let w = 0x40_0000;
    space.quiescent();
    space.register(range(w), Kind::PRIVATE);
    space.register(range(Z), Kind::PRIVATE);
    space.owe(range(Z), PageNo(200));
    space.remap(remap(Z, X));
    space.unmap(range(w));
    space.remap(remap(X, w));
    space.unmap(range(X));
    space.unmap(range(Z));
    assert_eq!(at(&space, X), Found::Owed(PageNo(200)));
    assert_eq!(at(&space, w), Found::Owed(PageNo(100)));
}

/// X has grown in silence, to twice its length, and moves to Y as it was before. Z moves to where its second half was. What is told last
/// of X is its second half, or somebody has unmapped what came from Z.
fn what_grew_is_cut_off_when_something_has_come_there() -> AddressSpace {
    let mut space = space();
    space.remap(remap(X, Y));
    space.remap(remap(Z, X + LEN));
    space.unmap(range(Z));
    space.unmap(range(X + LEN));
    space.unmap(range(X));
    assert!(space.is_in_doubt());
    let doubtful = space.perhaps_unmapped();
    assert_eq!(doubtful, Some((range(X + LEN), Kind::PRIVATE)));
    space
}

#[test]
fn what_has_come_to_where_memory_grew_is_still_there() {
    let mut space = what_grew_is_cut_off_when_something_has_come_there();
    assert_eq!(space.is_there(range(X + LEN), true), 0);
    space.quiescent();
    assert!(!space.is_in_doubt());
    assert_eq!(at(&space, X + LEN), Found::Owed(PageNo(100)));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
}

#[test]
fn what_has_come_beside_memory_that_moves_may_be_unmapped_at_once() {
    let mut space = what_grew_is_cut_off_when_something_has_come_there();
    assert_eq!(space.is_there(range(X + LEN), false), LEN);
    space.quiescent();
    assert_eq!(at(&space, X + LEN), Found::Nothing);
    assert_eq!(at(&space, Y), Found::Owed(PageNo(0)));
}

#[test]
fn what_moves_on_was_there() {
    let mut space = what_grew_is_cut_off_when_something_has_come_there();
    space.remap(remap(X + LEN, Z));
    assert!(!space.is_in_doubt());
    assert_eq!(at(&space, Z), Found::Owed(PageNo(100)));
}

#[test]
fn what_has_moved_on_was_not_cut_off() {
    let mut space = space();
    // Beside X. It moves to Y while X moves elsewhere; Z comes there and is unmapped again.
    space.register(range(X + LEN), Kind::PRIVATE);
    space.owe(range(X + LEN), PageNo(50));
    space.remap(remap(X, 0x90_0000));
    space.remap(remap(X + LEN, Y));
    space.unmap(range(X + LEN));
    space.remap(remap(Z, X + LEN));
    space.unmap(range(Z));
    space.unmap(range(X + LEN));
    assert_eq!(at(&space, Y), Found::Owed(PageNo(50)));
    assert_eq!(at(&space, X + LEN), Found::Nothing);
}
