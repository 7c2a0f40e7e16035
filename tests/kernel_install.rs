//! What becomes of an install: copies, zero pages, wakes, and the ways in which they stop.

mod support;

use nix::errno::Errno;
use support::plot::{PAGE, call};
use support::uffd::{
    NOWHERE, Scene, Worker, batch, content, fault, number, pages, queue, telling, waiting,
};
use support::wait_until;
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::uffd::{Message, Outcome, Stop};

#[test]
fn a_copy_over_a_present_page_is_refused_and_keeps_what_is_there() {
    let scene = Scene::with(2);
    scene.fill(0, 7);
    assert_eq!(scene.copy(0, &[8]), Outcome::stopped(Stop::Present));
    assert_eq!(scene.plot.read(0), 7);
    scene.plot.write(0, 9);
    assert_eq!(scene.copy(0, &[8, 8]), Outcome::stopped(Stop::Present));
    assert_eq!(scene.plot.read(0), 9);
    assert_eq!(scene.plot.present(1), Some(false), "a batch stops there");
}

#[test]
fn a_batch_stops_before_a_present_page_and_does_not_say_why() {
    let scene = Scene::with(5);
    scene.fill(2, 7);
    let stopped = scene.copy(0, &[1, 2, 3, 4, 5]);
    let partial = Outcome {
        done: 2 * PAGE,
        stop: Some(Stop::Partial),
    };
    assert_eq!(stopped, partial);
    assert_eq!(
        scene.copy(2, &[3]),
        Outcome::stopped(Stop::Present),
        "asked again, it does"
    );
    assert_eq!(scene.copy(3, &[4, 5]), pages(2));
    let numbers: Vec<u64> = (0..5).map(|page| scene.plot.read(page)).collect();
    assert_eq!(numbers, [1, 2, 7, 4, 5]);
}

#[test]
fn zero_pages_stop_as_copies_do() {
    let scene = Scene::with(4);
    scene.fill(2, 7);
    let range = scene.plot.range(0, 4);
    let partial = Outcome {
        done: 2 * PAGE,
        stop: Some(Stop::Partial),
    };
    assert_eq!(scene.uffd.zero(range), partial);
    assert_eq!(
        scene.uffd.zero(scene.plot.range(2, 1)),
        Outcome::stopped(Stop::Present)
    );
    assert_eq!([0, 1, 2].map(|page| scene.plot.read(page)), [0, 0, 7]);
    assert_eq!(
        scene.copy(0, &[8]),
        Outcome::stopped(Stop::Present),
        "a zero page is a page"
    );
    scene.plot.write(0, 5);
    assert_eq!(scene.plot.read(0), 5, "and is written to without a message");
    assert_eq!(waiting(&scene.uffd), []);
}

#[test]
fn a_batch_that_stopped_wakes_those_of_the_part_that_was_done() {
    let scene = Scene::with(3);
    scene.fill(1, 7);
    let (first, last) = (scene.reader(0), scene.reader(2));
    assert_eq!(scene.copy(0, &[1, 2, 3]).done, PAGE);
    assert_eq!(first.result(), 1);
    assert_eq!(queue(&scene.uffd).total, 1, "the other waits");
    scene.fill(2, 3);
    assert_eq!(last.result(), 3);
}

/// The page came by another way (here: a second mapping of the same memory) and nobody woke those who wait for it. A copy
/// says that the page is there, and leaves it at that.
#[test]
fn a_copy_that_finds_the_page_present_wakes_nobody() {
    let scene = Scene::empty();
    scene.plot.shared(0, 1);
    scene.plot.remap(0, 0, 1, 8, 0).expect("a second mapping");
    scene.register(0, 1);
    let reader = scene.reader(0);
    fault(&scene.uffd);
    scene.plot.write(8, 5);
    assert_eq!(scene.copy(0, &[6]), Outcome::stopped(Stop::Present));
    assert_eq!(queue(&scene.uffd).total, 1, "it still waits");
    scene.uffd.wake(scene.plot.range(0, 1)).expect("wake");
    assert_eq!(reader.result(), 5);
}

#[test]
fn an_install_lies_within_one_registered_mapping() {
    let scene = Scene::empty();
    let plot = scene.plot;
    plot.private(0, 8);
    scene.register(0, 4);
    let unmapped = Outcome::stopped(Stop::Unmapped);
    assert_eq!(
        scene.copy(3, &[1, 2]),
        unmapped,
        "half of it is not registered"
    );
    assert_eq!(scene.copy(4, &[1]), unmapped, "none of it is");
    assert_eq!(scene.copy(9, &[1]), unmapped, "nothing is mapped");
    assert_eq!(scene.uffd.zero(plot.range(3, 2)), unmapped);
    scene.register(4, 4);
    plot.protect(2, 2, libc::PROT_READ);
    assert_eq!(
        scene.copy(1, &[1, 2]),
        unmapped,
        "two mappings, both of them registered"
    );
    for page in 0..8 {
        assert_eq!(plot.present(page), Some(false), "nothing was done");
    }
    assert_eq!(
        (scene.copy(0, &[1, 2]), scene.copy(2, &[3, 4])),
        (pages(2), pages(2))
    );
}

#[test]
fn an_install_is_made_of_whole_pages_of_the_target() {
    let scene = Scene::with(2);
    let wrong = Outcome::stopped(Stop::Other(Errno::EINVAL));
    let page = content(&[7, 8]);
    assert_eq!(
        scene.uffd.copy(Addr(scene.plot.at(0).0 + 8), &page[..4096]),
        wrong
    );
    assert_eq!(scene.uffd.copy(scene.plot.at(0), &page[..4095]), wrong);
    assert_eq!(scene.uffd.copy(scene.plot.at(0), &[]), wrong);
    assert_eq!(scene.uffd.zero(AddrRange::at(scene.plot.at(0), 0)), wrong);
    assert_eq!(scene.uffd.copy(Addr(0xffff_8000_0000_0000), &page), wrong);
    assert_eq!(
        scene
            .uffd
            .copy(scene.plot.at(1), &page[4089..][..4096])
            .stop,
        None,
        "the source need not be"
    );
}

/// As when decoded pages lie in the map of a file: the kernel reads them while it installs.
#[test]
fn the_source_may_be_a_file_that_is_not_in_memory_yet() {
    let scene = Scene::with(1);
    let mut file = tempfile::tempfile().expect("a file");
    std::io::Write::write_all(&mut file, &content(&[7])).expect("write");
    scene.plot.map(
        16,
        1,
        libc::MAP_PRIVATE,
        Some(std::os::fd::AsFd::as_fd(&file)),
    );
    let arguments = &mut [scene.plot.at(0).0, scene.plot.at(16).0, PAGE, 0, 0];
    let place = arguments.as_mut_ptr().expose_provenance() as u64;
    let copy = u64::from(u32::try_from(uffd_restore::uffd::abi::UFFDIO_COPY).expect("a request"));
    assert_eq!(
        call(libc::SYS_ioctl, &[number(&scene.uffd), copy, place]),
        Ok(0)
    );
    assert_eq!(scene.plot.read(0), 7);
}

#[test]
fn memory_without_rights_can_be_filled() {
    let scene = Scene::empty();
    let plot = scene.plot;
    plot.private(0, 2);
    plot.protect(0, 1, libc::PROT_NONE);
    plot.protect(1, 1, libc::PROT_READ);
    scene.register(0, 2);
    scene.fill(0, 7);
    scene.fill(1, 8);
    plot.protect(0, 1, libc::PROT_READ);
    assert_eq!((plot.read(0), plot.read(1)), (7, 8));
}

#[test]
fn a_wake_makes_threads_ask_again() {
    let scene = Scene::with(4);
    let readers = [scene.reader(0), scene.reader(2)];
    let ask = || {
        let mut pages = Vec::new();
        while pages.len() < 2 {
            for message in batch(&scene.uffd) {
                let Message::Fault(fault) = message else {
                    panic!("{message:?}")
                };
                pages.push(fault.address);
            }
        }
        pages.sort();
        pages
    };
    let both = vec![scene.plot.at(0), scene.plot.at(2)];
    assert_eq!(ask(), both);
    assert_eq!(
        waiting(&scene.uffd),
        [],
        "what was read is not told again by itself"
    );
    let everything = AddrRange::new(NOWHERE.0, 1 << 46);
    scene.uffd.wake(everything).expect("one wake reaches all");
    assert_eq!(ask(), both);
    let empty = AddrRange::at(scene.plot.at(0), 0);
    assert_eq!(scene.uffd.wake(empty), Err(Errno::EINVAL));
    assert_eq!(
        scene.uffd.wake(AddrRange::new(NOWHERE.0, 1 << 63)),
        Err(Errno::EINVAL)
    );
    assert_eq!(scene.copy(0, &[1, 2, 3]), pages(3));
    assert_eq!(readers.map(Worker::result), [1, 3]);
}

/// So a range is unregistered only when nothing is owed there.
#[test]
fn unregistering_lets_threads_see_zeros() {
    let scene = Scene::with(2);
    let reader = scene.reader(0);
    let discard = scene.caller(|plot| plot.discard(1, 1));
    scene
        .uffd
        .unregister(scene.plot.range(0, 2))
        .expect("even while an event waits");
    assert_eq!(reader.result(), 0);
    waiting(&scene.uffd);
    discard.result();
    assert_eq!(scene.copy(0, &[1]), Outcome::stopped(Stop::Unmapped));
}

#[test]
fn a_probe_installs_nothing_and_wakes_nobody() {
    let scene = Scene::with(3);
    scene.fill(1, 7);
    let reader = scene.reader(0);
    fault(&scene.uffd);
    assert_eq!(scene.probe(0), None, "could be installed");
    assert_eq!(scene.probe(1), None, "is present");
    assert_eq!(scene.probe(2), None);
    assert_eq!(scene.uffd.probe(scene.plot.at(0), 2 * PAGE), None);
    assert_eq!(scene.probe(3), Some(Stop::Unmapped));
    assert_eq!(scene.uffd.probe(NOWHERE, PAGE), Some(Stop::Unmapped));
    let waits = queue(&scene.uffd);
    assert_eq!((waits.unread, waits.total), (0, 1), "nobody was woken");
    assert_eq!(
        [0, 1, 2].map(|page| scene.plot.present(page)),
        [Some(false), Some(true), Some(false)]
    );
    scene.fill(0, 6);
    assert_eq!((reader.result(), scene.plot.read(1)), (6, 7));
}

#[test]
fn a_probe_sees_a_change_under_way_and_registration() {
    let scene = Scene::with(3);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    for address in [
        scene.plot.at(0),
        scene.plot.at(2),
        scene.plot.at(9),
        NOWHERE,
    ] {
        assert_eq!(scene.uffd.probe(address, PAGE), Some(Stop::Changing));
    }
    batch(&scene.uffd);
    discard.result();
    wait_until("the change to end", || {
        scene.probe(0) != Some(Stop::Changing)
    });
    assert_eq!(scene.probe(0), None);
    let other = telling();
    let probe = || other.probe(scene.plot.at(0), PAGE);
    // A userfaultfd installs into whatever is registered, be it with another one.
    assert_eq!(probe(), None);
    scene
        .uffd
        .unregister(scene.plot.range(0, 3))
        .expect("unregister");
    assert_eq!(
        (scene.probe(0), probe()),
        (Some(Stop::Unmapped), Some(Stop::Unmapped))
    );
}
