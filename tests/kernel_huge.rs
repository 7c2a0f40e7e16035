//! Memory of huge pages.

mod support;

use nix::errno::Errno;
use support::area::HUGE_PAGE;
use support::huge::{HugePages, huge_pages_in_use};
use support::plot::{PAGE, Plot, call};
use support::uffd::{Scene, event, fault, number, removed, waiting};
use uffd_restore::addr::AddrRange;
use uffd_restore::uffd::{Features, Outcome, Registered, Stop};

/// Small pages in a huge one.
const HUGE: u64 = 512;
const BYTES: u64 = HUGE * PAGE;

struct Huge {
    scene: Scene,
    registered: Registered,
    _mapped: Mapped,
    _reserved: HugePages,
}

/// Unmapped when dropped, which is after the userfaultfd is closed and before the reservation is given back.
struct Mapped(Plot);

impl Drop for Mapped {
    fn drop(&mut self) {
        self.0.unmap(0, 2 * HUGE);
    }
}

/// Two missing huge pages.
fn huge() -> Huge {
    let reserved = HugePages::reserve(8);
    let scene = Scene::empty();
    let flags = libc::MAP_PRIVATE | libc::MAP_HUGETLB | libc::MAP_NORESERVE;
    scene.plot.map(0, 2 * HUGE, flags, None);
    Huge {
        registered: scene.register(0, 2 * HUGE),
        _mapped: Mapped(scene.plot),
        scene,
        _reserved: reserved,
    }
}

fn page(byte: u8) -> Vec<u8> {
    vec![byte; HUGE_PAGE]
}

#[test]
fn a_fault_says_the_huge_page_and_a_copy_installs_a_whole_one() {
    let Huge { scene, .. } = &huge();
    let reader = scene.reader(HUGE + 5);
    assert_eq!(fault(&scene.uffd).address.page(BYTES), scene.plot.at(HUGE));
    assert_eq!(
        scene.uffd.copy(scene.plot.at(HUGE), &page(1)),
        Outcome::complete(BYTES)
    );
    assert_eq!(reader.result(), 0x0101_0101_0101_0101);
    assert_eq!(
        scene.uffd.copy(scene.plot.at(HUGE), &page(2)),
        Outcome::stopped(Stop::Present)
    );
    let both = [page(3), page(4)].concat();
    let partial = Outcome {
        done: BYTES,
        stop: Some(Stop::Partial),
    };
    assert_eq!(scene.uffd.copy(scene.plot.at(0), &both), partial);
    assert_eq!(scene.plot.read(511), 0x0303_0303_0303_0303);
}

#[test]
fn small_pieces_and_zero_pages_are_refused() {
    let Huge {
        scene, registered, ..
    } = &huge();
    let wrong = Outcome::stopped(Stop::Other(Errno::EINVAL));
    assert_eq!(scene.copy(0, &[1]), wrong);
    assert_eq!(scene.uffd.copy(scene.plot.at(1), &page(1)), wrong);
    assert!(!registered.zeropage());
    assert_eq!(scene.uffd.zero(scene.plot.range(0, HUGE)), wrong);
    scene.plot.private(2 * HUGE, 1);
    assert!(
        scene.register(2 * HUGE, 1).zeropage(),
        "other memory has them"
    );
}

#[test]
fn a_probe_is_as_large_as_a_page_and_takes_none() {
    let Huge { scene, .. } = &huge();
    let before = huge_pages_in_use();
    let probe = |page, bytes| scene.uffd.probe(scene.plot.at(page), bytes);
    assert_eq!(probe(0, BYTES), None);
    assert_eq!(probe(0, PAGE), Some(Stop::Other(Errno::EINVAL)));
    assert_eq!(probe(4 * HUGE, BYTES), Some(Stop::Unmapped));
    assert_eq!(huge_pages_in_use(), before);
    assert_eq!(scene.uffd.copy(scene.plot.at(0), &page(1)).stop, None);
    assert_eq!(probe(0, BYTES), None, "present");
    assert_eq!(scene.plot.read(0), 0x0101_0101_0101_0101);
}

#[test]
fn dropping_huge_pages_is_told() {
    let Huge { scene, .. } = &huge();
    let both = [page(3), page(4)].concat();
    assert_eq!(scene.uffd.copy(scene.plot.at(0), &both).stop, None);
    let discard = scene.caller(|plot| plot.discard(HUGE, HUGE));
    assert_eq!(event(&scene.uffd), removed(scene.plot, HUGE, HUGE));
    discard.result();
    let reader = scene.reader(HUGE);
    assert_eq!(fault(&scene.uffd).address, scene.plot.at(HUGE));
    assert_eq!(
        scene.uffd.copy(scene.plot.at(HUGE), &page(0)).stop,
        None,
        "zeros by hand"
    );
    assert_eq!((reader.result(), waiting(&scene.uffd)), (0, vec![]));
}

#[test]
fn huge_pages_can_be_poisoned_and_healed() {
    if !Features::of_this_kernel()
        .expect("features")
        .has(Features::POISON)
    {
        println!("SKIPPED: UFFDIO_POISON came with Linux 6.6");
        return;
    }
    let ends = nix::unistd::pipe().expect("pipe");
    let Huge {
        scene, registered, ..
    } = &huge();
    assert!(registered.poison());
    let range = AddrRange::at(scene.plot.at(0), BYTES);
    assert_eq!(scene.uffd.poison(range), Outcome::complete(BYTES));
    let write = || call(libc::SYS_write, &[number(&ends.1), scene.plot.at(7).0, 8]);
    assert_eq!(write(), Err(Errno::EFAULT));
    assert_eq!(
        scene.uffd.copy(range.start, &page(1)),
        Outcome::complete(BYTES)
    );
    assert_eq!(write(), Ok(8));
}
