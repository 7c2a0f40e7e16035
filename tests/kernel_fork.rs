//! fork(2): what the child has, and what is told of it.

mod support;

use std::os::fd::AsFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::child::{Child, fork};
use support::plot::{PAGE, Plot, call};
use support::uffd::{
    NOWHERE, Scene, Worker, adopt, batch, event, fault, flags, forked, moved, own, poll, queue,
    removed, unmapped, waiting,
};
use support::wait_until;
use uffd_restore::uffd::{Event, Features, Message, Outcome, ReadError, Stop, Userfaultfd};

/// Memory that is shared with children and never registered.
fn board() -> Plot {
    let board = Plot::new();
    board.shared(0, 1);
    board
}

/// In a child: waits until the board says a number.
fn await_number(board: Plot, number: u64) {
    while board.read(0) != number {
        std::thread::yield_now();
    }
}

/// A child that reads a page when the board says `when`, and ends with its number.
fn reading_child(scene: &Scene, board: Plot, page: u64) -> Worker<Child> {
    let plot = scene.plot;
    let fork = fork(move || {
        await_number(board, 1);
        i32::try_from(plot.read(page)).expect("small")
    });
    fork.stands_still();
    fork
}

fn copy(uffd: &Userfaultfd, plot: Plot, page: u64, number: u64) -> Outcome {
    uffd.copy(plot.at(page), &support::uffd::content(&[number]))
}

#[test]
fn a_fork_waits_until_it_is_read_and_there_is_no_child_before() {
    let scene = Scene::with(2);
    let fork = fork(|| 5);
    fork.stands_still();
    let children = std::fs::read_to_string(format!("/proc/self/task/{}/children", fork.tid));
    assert_eq!(children.expect("children"), "");
    let reader = scene.reader(0);
    assert_eq!(
        scene.copy(0, &[1]).stop,
        Some(Stop::Changing),
        "everything waits for it"
    );
    assert_eq!(
        scene.uffd.zero(scene.plot.range(1, 1)),
        Outcome::stopped(Stop::Changing)
    );
    scene.uffd.wake(scene.plot.range(1, 1)).expect("but wakes");
    fork.stands_still();
    let messages = batch(&scene.uffd);
    assert!(matches!(messages[0], Message::Fault(_)), "{messages:?}");
    let [_, Message::Event(event)] = messages[..] else {
        panic!("{messages:?}")
    };
    let _child = adopt(event);
    let child = fork.result();
    assert_eq!(child.code(), Some(5));
    scene.fill(0, 1);
    assert_eq!(reader.result(), 1);
}

#[test]
fn the_child_has_a_userfaultfd_like_its_parent_open_in_the_reader() {
    let scene = Scene::with(2);
    scene.plot.private(8, 1);
    let fork = reading_child(&scene, board(), 1);
    let child = forked(&scene.uffd);
    assert_eq!(queue(&child).api, queue(&scene.uffd).api);
    assert_eq!(flags(&child), flags(&scene.uffd));
    assert!(flags(&child).0.contains(OFlag::O_NONBLOCK));
    drop(fork.result());
    drop(child);
    let fork = reading_child(&scene, board(), 1);
    let child = forked(&scene.uffd);
    let running = fork.result();
    let probe = |page| child.probe(scene.plot.at(page), PAGE);
    assert_eq!([0, 1, 8].map(probe), [None, None, Some(Stop::Unmapped)]);
    drop(running);
    wait_until("the child to be gone", || {
        child.probe(NOWHERE, PAGE) == Some(Stop::Gone)
    });
}

/// Set when the first userfaultfd is made, not later.
#[test]
fn the_flags_of_the_childs_descriptor_are_those_its_parents_was_made_with() {
    let scene = Scene::empty();
    let made = call(libc::SYS_userfaultfd, &[0]).expect("root may");
    let blocking = own(i32::try_from(made).expect("a descriptor"));
    blocking.agree(Features::EVENTS).expect("features");
    fcntl(blocking.as_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("flags");
    scene.plot.private(0, 1);
    blocking.register(scene.plot.range(0, 1)).expect("register");
    let fork = fork(|| 0);
    let child = forked(&blocking);
    fork.result().code();
    assert!(!flags(&child).0.contains(OFlag::O_NONBLOCK));
    assert_eq!(flags(&child).1, 0, "nor is it closed on exec");
    assert_eq!(poll(&child, 0), libc::POLLERR);
}

#[test]
fn the_child_has_the_pages_that_were_there_and_is_owed_the_others_by_itself() {
    let scene = Scene::with(3);
    let (plot, board) = (scene.plot, board());
    scene.fill(0, 7);
    plot.write(0, 8);
    let fork = fork(move || {
        await_number(board, 1);
        let sum = plot.read(0) + plot.read(1);
        plot.write(0, 1);
        i32::try_from(sum).expect("small")
    });
    let childs = forked(&scene.uffd);
    let child = fork.result();
    plot.write(0, 9);
    scene.fill(1, 50);
    assert_eq!(copy(&childs, plot, 0, 9), Outcome::stopped(Stop::Present));
    board.write(0, 1);
    assert_eq!(fault(&childs).address, plot.at(1));
    assert_eq!(waiting(&scene.uffd), [], "its parent is not asked");
    assert_eq!(copy(&childs, plot, 1, 60).stop, None);
    assert_eq!(
        child.code(),
        Some(68),
        "8 of the time of the fork, and its own 60"
    );
    assert_eq!((plot.read(0), plot.read(1)), (9, 50));
}

#[test]
fn a_fault_that_waits_is_not_the_childs() {
    let scene = Scene::with(1);
    let reader = scene.reader(0);
    let fork = fork(|| 0);
    fork.stands_still();
    let messages = batch(&scene.uffd);
    let [Message::Fault(_), Message::Event(event)] = messages[..] else {
        panic!("{messages:?}")
    };
    let child = adopt(event);
    fork.result().code();
    assert_eq!(queue(&child).total, 0);
    assert_eq!(queue(&scene.uffd).total, 1);
    scene.fill(0, 4);
    assert_eq!(reader.result(), 4);
}

#[test]
fn what_the_child_does_is_told_by_its_own_and_so_are_its_children() {
    let scene = Scene::with(4);
    let plot = scene.plot;
    let fork = fork(move || {
        plot.discard(0, 1);
        plot.shift(2, 1, 8);
        support::child::fork_here(move || i32::try_from(plot.read(1)).expect("small"))
            .code()
            .expect("a code")
    });
    let childs = forked(&scene.uffd);
    let child = fork.result();
    assert_eq!(event(&childs), removed(plot, 0, 1));
    assert_eq!(event(&childs), moved(plot, 2, 8, 1));
    assert_eq!(event(&childs), unmapped(plot, 2, 1));
    let grandchilds = forked(&childs);
    assert_eq!(fault(&grandchilds).address, plot.at(1));
    assert_eq!(copy(&grandchilds, plot, 1, 33).stop, None);
    assert_eq!(child.code(), Some(33));
    assert_eq!(waiting(&scene.uffd), []);
    assert_eq!(scene.probe(2), None);
}

/// No message tells: the range is registered, and whatever the snapshot has for it is not the child's.
#[test]
fn memory_wiped_on_fork_is_registered_in_the_child_and_empty() {
    let scene = Scene::filled(2);
    scene
        .plot
        .advise(0, 1, libc::MADV_WIPEONFORK)
        .expect("madvise");
    let board = board();
    let fork = reading_child(&scene, board, 0);
    let childs = forked(&scene.uffd);
    let child = fork.result();
    board.write(0, 1);
    assert_eq!(fault(&childs).address, scene.plot.at(0));
    assert_eq!(
        copy(&childs, scene.plot, 1, 1),
        Outcome::stopped(Stop::Present),
        "its neighbour is a copy"
    );
    assert_eq!(childs.zero(scene.plot.range(0, 1)).stop, None);
    assert_eq!(child.code(), Some(0));
    assert_eq!(scene.plot.read(0), 100);
}

#[test]
fn memory_kept_from_children_is_not_there() {
    let scene = Scene::filled(2);
    scene
        .plot
        .advise(0, 1, libc::MADV_DONTFORK)
        .expect("madvise");
    let fork = reading_child(&scene, board(), 1);
    let childs = forked(&scene.uffd);
    let _child = fork.result();
    assert_eq!(
        copy(&childs, scene.plot, 0, 1),
        Outcome::stopped(Stop::Unmapped)
    );
    assert_eq!(childs.probe(scene.plot.at(1), PAGE), None);
}

#[test]
fn a_fork_without_registered_memory_is_not_told() {
    let scene = Scene::empty();
    scene.plot.private(0, 1);
    assert_eq!(fork(|| 3).result().code(), Some(3));
    assert_eq!(waiting(&scene.uffd), []);
}

#[test]
fn a_signal_does_not_interrupt_a_fork_that_waits() {
    let scene = Scene::with(1);
    let fork = fork(|| 6);
    fork.stands_still();
    fork.nudge();
    let pending = || {
        let status = std::fs::read_to_string(format!("/proc/self/task/{}/status", fork.tid));
        let status = status.expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("SigPnd:"));
        u64::from_str_radix(line.expect("SigPnd").trim(), 16).expect("a number")
    };
    assert_ne!(pending(), 0, "the signal waits as well");
    fork.stands_still();
    let _childs = forked(&scene.uffd);
    assert_eq!(fork.result().code(), Some(6));
    assert_eq!(waiting(&scene.uffd), [], "told once");
}

/// No descriptor is left for the child's userfaultfd. The FORK waits, everything waits for it, and later events overtake
/// it.
#[test]
fn a_reader_without_a_free_descriptor_gets_the_fork_after_younger_events() {
    let scene = Scene::with(2);
    let plot = scene.plot;
    let fork = fork(|| 0);
    fork.stands_still();
    let discard = scene.caller(|plot| plot.discard(0, 1));
    let (before, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    let free = fcntl(scene.uffd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(0)).expect("dup");
    drop(own(free));
    setrlimit(
        Resource::RLIMIT_NOFILE,
        u64::from(free.unsigned_abs()),
        most,
    )
    .expect("limit");
    let mut messages = Vec::new();
    let first = scene.uffd.read(&mut messages);
    let refused = scene.probe(1);
    let second = scene.uffd.read(&mut messages);
    let third = scene.uffd.read(&mut messages);
    setrlimit(Resource::RLIMIT_NOFILE, before, most).expect("limit");
    let none = Err(ReadError::NoDescriptor(nix::errno::Errno::EMFILE));
    assert_eq!((first, refused), (none, Some(Stop::Changing)));
    assert_eq!((second, third), (Ok(1), none));
    assert_eq!(messages, [Message::Event(removed(plot, 0, 1))]);
    discard.result();
    fork.stands_still();
    let _childs = forked(&scene.uffd);
    assert_eq!(fork.result().code(), Some(0));
}

/// A move over registered memory is told in three events. A fork between the first and the second is told before the
/// move, but the child has its result: memory moved without its own userfaultfd ever saying so.
#[test]
fn a_fork_may_be_told_before_a_move_that_the_child_has_already() {
    let scene = Scene::with(12);
    let (plot, board) = (scene.plot, board());
    let shift = scene.caller(|plot| plot.shift(0, 2, 8));
    let fork = reading_child(&scene, board, 8);
    let (first, second) = (event(&scene.uffd), event(&scene.uffd));
    assert_eq!(first, unmapped(plot, 8, 2));
    assert!(matches!(second, Event::Fork { .. }));
    let childs = adopt(second);
    let child = fork.result();
    let probe = |page| childs.probe(plot.at(page), PAGE);
    assert_eq!((probe(0), probe(8)), (Some(Stop::Unmapped), None));
    assert_eq!(event(&scene.uffd), moved(plot, 0, 8, 2));
    assert_eq!(event(&scene.uffd), unmapped(plot, 0, 2));
    shift.result();
    assert_eq!(waiting(&childs), [], "nothing was said to the child's");
    assert_eq!(copy(&childs, plot, 8, 9).stop, None);
    board.write(0, 1);
    assert_eq!(child.code(), Some(9));
}

/// A plain move is told in the order in which it is done.
#[test]
fn a_fork_after_a_plain_move_is_told_after_it() {
    let scene = Scene::with(4);
    let plot = scene.plot;
    let shift = scene.caller(|plot| plot.shift(0, 2, 8));
    let fork = fork(|| 0);
    fork.stands_still();
    let (first, second) = (event(&scene.uffd), event(&scene.uffd));
    assert_eq!(first, moved(plot, 0, 8, 2));
    let childs = adopt(second);
    assert_eq!(event(&scene.uffd), unmapped(plot, 0, 2));
    shift.result();
    fork.result().code();
    assert_eq!(
        waiting(&childs),
        [],
        "the rest of the move is not the child's"
    );
}
