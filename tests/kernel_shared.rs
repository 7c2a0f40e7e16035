//! Memory that others have too: shared mappings, memory files, and private mappings of such files.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use support::child::fork;
use support::plot::{PAGE, Plot, call};
use support::uffd::{Scene, content, event, fault, forked, number, pages, queue, removed, waiting};
use uffd_restore::uffd::{Fault, Outcome, Stop};

/// A file in memory of that many pages, all of them holes.
fn memory_file(pages: u64) -> File {
    let file = File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC).expect("memfd"));
    file.set_len(pages * PAGE).expect("truncate");
    file
}

/// A registered mapping of the whole of a memory file.
fn mapped(file: &File, flags: i32) -> Scene {
    let scene = Scene::empty();
    let pages = file.metadata().expect("metadata").len() / PAGE;
    scene.plot.map(0, pages, flags, Some(file.as_fd()));
    scene.register(0, pages);
    scene
}

fn word_in(file: &File, page: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, page * PAGE).expect("read");
    u64::from_le_bytes(bytes)
}

fn write(file: &File, page: u64, number: u64) {
    file.write_all_at(&content(&[number]), page * PAGE)
        .expect("write");
}

#[test]
fn shared_memory_is_served_like_private_memory() {
    let file = memory_file(4);
    let scene = mapped(&file, libc::MAP_SHARED);
    let reader = scene.reader(0);
    assert!(matches!(fault(&scene.uffd), Fault { minor: false, .. }));
    scene.fill(0, 7);
    assert_eq!(reader.result(), 7);
    assert_eq!(word_in(&file, 0), 7, "and the file has it");
    scene.zero(1);
    assert_eq!(scene.plot.read(1), 0);
    assert_eq!(scene.copy(0, &[8]), Outcome::stopped(Stop::Present));
    assert_eq!(scene.copy(2, &[1, 2]), pages(2), "many at once");
}

/// The content of a page that was never there is the snapshot's after the first advice, and zero after the second one. The
/// events are the same.
#[test]
fn what_dropping_shared_pages_means_cannot_be_told_from_the_event() {
    for (advice, expected) in [(libc::MADV_DONTNEED, 7), (libc::MADV_REMOVE, 0)] {
        let file = memory_file(2);
        write(&file, 0, 7);
        let scene = mapped(&file, libc::MAP_SHARED);
        let drop = scene.caller(move |plot| plot.advise(0, 2, advice));
        assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 2));
        assert_eq!(drop.result(), Ok(0));
        assert_eq!(word_in(&file, 0), expected);
    }
}

#[test]
fn what_is_done_to_the_file_is_not_told() {
    let file = memory_file(4);
    let scene = mapped(&file, libc::MAP_SHARED);
    assert_eq!(scene.copy(0, &[1, 2]), pages(2));
    assert_eq!(
        word_in(&file, 2),
        0,
        "reading a hole gives zeros and asks nobody"
    );
    file.write_all_at(&[9], 3 * PAGE).expect("write");
    assert_eq!(scene.plot.read(3), 9, "writing makes the whole page");
    let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, hole, 0, i64::try_from(PAGE).expect("small")).expect("punch");
    file.set_len(2 * PAGE).expect("truncate");
    assert_eq!(waiting(&scene.uffd), []);
    let reader = scene.reader(0);
    assert_eq!(
        fault(&scene.uffd).address,
        scene.plot.at(0),
        "a page dropped behind our back asks again"
    );
    scene.zero(0);
    assert_eq!(reader.result(), 0);
    assert_eq!(
        scene.copy(2, &[3]),
        Outcome::stopped(Stop::Fault),
        "beyond the end"
    );
}

/// So shared memory can be filled through the file, by whoever has it, before the target runs.
#[test]
fn a_page_that_is_in_the_file_already_is_not_asked_for() {
    let file = memory_file(2);
    let scene = mapped(&file, libc::MAP_SHARED);
    write(&file, 0, 7);
    assert_eq!(scene.plot.read(0), 7);
    assert_eq!(waiting(&scene.uffd), []);
    assert_eq!(
        scene.uffd.zero(scene.plot.range(0, 1)),
        Outcome::stopped(Stop::Present)
    );
}

#[test]
fn a_private_mapping_of_a_file_asks_for_holes_and_keeps_what_it_gets() {
    let file = memory_file(2);
    write(&file, 1, 9);
    let scene = mapped(&file, libc::MAP_PRIVATE);
    assert_eq!(scene.plot.read(1), 9, "the file's own page");
    let reader = scene.reader(0);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(0));
    scene.fill(0, 7);
    assert_eq!(reader.result(), 7);
    assert_eq!(word_in(&file, 0), 0, "the file is as it was");
    write(&file, 0, 5);
    assert_eq!(scene.plot.read(0), 7);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    assert_eq!(scene.plot.read(0), 5, "back to the file's content");
}

/// Parent and child are asked for the same page, each through its own userfaultfd. Installing it once makes it present
/// for both, and wakes those of one.
#[test]
fn a_page_shared_with_a_child_is_installed_once_and_woken_twice() {
    let scene = Scene::empty();
    let plot = scene.plot;
    plot.shared(0, 1);
    scene.register(0, 1);
    let fork = fork(move || i32::try_from(plot.read(0)).expect("small"));
    let childs = forked(&scene.uffd);
    let child = fork.result();
    let reader = scene.reader(0);
    assert_eq!(fault(&scene.uffd).address, plot.at(0));
    assert_eq!(fault(&childs).address, plot.at(0));
    scene.fill(0, 9);
    assert_eq!(reader.result(), 9);
    assert_eq!(queue(&childs).total, 1, "the child waits");
    let again = childs.copy(plot.at(0), &content(&[9]));
    assert_eq!(again, Outcome::stopped(Stop::Present));
    assert_eq!(queue(&childs).total, 1, "still");
    childs.wake(plot.range(0, 1)).expect("wake");
    assert_eq!(child.code(), Some(9));
}

/// With minor faults asked for, a page that the file has is mapped by a request of its own.
#[test]
fn what_the_page_cache_has_can_be_mapped_without_a_copy() {
    const REGISTER: u64 = 0xc020_aa00;
    const MISSING_AND_MINOR: u64 = 1 | 4;
    let file = memory_file(4);
    let scene = Scene::empty();
    let plot = scene.plot;
    plot.map(0, 4, libc::MAP_SHARED, Some(file.as_fd()));
    let argument = &mut [plot.at(0).0, 4 * PAGE, MISSING_AND_MINOR, 0];
    let place = argument.as_mut_ptr().expose_provenance() as u64;
    call(libc::SYS_ioctl, &[number(&scene.uffd), REGISTER, place]).expect("register");
    write(&file, 0, 7);
    let reader = scene.reader(0);
    assert!(matches!(fault(&scene.uffd), Fault { minor: true, .. }));
    assert_eq!(scene.uffd.map_cached(plot.range(0, 1)), pages(1));
    assert_eq!(reader.result(), 7);
    let again = scene.uffd.map_cached(plot.range(0, 1));
    assert_eq!(again, Outcome::stopped(Stop::Present));
    let hole = scene.uffd.map_cached(plot.range(1, 1));
    assert_eq!(hole, Outcome::stopped(Stop::Fault));
    write(&file, 2, 8);
    let cached = scene.uffd.map_cached(plot.range(2, 2));
    assert_eq!(
        cached,
        Outcome {
            done: PAGE,
            stop: Some(Stop::Partial)
        }
    );
}

#[test]
fn memory_of_system_v_cannot_be_registered() {
    let scene = Scene::empty();
    let made = call(libc::SYS_shmget, &[0, 2 * PAGE, 0o600]).expect("shmget");
    let at = scene.plot.at(0).0;
    call(libc::SYS_shmat, &[made, at, 0]).expect("shmat");
    call(libc::SYS_shmctl, &[made, 0, 0]).expect("remove it when nobody has it any more");
    let refused = scene.uffd.register(scene.plot.range(0, 2));
    call(libc::SYS_shmdt, &[at]).expect("shmdt");
    assert_eq!(refused, Err(Errno::EINVAL));
}

/// Shared memory, too, is dropped only after that was told; a probe fits in between.
#[test]
fn a_probe_of_shared_memory_installs_nothing() {
    let file = memory_file(2);
    let scene = mapped(&file, libc::MAP_SHARED);
    scene.fill(1, 7);
    assert_eq!((scene.probe(0), scene.probe(1)), (None, None));
    let plot: Plot = scene.plot;
    assert_eq!(plot.present(0), Some(false));
    assert_eq!(word_in(&file, 1), 7);
    let blocks = std::os::unix::fs::MetadataExt::blocks(&file.metadata().expect("metadata"));
    assert_eq!(blocks, 8, "one page");
}
