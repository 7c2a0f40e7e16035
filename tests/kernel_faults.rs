//! How faults are told, one thread or many, of the program or of the kernel on its behalf.

mod support;

use nix::errno::Errno;
use support::plot::{Plot, call};
use support::uffd::{Scene, Worker, batch, fault, number, queue, removed, waiting};
use support::wait_until;
use uffd_restore::addr::Addr;
use uffd_restore::uffd::{Fault, Message, Userfaultfd};

/// The next messages, which must be faults.
fn faults(uffd: &Userfaultfd) -> Vec<Fault> {
    let fault = |message| match message {
        Message::Fault(fault) => fault,
        other => panic!("not a fault: {other:?}"),
    };
    batch(uffd).into_iter().map(fault).collect()
}

#[test]
fn a_fault_says_page_and_thread_and_whether_it_writes() {
    let scene = Scene::with(4);
    let plot = scene.plot;
    let reader = scene.reader(1);
    let read = fault(&scene.uffd);
    assert_eq!(
        read,
        Fault {
            address: plot.at(1),
            thread: reader.thread_id(),
            ..Fault::default()
        }
    );
    let writer = Worker::start(move || plot.write(3, 5));
    let write = fault(&scene.uffd);
    assert_eq!(
        write,
        Fault {
            address: plot.at(3),
            thread: writer.thread_id(),
            write: true,
            ..Fault::default()
        }
    );
    scene.fill(1, 6);
    scene.fill(3, 7);
    assert_eq!(reader.result(), 6);
    writer.result();
    assert_eq!(plot.read(3), 5);
}

#[test]
fn the_address_of_a_fault_is_that_of_its_page() {
    let (_reads, writes) = nix::unistd::pipe().expect("pipe");
    let scene = Scene::with(1);
    let inside = scene.plot.at(0).0 + 0x123;
    let pipe = number(&writes);
    let writer = Worker::start(move || call(libc::SYS_write, &[pipe, inside, 1]));
    assert_eq!(fault(&scene.uffd).address, Addr(inside - 0x123));
    scene.fill(0, 1);
    assert_eq!(writer.result(), Ok(1));
}

/// The messages of threads that no longer wait are never read: an empty read after a poll that promised one is no error.
#[test]
fn one_copy_serves_all_who_wait_for_a_page_and_takes_their_unread_messages_back() {
    let scene = Scene::with(1);
    let readers = [scene.reader(0), scene.reader(0), scene.reader(0)];
    let mut told: Vec<u32> = faults(&scene.uffd)
        .iter()
        .map(|fault| fault.thread)
        .collect();
    let mut threads: Vec<u32> = readers.iter().map(Worker::thread_id).collect();
    told.sort_unstable();
    threads.sort_unstable();
    assert_eq!(told, threads, "a message for each");
    let late = [scene.reader(0), scene.reader(0)];
    assert_eq!(
        (queue(&scene.uffd).unread, queue(&scene.uffd).total),
        (2, 5)
    );
    assert_eq!(support::uffd::poll(&scene.uffd, 0), libc::POLLIN);
    scene.fill(0, 9);
    for reader in readers.into_iter().chain(late) {
        assert_eq!(reader.result(), 9);
    }
    assert_eq!(scene.uffd.read(&mut Vec::new()), Ok(0));
    assert_eq!(support::uffd::poll(&scene.uffd, 0), 0);
}

#[test]
fn one_read_returns_as_many_messages_as_fit() {
    let scene = Scene::with(4);
    let readers: Vec<_> = (0..4).map(|page| scene.reader(page)).collect();
    let room = Plot::with(1);
    let read = |bytes| call(libc::SYS_read, &[number(&scene.uffd), room.at(0).0, bytes]);
    assert_eq!(read(70), Ok(64));
    assert_eq!(waiting(&scene.uffd).len(), 2);
    assert_eq!(scene.copy(0, &[1, 2, 3, 4]).stop, None);
    let got: Vec<_> = readers.into_iter().map(Worker::result).collect();
    assert_eq!(got, [1, 2, 3, 4]);
}

#[test]
fn a_read_returns_faults_before_events_that_are_older() {
    let scene = Scene::with(2);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    let reader = scene.reader(1);
    let messages = batch(&scene.uffd);
    assert!(matches!(messages[0], Message::Fault(fault) if fault.address == scene.plot.at(1)));
    assert_eq!(messages[1..], [Message::Event(removed(scene.plot, 0, 1))]);
    discard.result();
    scene.fill(1, 3);
    assert_eq!(reader.result(), 3);
}

#[test]
fn each_message_goes_to_one_of_several_readers() {
    let scene = Scene::with(64);
    let readers: Vec<_> = (0..64).map(|page| scene.reader(page)).collect();
    let take = || {
        let mut taken = Vec::new();
        let room = Plot::with(1);
        while call(libc::SYS_read, &[number(&scene.uffd), room.at(0).0, 32]) == Ok(32) {
            taken.push(room.nth(0, 2));
        }
        taken
    };
    let mut all = std::thread::scope(|scope| {
        let helpers = [scope.spawn(take), scope.spawn(take)];
        let mut all = Vec::new();
        for helper in helpers {
            all.extend(helper.join().expect("took"));
        }
        all
    });
    all.sort_unstable();
    let expected: Vec<u64> = (0..64).map(|page| scene.plot.at(page).0).collect();
    assert_eq!(all, expected);
    assert_eq!(scene.uffd.zero(scene.plot.range(0, 64)).stop, None);
    readers
        .into_iter()
        .map(Worker::result)
        .for_each(|number| assert_eq!(number, 0));
}

/// Not the program but the kernel reads or writes the page; it is all the same.
#[test]
fn system_calls_wait_for_pages() {
    let (from, to) = nix::unistd::pipe().expect("pipe");
    let scene = Scene::with(3);
    let plot = scene.plot;
    let (reads, writes) = (number(&from), number(&to));
    let write = scene.toucher(move |plot| call(libc::SYS_write, &[writes, plot.at(0).0, 8]));
    assert!(!fault(&scene.uffd).write);
    scene.fill(0, 5);
    assert_eq!(write.result(), Ok(8));
    let read = scene.toucher(move |plot| call(libc::SYS_read, &[reads, plot.at(1).0, 8]));
    assert!(fault(&scene.uffd).write);
    scene.fill(1, 6);
    assert_eq!(read.result(), Ok(8));
    assert_eq!(plot.read(1), 5);
    let futex = scene.toucher(|plot| call(libc::SYS_futex, &[plot.at(2).0, 0, 1234, 0]));
    assert_eq!(fault(&scene.uffd).address, plot.at(2));
    scene.fill(2, 7);
    assert_eq!(
        futex.result(),
        Err(Errno::EAGAIN),
        "the word is not the one expected"
    );
}

#[test]
fn populating_asks_for_page_after_page() {
    for advice in [libc::MADV_POPULATE_READ, libc::MADV_POPULATE_WRITE] {
        let scene = Scene::with(3);
        let populate = scene.toucher(move |plot| plot.advise(0, 3, advice));
        for page in 0..3 {
            let fault = fault(&scene.uffd);
            assert_eq!(fault.address, scene.plot.at(page));
            assert_eq!(fault.write, advice == libc::MADV_POPULATE_WRITE);
            populate.stands_still();
            scene.fill(page, page);
        }
        assert_eq!(populate.result(), Ok(0));
    }
}

#[test]
fn read_ahead_and_residency_ask_for_nothing() {
    let scene = Scene::with(2);
    scene
        .plot
        .advise(0, 2, libc::MADV_WILLNEED)
        .expect("madvise");
    assert_eq!(scene.plot.present(0), Some(false));
    assert_eq!(waiting(&scene.uffd), []);
}

/// The handler of the signal runs; then the thread asks again for the same page.
#[test]
fn a_signal_interrupts_a_fault_of_the_program_which_is_told_again() {
    let scene = Scene::with(1);
    let reader = scene.reader(0);
    let first = fault(&scene.uffd);
    reader.nudge();
    assert_eq!(fault(&scene.uffd), first);
    assert_eq!(queue(&scene.uffd).total, 1, "it is one thread");
    scene.fill(0, 5);
    assert_eq!(reader.result(), 5);
}

/// The kernel can neither go on nor return: it asks over and over until the page is there.
#[test]
fn a_fault_of_the_kernel_with_a_signal_pending_is_told_over_and_over() {
    let (_reads, writes) = nix::unistd::pipe().expect("pipe");
    let scene = Scene::with(1);
    let pipe = number(&writes);
    let write = scene.toucher(move |plot| call(libc::SYS_write, &[pipe, plot.at(0).0, 8]));
    let first = fault(&scene.uffd);
    write.nudge();
    let mut told = 0;
    while told < 100 {
        // One that is being replaced may be gone before it can be read.
        for again in faults(&scene.uffd) {
            assert_eq!(again, first);
            told += 1;
        }
    }
    scene.fill(0, 5);
    assert_eq!(write.result(), Ok(8));
    assert_eq!(waiting(&scene.uffd), []);
}

/// The word at which a thread's end is told (by which pthread_join knows it) is cleared by the kernel, which gives up where
/// the page is missing and asks nobody: such pages must be there before a target runs.
#[test]
fn the_end_of_a_thread_is_not_told_in_a_missing_page() {
    let scene = Scene::with(2);
    scene.fill(1, 77);
    for page in [0, 1] {
        let plot = scene.plot;
        let thread = Worker::start(move || {
            call(libc::SYS_set_tid_address, &[plot.at(page).0]).expect("set");
        });
        let task = format!("/proc/self/task/{}", thread.tid);
        drop(thread);
        wait_until("the thread to end", || {
            !std::path::Path::new(&task).exists()
        });
    }
    assert_eq!(waiting(&scene.uffd), []);
    assert_eq!(scene.plot.read(1), 0, "told in a page that is there");
    scene.fill(0, 77);
    assert_eq!(scene.plot.read(0), 77, "not told in the other one");
}
