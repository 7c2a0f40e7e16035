//! Pages that cannot be served: every access fails, loudly, and none of them is ever zero.

mod support;

use std::os::unix::process::ExitStatusExt;

use nix::errno::Errno;
use support::child::fork;
use support::plot::{PAGE, Plot, call};
use support::uffd::{Scene, content, event, fault, forked, number, pages, removed, waiting};
use support::{Target, play_role};
use uffd_restore::uffd::{Features, Outcome, Stop, Userfaultfd};

#[test]
fn role() {
    play_role(&[("toucher", toucher)]);
}

/// Does this kernel have it? Says so if not.
fn supported() -> bool {
    let has = Features::of_this_kernel()
        .expect("features")
        .has(Features::POISON);
    if !has {
        println!("SKIPPED: UFFDIO_POISON came with Linux 6.6");
    }
    has
}

fn poison(uffd: &Userfaultfd, plot: Plot, page: u64) -> Outcome {
    uffd.poison(plot.range(page, 1))
}

/// Reads a page in a system call, which fails instead of ending this process.
fn read(plot: Plot, page: u64) -> Result<u64, Errno> {
    let (_from, to) = nix::unistd::pipe().expect("pipe");
    call(libc::SYS_write, &[number(&to), plot.at(page).0, 8])
}

fn toucher(_: &[&str]) {
    let plot = Plot::with(1);
    let uffd = support::uffd::telling();
    uffd.register(plot.range(0, 1)).expect("register");
    support::say(&format!("{:#x} {}", plot.at(0).0, number(&uffd)));
    plot.read(0);
}

#[test]
fn who_waits_for_a_page_that_is_then_poisoned_gets_sigbus() {
    if !supported() {
        return;
    }
    let _turn = support::uffd::Turn::take();
    let mut target = Target::start("toucher", "");
    let said = target.hear_numbers();
    let plot = Plot::elsewhere(said[0]);
    let uffd = support::uffd::taken_from(target.pid(), said[1]);
    assert_eq!(fault(&uffd).address, plot.at(0));
    assert_eq!(poison(&uffd, plot, 0), pages(1));
    assert_eq!(target.end().signal(), Some(libc::SIGBUS));
}

#[test]
fn system_calls_fail_on_poisoned_pages() {
    if !supported() {
        return;
    }
    let ends = nix::unistd::pipe().expect("pipe");
    let scene = Scene::with(2);
    let pipe = number(&ends.1);
    let write = scene.toucher(move |plot| call(libc::SYS_write, &[pipe, plot.at(0).0, 8]));
    assert_eq!(scene.uffd.poison(scene.plot.range(0, 2)), pages(2));
    assert_eq!(write.result(), Err(Errno::EFAULT), "who waited");
    assert_eq!(read(scene.plot, 1), Err(Errno::EFAULT), "who comes later");
    assert_eq!(waiting(&scene.uffd).len(), 0);
}

#[test]
fn a_present_page_cannot_be_poisoned() {
    if !supported() {
        return;
    }
    let scene = Scene::filled(1);
    assert_eq!(
        poison(&scene.uffd, scene.plot, 0),
        Outcome::stopped(Stop::Present)
    );
    assert_eq!(scene.plot.read(0), 100);
}

/// A page that turns up after all heals the place; zeros do not.
#[test]
fn a_copy_replaces_poison_and_zeros_do_not() {
    if !supported() {
        return;
    }
    let scene = Scene::with(1);
    assert_eq!(poison(&scene.uffd, scene.plot, 0), pages(1));
    assert_eq!(
        poison(&scene.uffd, scene.plot, 0),
        Outcome::stopped(Stop::Present)
    );
    let range = scene.plot.range(0, 1);
    assert_eq!(scene.uffd.zero(range), Outcome::stopped(Stop::Present));
    assert_eq!(read(scene.plot, 0), Err(Errno::EFAULT), "still");
    assert_eq!(scene.probe(0), None, "a copy can be made");
    assert_eq!(
        read(scene.plot, 0),
        Err(Errno::EFAULT),
        "but a probe makes none"
    );
    scene.fill(0, 7);
    assert_eq!(scene.plot.read(0), 7);
}

#[test]
fn dropping_a_poisoned_page_clears_it() {
    if !supported() {
        return;
    }
    let scene = Scene::with(1);
    assert_eq!(poison(&scene.uffd, scene.plot, 0), pages(1));
    let discard = scene.caller(|plot| plot.discard(0, 1));
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    let reader = scene.reader(0);
    fault(&scene.uffd);
    scene.zero(0);
    assert_eq!(reader.result(), 0);
}

#[test]
fn children_inherit_poison() {
    if !supported() {
        return;
    }
    let scene = Scene::with(2);
    let plot = scene.plot;
    assert_eq!(poison(&scene.uffd, plot, 0), pages(1));
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    let childs = forked(&scene.uffd);
    assert_eq!(fork.result().status().signal(), Some(libc::SIGBUS));
    assert_eq!(waiting(&childs), []);
    scene.fill(0, 7);
    assert_eq!(plot.read(0), 7, "its parent's page can be healed");
}

#[test]
fn shared_memory_can_be_poisoned_for_one_process() {
    if !supported() {
        return;
    }
    let scene = Scene::empty();
    scene.plot.shared(0, 1);
    assert!(scene.register(0, 1).poison());
    assert_eq!(poison(&scene.uffd, scene.plot, 0), pages(1));
    assert_eq!(read(scene.plot, 0), Err(Errno::EFAULT));
    let healed = scene.uffd.copy(scene.plot.at(0), &content(&[5]));
    assert_eq!(
        (healed.stop, PAGE, scene.plot.read(0)),
        (None, healed.done, 5)
    );
}
