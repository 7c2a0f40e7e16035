//! How memory is given up: madvise(2), munmap(2) and what else takes it away.

mod support;

use nix::errno::Errno;
use support::uffd::{Scene, batch, event, fault, pages, removed, unmapped, waiting};
use uffd_restore::uffd::{Event, Message, Outcome, Stop};

/// The events that a call raises, each of which is queued when the one before has been read.
fn raised<T: Send + 'static>(
    scene: &Scene,
    act: impl FnOnce(support::plot::Plot) -> T + Send + 'static,
    expected: &[Event],
) -> T {
    let call = scene.caller(act);
    for (index, expected) in expected.iter().enumerate() {
        assert_eq!(event(&scene.uffd), *expected, "event {index}");
    }
    let result = call.result();
    assert_eq!(waiting(&scene.uffd), [], "no more");
    result
}

#[test]
fn each_way_to_drop_pages_is_told() {
    for advice in [
        libc::MADV_DONTNEED,
        libc::MADV_DONTNEED_LOCKED,
        libc::MADV_FREE,
    ] {
        let scene = Scene::filled(4);
        let expected = [removed(scene.plot, 1, 2)];
        let result = raised(&scene, move |plot| plot.advise(1, 2, advice), &expected);
        assert_eq!(result, Ok(0), "advice {advice}");
        assert_eq!([0, 3].map(|page| scene.plot.read(page)), [100, 103]);
        if advice != libc::MADV_FREE {
            assert_eq!(scene.plot.present(1), Some(false));
        }
    }
}

#[test]
fn each_mapping_of_the_range_is_told_by_itself_in_whole_pages() {
    let scene = Scene::filled(6);
    scene.plot.private(6, 2);
    scene.plot.protect(2, 2, libc::PROT_READ);
    let plot = scene.plot;
    let discard = move |plot: support::plot::Plot| {
        let length = 6 * support::plot::PAGE + 1;
        let arguments = [
            plot.at(1).0,
            length,
            support::plot::word(libc::MADV_DONTNEED),
        ];
        support::plot::call(libc::SYS_madvise, &arguments)
    };
    let expected = [
        removed(plot, 1, 1),
        removed(plot, 2, 2),
        removed(plot, 4, 2),
    ];
    assert_eq!(
        raised(&scene, discard, &expected),
        Ok(0),
        "pages 6 and 7 are nobody's"
    );
}

/// Dropped private memory is zero from then on, and stays registered.
#[test]
fn dropped_pages_ask_again_and_are_owed_zeros() {
    let scene = Scene::filled(2);
    raised(
        &scene,
        |plot| plot.discard(0, 1),
        &[removed(scene.plot, 0, 1)],
    );
    let reader = scene.reader(0);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(0));
    scene.zero(0);
    assert_eq!((reader.result(), scene.plot.read(1)), (0, 101));
}

/// Unlike moves and unmaps, which are done when they are told.
#[test]
fn pages_are_dropped_only_after_that_was_told() {
    let scene = Scene::filled(2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    assert_eq!(scene.plot.read(0), 100, "still there");
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    assert_eq!(scene.plot.present(0), Some(false));

    let unmap = scene.caller(|plot| plot.unmap(1, 1));
    assert_eq!(scene.plot.present(1), None, "already gone");
    assert_eq!(event(&scene.uffd), unmapped(scene.plot, 1, 1));
    unmap.result();
}

/// The kernel refuses the copy while the event waits, and no longer when it has been read: whoever repeats it then, without
/// applying the event first, brings back what the target gave up.
#[test]
fn a_copy_refused_for_an_event_succeeds_blindly_after_the_read_with_stale_data() {
    let scene = Scene::with(2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    let stale = || scene.copy(0, &[7]);
    assert_eq!(stale(), Outcome::stopped(Stop::Changing));
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    assert_eq!(stale(), pages(1));
    assert_eq!(scene.plot.read(0), 7, "the target expects 0");
}

/// Nothing is told, the page asks again, and is zero.
#[test]
fn a_guard_drops_pages_without_a_word() {
    const MADV_GUARD_INSTALL: i32 = 102;
    const MADV_GUARD_REMOVE: i32 = 103;
    let scene = Scene::filled(3);
    match scene.plot.advise(0, 2, MADV_GUARD_INSTALL) {
        Err(Errno::EINVAL) => {
            println!("SKIPPED: guards came with Linux 6.13");
            return;
        }
        result => assert_eq!(result, Ok(0)),
    }
    assert_eq!(waiting(&scene.uffd), []);
    let range = scene.plot.range(0, 1);
    assert_eq!(
        scene.uffd.zero(range),
        Outcome::stopped(Stop::Present),
        "a marker is in the way of zeros"
    );
    assert_eq!(
        scene.copy(0, &[7]),
        pages(1),
        "and not of a copy, which undoes the guard"
    );
    assert_eq!(scene.plot.read(0), 7);
    scene.plot.advise(0, 2, MADV_GUARD_REMOVE).expect("madvise");
    assert_eq!(waiting(&scene.uffd), []);
    let reader = scene.reader(1);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(1));
    scene.zero(1);
    assert_eq!(reader.result(), 0);
}

#[test]
fn an_unmap_is_told_once_with_the_range_of_the_call() {
    let scene = Scene::filled(2);
    let plot = scene.plot;
    plot.private(4, 2);
    plot.private(8, 4);
    scene.register(8, 2);
    // Two registered mappings, a hole, memory that is not registered, and half of a mapping.
    raised(&scene, |plot| plot.unmap(1, 8), &[unmapped(plot, 1, 8)]);
    assert_eq!(
        [0, 1, 4, 8].map(|page| plot.present(page).is_some()),
        [true, false, false, false]
    );
    assert_eq!(
        (scene.probe(9), scene.probe(10)),
        (None, Some(Stop::Unmapped))
    );
    plot.unmap(10, 2);
    assert_eq!(waiting(&scene.uffd), [], "nothing registered, nothing told");
}

#[test]
fn a_new_mapping_over_registered_memory_is_told_as_an_unmap_and_is_not_registered() {
    let scene = Scene::filled(4);
    raised(
        &scene,
        |plot| plot.private(1, 2),
        &[unmapped(scene.plot, 1, 2)],
    );
    assert_eq!(
        [0, 1, 2, 3].map(|page| scene.probe(page)),
        [None, Some(Stop::Unmapped), Some(Stop::Unmapped), None]
    );
    assert_eq!(
        [0, 1, 2, 3].map(|page| scene.plot.read(page)),
        [100, 0, 0, 103]
    );
}

#[test]
fn a_new_mapping_next_to_registered_memory_is_not_registered() {
    let scene = Scene::filled(2);
    scene.plot.private(2, 2);
    assert_eq!(scene.probe(2), Some(Stop::Unmapped));
    assert_eq!(scene.plot.read(2), 0);
}

#[test]
fn changes_of_rights_and_advice_are_not_told() {
    let scene = Scene::filled(6);
    scene.plot.protect(1, 1, libc::PROT_READ);
    scene
        .plot
        .advise(3, 1, libc::MADV_DONTDUMP)
        .expect("madvise");
    assert_eq!(waiting(&scene.uffd), []);
    for page in 0..6 {
        assert_eq!(scene.probe(page), None);
    }
    assert_eq!(
        scene.uffd.zero(scene.plot.range(0, 2)),
        Outcome::stopped(Stop::Unmapped),
        "but make more mappings of one"
    );
}

/// An event never cuts a copy that is under way: it is done, all of it, before the pages are dropped, or refused.
#[test]
fn a_copy_is_done_or_refused_and_an_event_comes_before_or_after_it() {
    const PAGES: u64 = 64;
    let numbers = [7; 64];
    let (mut done, mut refused) = (0, 0);
    for _ in 0..100 {
        let scene = Scene::with(PAGES);
        let plot = scene.plot;
        let discard = support::uffd::Worker::start(move || plot.discard(0, PAGES));
        match scene.copy(0, &numbers) {
            Outcome { stop: None, .. } => done += 1,
            outcome => {
                assert_eq!(outcome, Outcome::stopped(Stop::Changing));
                refused += 1;
            }
        }
        assert_eq!(
            batch(&scene.uffd),
            [Message::Event(removed(plot, 0, PAGES))]
        );
        discard.result();
        assert_eq!(plot.present(0), Some(false));
    }
    println!("{done} done, {refused} refused");
}
