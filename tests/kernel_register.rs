//! What can be registered, and how the rest of the system sees memory that is not there yet.

mod support;

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use support::plot::{PAGE, Plot, call};
use support::uffd::{Scene, Worker, event, fault, pages, queue, removed, telling, waiting};
use uffd_restore::addr::AddrRange;
use uffd_restore::uffd::Stop;

#[test]
fn a_range_is_of_whole_pages_of_something() {
    let scene = Scene::empty();
    scene.plot.private(0, 4);
    let start = scene.plot.at(0).0;
    let wrong = [
        AddrRange::new(start + 8, start + PAGE),
        AddrRange::new(start, start + 8),
        AddrRange::new(start, start),
        scene.plot.range(8, 4),
    ];
    for range in wrong {
        assert_eq!(scene.uffd.register(range), Err(Errno::EINVAL), "{range}");
    }
    assert_eq!(
        scene.probe(0),
        Some(Stop::Unmapped),
        "nothing is registered"
    );
    scene.register(0, 4);
    scene.register(0, 4);
    scene.register(1, 1);
    assert_eq!(scene.copy(0, &[1, 2, 3, 4]), pages(4), "one mapping still");
}

#[test]
fn a_range_may_have_holes() {
    let scene = Scene::empty();
    let plot = scene.plot;
    plot.private(0, 2);
    plot.private(4, 2);
    plot.shared(8, 2);
    scene.register(0, 12);
    for page in [0, 1, 4, 5, 8, 9] {
        assert_eq!(scene.probe(page), None);
    }
    for page in [2, 3, 6, 10] {
        assert_eq!(scene.probe(page), Some(Stop::Unmapped));
    }
    plot.private(2, 2);
    assert_eq!(
        scene.probe(2),
        Some(Stop::Unmapped),
        "what comes there later is not registered"
    );
}

#[test]
fn one_mapping_that_cannot_be_registered_spoils_the_whole_range() {
    let scene = Scene::empty();
    let plot = scene.plot;
    let file = File::open(std::env::current_exe().expect("this program")).expect("open");
    plot.private(0, 2);
    plot.map(2, 1, libc::MAP_PRIVATE, Some(file.as_fd()));
    plot.private(3, 2);
    assert_eq!(scene.uffd.register(plot.range(0, 5)), Err(Errno::EINVAL));
    for page in [0, 1, 3, 4] {
        assert_eq!(scene.probe(page), Some(Stop::Unmapped));
    }
    scene.register(0, 2);
    assert_eq!(scene.probe(0), None);
}

#[test]
fn memory_of_another_userfaultfd_is_refused() {
    let scene = Scene::empty();
    scene.plot.private(0, 4);
    scene.register(2, 1);
    let other = telling();
    assert_eq!(other.register(scene.plot.range(0, 4)), Err(Errno::EBUSY));
    other.register(scene.plot.range(0, 2)).expect("free memory");
    drop(other);
    scene.register(0, 4);
}

#[test]
fn memory_without_rights_can_be_registered() {
    let scene = Scene::empty();
    scene.plot.private(0, 2);
    scene.plot.protect(0, 1, libc::PROT_NONE);
    scene.plot.protect(1, 1, libc::PROT_READ);
    scene.register(0, 2);
    assert_eq!((scene.probe(0), scene.probe(1)), (None, None));
}

/// So what is to be empty is emptied before it is registered.
#[test]
fn pages_that_are_there_when_memory_is_registered_stay_and_dropping_them_then_waits() {
    let scene = Scene::empty();
    scene.plot.private(0, 2);
    scene.plot.write(0, 7);
    scene.plot.discard(1, 1);
    scene.register(0, 2);
    assert_eq!(scene.plot.read(0), 7);
    let discard = scene.caller(|plot| plot.discard(0, 1));
    assert_eq!(event(&scene.uffd), removed(scene.plot, 0, 1));
    discard.result();
    assert_eq!(scene.plot.present(0), Some(false));
}

/// process_vm_readv(2) waits for the page as the process itself would, whoever calls it: no thread that serves a target
/// may.
#[test]
fn a_reader_of_another_process_waits_for_its_missing_pages() {
    let scene = Scene::with(1);
    let buffer = Plot::with(1);
    let from = scene.plot;
    let reader = Worker::start(move || {
        let vectors = [buffer.at(0).0, 8, from.at(0).0, 8];
        let place = vectors.as_ptr().expose_provenance() as u64;
        let process = u64::from(std::process::id());
        call(
            libc::SYS_process_vm_readv,
            &[process, place, 1, place + 16, 1, 0],
        )
    });
    let fault = fault(&scene.uffd);
    assert_eq!(fault.address, scene.plot.at(0));
    assert_eq!(fault.thread, reader.thread_id());
    reader.stands_still();
    scene.fill(0, 7);
    assert_eq!(reader.result(), Ok(8));
    assert_eq!(buffer.read(0), 7);
}

#[test]
fn proc_mem_fails_on_missing_pages_and_asks_for_none() {
    let scene = Scene::with(2);
    scene.fill(1, 7);
    let memory = File::options()
        .read(true)
        .write(true)
        .open("/proc/self/mem")
        .expect("mem");
    let mut bytes = [0; 8];
    let missing = scene.plot.at(0).0;
    let code = |result: std::io::Result<usize>| result.map_err(|error| error.raw_os_error());
    assert_eq!(
        code(memory.read_at(&mut bytes, missing)),
        Err(Some(libc::EIO))
    );
    assert_eq!(code(memory.write_at(&bytes, missing)), Err(Some(libc::EIO)));
    assert_eq!(waiting(&scene.uffd), []);
    assert_eq!(code(memory.read_at(&mut bytes, scene.plot.at(1).0)), Ok(8));
    assert_eq!(bytes[0], 7);
}

#[test]
fn a_stack_that_grows_is_registered_further_down_and_owed_zeros() {
    let scene = Scene::empty();
    let flags = libc::MAP_PRIVATE | libc::MAP_GROWSDOWN;
    scene.plot.map(1000, 2, flags, None);
    scene.register(1000, 2);
    let reader = scene.reader(999);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(999));
    scene.zero(999);
    assert_eq!(reader.result(), 0);
    assert_eq!(scene.probe(998), Some(Stop::Unmapped));
}

/// How a new handler learns what the old one has installed.
#[test]
fn pagemap_tells_what_is_present_without_touching_it() {
    const PRESENT: u64 = 1 << 3;
    const ZERO: u64 = 1 << 5;
    let scene = Scene::with(8);
    scene.fill(1, 7);
    scene.fill(2, 8);
    scene.zero(5);
    let mut found = [[0_u64; 3]; 8];
    let place = found.as_mut_ptr().expose_provenance() as u64;
    let mut argument = [0_u64; 12];
    let all = scene.plot.range(0, 8);
    // struct pm_scan_arg: size, flags, start, end, walk_end, vec, vec_len, max_pages, and four masks.
    argument[..8].copy_from_slice(&[96, 0, all.start.0, all.end.0, 0, place, 8, 0]);
    argument[9] = PRESENT;
    argument[11] = PRESENT | ZERO;
    let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
    let at = argument.as_mut_ptr().expose_provenance() as u64;
    let scan = call(
        libc::SYS_ioctl,
        &[support::uffd::number(&pagemap), 0xc060_6610, at],
    );
    if scan == Err(Errno::ENOTTY) {
        println!("SKIPPED: PAGEMAP_SCAN came with Linux 6.7");
        return;
    }
    assert_eq!(scan, Ok(2));
    let run = |page, count, categories| {
        let range = scene.plot.range(page, count);
        [range.start.0, range.end.0, categories]
    };
    assert_eq!(
        std::hint::black_box(found)[..2],
        [run(1, 2, PRESENT), run(5, 1, PRESENT | ZERO)]
    );
    assert_eq!(queue(&scene.uffd).total, 0);
    assert_eq!(scene.plot.present(0), Some(false));
}
