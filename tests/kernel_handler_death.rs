//! What becomes of a target whose handler goes away, and what another handler finds.

mod support;

use std::os::fd::{AsFd, AsRawFd};

use nix::fcntl::{FcntlArg, fcntl};
use support::child::{fork, fork_here, fork_with};
use support::plot::{PAGE, Plot, call};
use support::uffd::{
    Scene, Turn, agreed, content, event, fault, forked, number, own, queue, removed, waiting,
};
use support::wait_until;
use uffd_restore::uffd::{Features, Message, Stop, Userfaultfd, abi};

fn dup(uffd: &Userfaultfd) -> Userfaultfd {
    own(fcntl(uffd.as_fd(), FcntlArg::F_DUPFD_CLOEXEC(0)).expect("dup"))
}

/// What must never happen to memory that is owed.
#[test]
fn the_last_close_turns_missing_pages_into_zeros_without_a_word() {
    let scene = Scene::filled(2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    event(&scene.uffd);
    discard.result();
    let reader = scene.reader(0);
    drop(scene.uffd);
    assert_eq!(reader.result(), 0);
    assert_eq!(scene.plot.read(1), 101);
}

#[test]
fn a_close_when_nothing_is_owed_is_harmless() {
    let scene = Scene::filled(3);
    drop(scene.uffd);
    assert_eq!([0, 1, 2].map(|page| scene.plot.read(page)), [100, 101, 102]);
    scene.plot.discard(0, 1);
    assert_eq!(
        scene.plot.read(0),
        0,
        "and nobody is told anything any more"
    );
}

/// As long as the userfaultfd is open anywhere, threads wait, and messages that nobody read wait with them.
#[test]
fn another_descriptor_of_the_same_userfaultfd_keeps_everything() {
    let mut scene = Scene::filled(3);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    let second = dup(&scene.uffd);
    drop(std::mem::replace(&mut scene.uffd, second));
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    let reader = scene.reader(0);
    let third = dup(&scene.uffd);
    drop(std::mem::replace(&mut scene.uffd, third));
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(0));
    scene.zero(0);
    assert_eq!(reader.result(), 0);
}

/// A fault that a handler read before it died is not told to the next one, except after a wake.
#[test]
fn a_fault_read_and_not_served_is_found_again_by_waking() {
    let scene = Scene::with(1);
    let reader = scene.reader(0);
    let first = fault(&scene.uffd);
    let next = dup(&scene.uffd);
    assert_eq!(waiting(&next), []);
    let left = queue(&next);
    assert_eq!((left.unread, left.total), (0, 1), "as fdinfo shows");
    next.wake(scene.plot.range(0, 1)).expect("wake");
    assert_eq!(fault(&next), first);
    scene.fill(0, 3);
    assert_eq!(reader.result(), 3);
}

#[test]
fn a_child_depends_on_its_own_userfaultfd_and_not_on_its_parents() {
    let scene = Scene::with(1);
    let plot = scene.plot;
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    let childs = forked(&scene.uffd);
    let child = fork.result();
    fault(&childs);
    drop(childs);
    assert_eq!(child.code(), Some(0));
    assert_eq!(scene.probe(0), None);
}

#[test]
fn a_close_lets_a_fork_that_waits_go_on_with_a_child_that_nobody_serves() {
    let scene = Scene::with(1);
    let plot = scene.plot;
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    fork.stands_still();
    drop(scene.uffd);
    assert_eq!(fork.result().code(), Some(0));
}

#[test]
fn a_handler_that_does_not_ask_for_forks_leaves_children_with_zeros() {
    let _turn = Turn::take();
    let uffd = agreed(Features::THREAD_ID);
    let plot = Plot::with(1);
    uffd.register(plot.range(0, 1)).expect("register");
    let child = fork_here(|| i32::try_from(plot.read(0)).expect("small"));
    assert_eq!(child.code(), Some(0));
    assert_eq!(
        uffd.probe(plot.at(0), PAGE),
        None,
        "its parent is owed the page"
    );
}

/// The kernel writes the message before it forgets it: in memory that others share, it outlives the reader.
#[test]
fn a_message_read_into_shared_memory_outlives_its_reader() {
    let _turn = Turn::take();
    let uffd = agreed(Features::from_bits(abi::UFFD_FEATURE_EVENT_REMOVE));
    let (plot, journal) = (Plot::with(1), Plot::new());
    journal.shared(0, 1);
    uffd.register(plot.range(0, 1)).expect("register");
    let discard = support::uffd::Worker::start(move || plot.discard(0, 1));
    discard.stands_still();
    let from = number(&uffd);
    let handler = fork_with(0, || {
        let got = call(libc::SYS_read, &[from, journal.at(0).0, PAGE]);
        journal.write(0, journal.read(0) | u64::from(got == Ok(32)) << 8);
        loop {
            std::thread::yield_now();
        }
    });
    wait_until("the read", || journal.read(0) == 0x115);
    handler.kill();
    discard.result();
    let range = plot.range(0, 1);
    assert_eq!(
        (journal.nth(0, 1), journal.nth(0, 2)),
        (range.start.0, range.end.0)
    );
    assert_eq!(waiting(&uffd), [], "it is told once");
}

/// A child's userfaultfd is installed in the table of the process that reads. If another process shares that table (and
/// nothing else), it has the descriptor at once, and keeps it when the reader is killed.
#[test]
fn a_childs_userfaultfd_outlives_its_reader_where_the_descriptor_table_is_shared() {
    let scene = Scene::empty();
    let (plot, journal) = (scene.plot, Plot::new());
    journal.shared(0, 2);
    plot.private(0, 1);
    let from = number(&scene.uffd);
    // Before anything is registered, so that its own birth is no event.
    let handler = fork_with(libc::CLONE_FILES, || {
        while journal.read(1) == 0 {
            std::thread::yield_now();
        }
        let got = call(libc::SYS_read, &[from, journal.at(0).0, PAGE]);
        journal.write(1, 1 + u64::from(got == Ok(32)));
        loop {
            std::thread::yield_now();
        }
    });
    scene.register(0, 1);
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    fork.stands_still();
    journal.write(1, 1);
    wait_until("the read", || journal.read(1) == 2);
    handler.kill();
    let child = fork.result();
    assert_eq!(journal.read(0), u64::from(abi::UFFD_EVENT_FORK));
    let descriptor = u32::try_from(journal.nth(0, 1)).expect("a descriptor");
    let childs = own(i32::try_from(descriptor).expect("a descriptor"));
    assert_ne!(childs.as_fd().as_raw_fd(), scene.uffd.as_fd().as_raw_fd());
    assert_eq!(fault(&childs).address, plot.at(0));
    assert_eq!(childs.copy(plot.at(0), &content(&[77])).stop, None);
    assert_eq!(child.code(), Some(77));
    assert_eq!(childs.probe(plot.at(0), PAGE), Some(Stop::Gone));
}

/// Without that, it dies with the reader, and the child is served by nobody.
#[test]
fn a_childs_userfaultfd_dies_with_a_reader_that_has_its_own_descriptor_table() {
    let scene = Scene::empty();
    let (plot, journal) = (scene.plot, Plot::new());
    journal.shared(0, 2);
    plot.private(0, 1);
    let from = number(&scene.uffd);
    let handler = fork_with(0, || {
        while journal.read(1) == 0 {
            std::thread::yield_now();
        }
        let got = call(libc::SYS_read, &[from, journal.at(0).0, PAGE]);
        i32::from(got != Ok(32))
    });
    scene.register(0, 1);
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    fork.stands_still();
    journal.write(1, 1);
    assert_eq!(handler.code(), Some(0));
    assert_eq!(fork.result().code(), Some(0), "it reads zeros");
    let left = waiting(&scene.uffd);
    assert_eq!(left, [] as [Message; 0], "nothing tells");
    assert_eq!(scene.probe(0), None, "though its parent is still served");
}
