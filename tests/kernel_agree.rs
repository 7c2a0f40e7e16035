//! Agreeing with the kernel on features, and what the descriptor does before and after.

mod support;

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use support::plot::{PAGE, Plot, call, word};
use support::uffd::{Scene, Turn, agreed, number, poll, queue};
use support::{Target, play_role};
use uffd_restore::uffd::{Features, ReadError, new_for_this_process};

#[test]
fn role() {
    play_role(&[("signalled", signalled)]);
}

/// A number beyond all features that any kernel has today.
const UNKNOWN: Features = Features::from_bits(1 << 40);

#[test]
fn features_that_the_kernel_lacks_are_refused_and_the_descriptor_may_ask_again() {
    let uffd = new_for_this_process().expect("a userfaultfd");
    assert_eq!(uffd.agree(UNKNOWN), Err(Errno::EINVAL));
    let had = uffd.agree(Features::EVENTS).expect("asks for less");
    assert!(had.has(Features::EVENTS.and(Features::THREAD_ID)));
    assert!(!had.has(UNKNOWN));
}

#[test]
fn the_kernel_tells_all_it_has_whatever_is_asked_for() {
    let all = Features::of_this_kernel().expect("features");
    let some = new_for_this_process()
        .expect("a userfaultfd")
        .agree(Features::THREAD_ID);
    assert_eq!(some, Ok(all));
    assert_eq!(
        new_for_this_process()
            .expect("a userfaultfd")
            .agree(all.common(Features::EVENTS)),
        Ok(all)
    );
}

#[test]
fn an_agreement_holds_for_good() {
    let uffd = agreed(Features::EVENTS);
    let before = queue(&uffd).api;
    assert_eq!(uffd.agree(Features::EVENTS), Err(Errno::EINVAL));
    assert_eq!(uffd.agree(Features::default()), Err(Errno::EINVAL));
    assert_eq!(queue(&uffd).api, before);
}

/// A userfaultfd with every bit that the first header of these events had, the last of which was to tell about exits.
fn all_of_the_first_header() -> (uffd_restore::uffd::Userfaultfd, Plot) {
    let uffd = agreed(Features::from_bits(0xff));
    let plot = Plot::with(1);
    uffd.register(plot.range(0, 1)).expect("register");
    (uffd, plot)
}

fn signalled(_: &[&str]) {
    let (_uffd, plot) = all_of_the_first_header();
    plot.read(0);
}

#[test]
fn bit_7_is_accepted_and_turns_every_message_into_a_signal() {
    let _turn = Turn::take();
    let mut target = Target::start("signalled", "");
    assert_eq!(target.end().signal(), Some(libc::SIGBUS));

    let (uffd, plot) = all_of_the_first_header();
    let (_reads, writes) = nix::unistd::pipe().expect("pipe");
    let result = call(libc::SYS_write, &[number(&writes), plot.at(0).0, 8]);
    assert_eq!(result, Err(Errno::EFAULT), "and system calls into errors");
    assert_eq!(poll(&uffd, 0), 0, "nobody is asked for the page");
}

#[test]
fn before_the_agreement_there_is_nothing_to_read_or_to_wait_for() {
    let uffd = new_for_this_process().expect("a userfaultfd");
    assert_eq!(poll(&uffd, 0), libc::POLLERR);
    let got = uffd.read(&mut Vec::new());
    assert_eq!(got, Err(ReadError::Other(Errno::EINVAL)));
}

#[test]
fn a_blocking_descriptor_cannot_be_polled() {
    let scene = Scene::with(1);
    assert_eq!(poll(&scene.uffd, 0), 0);
    let reader = scene.reader(0);
    assert_eq!(poll(&scene.uffd, 0), libc::POLLIN);
    let set = |flags| fcntl(scene.uffd.as_fd(), FcntlArg::F_SETFL(flags)).expect("flags");
    set(OFlag::empty());
    assert_eq!(
        poll(&scene.uffd, 0),
        libc::POLLERR,
        "with a message or without"
    );
    set(OFlag::O_NONBLOCK);
    assert_eq!(poll(&scene.uffd, 0), libc::POLLIN);
    scene.fill(0, 1);
    assert_eq!(reader.result(), 1);
}

#[test]
fn read_wants_room_for_a_message_and_does_not_wait_for_one() {
    let scene = Scene::with(1);
    let room = Plot::with(1);
    let read = |bytes| call(libc::SYS_read, &[number(&scene.uffd), room.at(0).0, bytes]);
    assert_eq!(read(31), Err(Errno::EINVAL));
    assert_eq!(read(32), Err(Errno::EAGAIN));
    assert_eq!(scene.uffd.read(&mut Vec::new()), Ok(0), "which is no error");
    let reader = scene.reader(0);
    assert_eq!(read(31), Err(Errno::EINVAL), "nothing is taken then");
    assert_eq!(read(PAGE), Ok(32));
    scene.fill(0, 1);
    reader.result();
}

#[test]
fn the_descriptor_is_made_for_serving() {
    let uffd = agreed(Features::EVENTS);
    let (file, own) = support::uffd::flags(&uffd);
    assert!(file.contains(OFlag::O_NONBLOCK));
    assert_eq!(word(own), word(libc::FD_CLOEXEC));
}
