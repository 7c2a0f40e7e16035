//! What mremap(2) tells, and what it leaves registered.

mod support;

use nix::errno::Errno;
use support::uffd::{Scene, event, fault, moved, unmapped, waiting};
use support::wait_until;
use uffd_restore::uffd::{Event, Stop};

const MISSING: Option<bool> = Some(false);

/// Of the first 24 pages of the plot these are registered, from and up to, and no others.
fn registered(scene: &Scene, expected: &[(u64, u64)]) {
    for page in 0..24 {
        let should = expected.iter().any(|&(from, to)| from <= page && page < to);
        let probe = scene.probe(page);
        assert_eq!(probe.is_none(), should, "page {page}: {probe:?}");
    }
}

/// The events that a call raises, each of which is queued when the one before has been read.
fn raised(
    scene: &Scene,
    act: impl FnOnce(support::plot::Plot) -> Result<u64, Errno> + Send + 'static,
    expected: &[Event],
) {
    let call = scene.caller(act);
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(event(&scene.uffd), *expected, "event {index}");
    }
    call.result().expect("mremap");
    assert_eq!(waiting(&scene.uffd), [], "no more");
}

#[test]
fn a_move_tells_where_to_and_then_that_the_old_place_is_gone() {
    let scene = Scene::with(4);
    scene.fill(1, 7);
    raised(
        &scene,
        |plot| plot.remap(0, 4, 4, 8, 0),
        &[moved(scene.plot, 0, 8, 4), unmapped(scene.plot, 0, 4)],
    );
    registered(&scene, &[(8, 12)]);
    assert_eq!((scene.plot.read(9), scene.plot.present(8)), (7, MISSING));
    assert_eq!(scene.plot.present(0), None);
}

#[test]
fn a_move_of_a_part_leaves_the_rest() {
    let scene = Scene::filled(4);
    raised(
        &scene,
        |plot| plot.remap(1, 2, 2, 9, 0),
        &[moved(scene.plot, 1, 9, 2), unmapped(scene.plot, 1, 2)],
    );
    registered(&scene, &[(0, 1), (3, 4), (9, 11)]);
    assert_eq!(
        [0, 3, 9, 10].map(|page| scene.plot.read(page)),
        [100, 103, 101, 102]
    );
}

/// Nobody is told how far a mapping reaches now; its new pages ask, and are owed zeros.
#[test]
fn growth_in_place_is_not_told_and_is_registered() {
    let scene = Scene::filled(2);
    scene.plot.resize(0, 2, 4).expect("nothing to wait for");
    assert_eq!(waiting(&scene.uffd), []);
    registered(&scene, &[(0, 4)]);
    let reader = scene.reader(3);
    scene.zero(3);
    assert_eq!(reader.result(), 0);
}

#[test]
fn a_move_with_growth_tells_the_old_length() {
    let scene = Scene::filled(2);
    raised(
        &scene,
        |plot| plot.remap(0, 2, 5, 8, 0),
        &[moved(scene.plot, 0, 8, 2), unmapped(scene.plot, 0, 2)],
    );
    registered(&scene, &[(8, 13)]);
    assert_eq!(scene.plot.present(12), MISSING);
}

#[test]
fn shrinking_is_an_unmap_of_the_tail() {
    let scene = Scene::filled(4);
    raised(
        &scene,
        |plot| plot.resize(0, 4, 1),
        &[unmapped(scene.plot, 1, 3)],
    );
    registered(&scene, &[(0, 1)]);
}

#[test]
fn a_move_that_shrinks_tells_the_tail_by_itself() {
    let scene = Scene::filled(4);
    raised(
        &scene,
        |plot| plot.remap(0, 4, 3, 8, 0),
        &[
            moved(scene.plot, 0, 8, 3),
            unmapped(scene.plot, 3, 1),
            unmapped(scene.plot, 0, 3),
        ],
    );
    registered(&scene, &[(8, 11)]);
}

#[test]
fn a_move_over_registered_memory_tells_first_that_it_is_gone() {
    let scene = Scene::filled(12);
    raised(
        &scene,
        |plot| plot.remap(0, 2, 2, 8, 0),
        &[
            unmapped(scene.plot, 8, 2),
            moved(scene.plot, 0, 8, 2),
            unmapped(scene.plot, 0, 2),
        ],
    );
    registered(&scene, &[(2, 12)]);
    assert_eq!(
        [8, 9, 10].map(|page| scene.plot.read(page)),
        [100, 101, 110]
    );
}

#[test]
fn a_move_over_other_memory_tells_nothing_of_it_and_registers_the_place() {
    let scene = Scene::filled(2);
    scene.plot.private(8, 4);
    raised(
        &scene,
        |plot| plot.remap(0, 2, 2, 8, 0),
        &[moved(scene.plot, 0, 8, 2), unmapped(scene.plot, 0, 2)],
    );
    registered(&scene, &[(8, 10)]);
}

#[test]
fn other_memory_moved_over_registered_memory_takes_its_registration_away() {
    let scene = Scene::filled(4);
    scene.plot.private(8, 2);
    scene.plot.write(8, 5);
    raised(
        &scene,
        |plot| plot.remap(8, 2, 2, 1, 0),
        &[unmapped(scene.plot, 1, 2)],
    );
    registered(&scene, &[(0, 1), (3, 4)]);
    assert_eq!([0, 1, 3].map(|page| scene.plot.read(page)), [100, 5, 103]);
}

#[test]
fn a_move_that_leaves_the_old_place_mapped_leaves_it_registered_and_owed_zeros() {
    let scene = Scene::filled(2);
    raised(
        &scene,
        |plot| plot.remap(0, 2, 2, 8, libc::MREMAP_DONTUNMAP),
        &[moved(scene.plot, 0, 8, 2)],
    );
    registered(&scene, &[(0, 2), (8, 10)]);
    assert_eq!([8, 9].map(|page| scene.plot.read(page)), [100, 101]);
    assert_eq!(scene.plot.present(0), MISSING);
    let reader = scene.reader(0);
    scene.zero(0);
    assert_eq!(reader.result(), 0);
}

#[test]
fn a_second_mapping_of_shared_memory_is_a_move_of_no_bytes() {
    let scene = Scene::empty();
    scene.plot.shared(0, 3);
    scene.register(0, 3);
    scene.fill(1, 7);
    raised(
        &scene,
        |plot| plot.remap(0, 0, 3, 8, 0),
        &[moved(scene.plot, 0, 8, 0)],
    );
    registered(&scene, &[(0, 3), (8, 11)]);
    assert_eq!((scene.plot.read(9), scene.plot.read(1)), (7, 7));
}

#[test]
fn a_call_that_fails_moves_and_tells_nothing() {
    let scene = Scene::filled(4);
    assert_eq!(
        scene.plot.remap(0, 4, 4, 2, 0),
        Err(Errno::EINVAL),
        "onto itself"
    );
    assert_eq!(
        scene.plot.remap(16, 1, 1, 20, 0),
        Err(Errno::EFAULT),
        "nothing there"
    );
    assert_eq!(waiting(&scene.uffd), []);
    registered(&scene, &[(0, 4)]);
}

/// By the time a move can be read it is done: the page is owed at the new place, the old one is gone.
#[test]
fn a_move_is_done_before_it_is_told() {
    let scene = Scene::with(2);
    let reader = scene.reader(1);
    let shift = scene.caller(|plot| plot.shift(0, 2, 8));
    assert_eq!(
        (scene.plot.present(0), scene.plot.present(8)),
        (None, MISSING)
    );
    assert_eq!(scene.probe(0), Some(Stop::Changing));
    // Who waited for a page at the old place waits there until something wakes it, and then finds nothing: a wrong program.
    drop(reader);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(1));
    assert_eq!(event(&scene.uffd), moved(scene.plot, 0, 8, 2));
    assert_eq!(event(&scene.uffd), unmapped(scene.plot, 0, 2));
    shift.result();
    wait_until("the layout to be settled", || scene.probe(8).is_none());
    scene.plot.private(0, 2);
    scene.uffd.wake(scene.plot.range(0, 2)).expect("wake");
}
