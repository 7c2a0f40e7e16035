//! In which order changes of one address space are told when several threads make them, and when it is settled.

mod support;

use support::plot::PAGE;
use support::uffd::{NOWHERE, Scene, Worker, event, moved, removed, unmapped, waiting};
use support::wait_until;
use uffd_restore::uffd::{Event, Stop};

/// That many events, in the order in which they come.
fn next(scene: &Scene, count: usize) -> Vec<Event> {
    (0..count).map(|_| event(&scene.uffd)).collect()
}

/// The later events of moves, whose order among several threads is anything.
fn tails(scene: &Scene, expected: &[Event]) {
    let mut rest = next(scene, expected.len());
    for event in expected {
        let position = rest.iter().position(|other| other == event);
        rest.remove(position.unwrap_or_else(|| panic!("no {event:?} among {rest:?}")));
    }
}

fn finish<const N: usize>(workers: [Worker<()>; N]) {
    workers.into_iter().for_each(Worker::result);
}

/// A call that raises several events queues each when the one before has been read, behind what others queued meanwhile.
#[test]
fn events_of_one_call_come_one_at_a_time() {
    let scene = Scene::filled(12);
    let plot = scene.plot;
    let shift = scene.caller(|plot| plot.shift(0, 2, 8));
    let between = scene.caller(|plot| plot.discard(4, 1));
    assert_eq!(
        next(&scene, 3),
        [
            unmapped(plot, 8, 2),
            removed(plot, 4, 1),
            moved(plot, 0, 8, 2)
        ]
    );
    assert_eq!(event(&scene.uffd), unmapped(plot, 0, 2));
    shift.result();
    between.result();
    assert_eq!(waiting(&scene.uffd), []);
}

/// The kernel counts a call from before it changes anything until its last event has been read: in between, also after the
/// first of two events, no install succeeds and a probe says so.
#[test]
fn the_address_space_is_settled_only_when_every_event_of_every_call_has_been_read() {
    let scene = Scene::with(16);
    let changing = || {
        assert_eq!(scene.uffd.probe(NOWHERE, PAGE), Some(Stop::Changing));
        assert_eq!(scene.copy(4, &[1]).stop, Some(Stop::Changing));
        assert_eq!(
            scene.uffd.zero(scene.plot.range(4, 1)).stop,
            Some(Stop::Changing)
        );
    };
    let shift = scene.caller(|plot| plot.shift(0, 2, 20));
    let discard = scene.caller(|plot| plot.discard(8, 1));
    changing();
    assert_eq!(
        next(&scene, 2),
        [moved(scene.plot, 0, 20, 2), removed(scene.plot, 8, 1)]
    );
    // This thread told by the read goes on; the other one waits with its second event.
    discard.result();
    changing();
    shift.stands_still();
    changing();
    assert_eq!(event(&scene.uffd), unmapped(scene.plot, 0, 2));
    shift.result();
    assert_eq!(scene.uffd.probe(NOWHERE, PAGE), Some(Stop::Unmapped));
    scene.fill(4, 1);
}

/// Between reading the last event and the thread going on the kernel may still refuse; that ends by itself.
#[test]
fn a_change_ends_soon_after_its_last_event_was_read() {
    let scene = Scene::with(4);
    for _ in 0..50 {
        let discard = scene.caller(|plot| plot.discard(0, 1));
        assert_eq!(scene.probe(1), Some(Stop::Changing));
        assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
        wait_until("the change to end", || scene.probe(1).is_none());
        discard.result();
    }
}

/// X moves to Y, and Z to X, before anything is read. That X was unmapped is told last, when it is Z's content that is
/// there: applied as if it were new it would lose live memory.
#[test]
fn the_unmap_of_a_move_may_come_after_other_memory_has_moved_there() {
    let scene = Scene::filled(6);
    let plot = scene.plot;
    let (x, z, y) = (0, 4, 10);
    let first = scene.caller(move |plot| plot.shift(x, 2, y));
    let second = scene.caller(move |plot| plot.shift(z, 2, x));
    assert_eq!(
        next(&scene, 2),
        [moved(plot, x, y, 2), moved(plot, z, x, 2)]
    );
    tails(&scene, &[unmapped(plot, x, 2), unmapped(plot, z, 2)]);
    finish([first, second]);
    assert_eq!(
        (plot.read(x), plot.read(y), plot.present(z)),
        (104, 100, None)
    );
    assert_eq!(scene.probe(x), None, "alive and registered");
}

/// A move over registered memory waits for its first event before it queues its second. A move that is made later, of what
/// just arrived, is told before it.
#[test]
fn a_later_move_may_be_told_before_an_earlier_one() {
    let scene = Scene::filled(6);
    let plot = scene.plot;
    let (x, z, y) = (0, 4, 10);
    let first = scene.caller(move |plot| plot.shift(z, 2, x));
    let second = scene.caller(move |plot| plot.shift(x, 2, y));
    assert_eq!(
        next(&scene, 2),
        [unmapped(plot, x, 2), moved(plot, x, y, 2)]
    );
    tails(
        &scene,
        &[
            moved(plot, z, x, 2),
            unmapped(plot, x, 2),
            unmapped(plot, z, 2),
        ],
    );
    finish([first, second]);
    assert_eq!(
        (plot.read(y), plot.present(x), plot.present(z)),
        (104, None, None)
    );
}

#[test]
fn an_unmap_and_a_move_to_its_place_are_told_in_order() {
    let scene = Scene::filled(6);
    let plot = scene.plot;
    let unmap = scene.caller(|plot| plot.unmap(0, 2));
    let shift = scene.caller(|plot| plot.shift(4, 2, 0));
    assert_eq!(
        next(&scene, 2),
        [unmapped(plot, 0, 2), moved(plot, 4, 0, 2)]
    );
    assert_eq!(event(&scene.uffd), unmapped(plot, 4, 2));
    finish([unmap, shift]);
    assert_eq!(plot.read(0), 104);
}

/// The lock of the address space is not held while an event waits to be read.
#[test]
fn others_go_on_while_an_event_waits() {
    let scene = Scene::filled(4);
    let unmap = scene.caller(|plot| plot.unmap(0, 1));
    scene.plot.private(8, 2);
    scene.plot.write(8, 1);
    scene.plot.protect(1, 1, libc::PROT_READ);
    assert!(std::fs::read_to_string("/proc/self/maps").is_ok());
    let reader = Worker::start({
        let plot = scene.plot;
        move || plot.read(2)
    });
    assert_eq!(reader.result(), 102);
    unmap.stands_still();
    assert_eq!(event(&scene.uffd), unmapped(scene.plot, 0, 1));
    unmap.result();
}

#[test]
fn waking_and_registering_work_while_an_event_waits() {
    let scene = Scene::with(2);
    scene.plot.private(8, 2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    scene.register(8, 2);
    scene
        .uffd
        .unregister(scene.plot.range(8, 2))
        .expect("unregister");
    scene.uffd.wake(scene.plot.range(0, 2)).expect("wake");
    discard.stands_still();
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
}

#[test]
fn no_ordinary_signal_ends_the_waiting_for_an_event_to_be_read() {
    let scene = Scene::with(2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    discard.nudge();
    discard.stands_still();
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    assert_eq!(waiting(&scene.uffd), []);
}
