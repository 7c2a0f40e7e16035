//! Memory made of huge pages.

mod support;

use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot_format::{PageSize, RegionKind};
use support::area::{Area, HUGE_PAGE, PAGE};
use support::huge::{HugePages, huge_pages_in_use};
use support::sink::{capture, only};
use support::{Target, play_role, selector, show};

#[test]
fn role() {
    play_role(&[("huge", huge)]);
}

/// Three huge pages of each kind, of which the second one is written. The last kind is a private mapping of a file.
fn huge(_: &[&str]) {
    const SMALL_IN_HUGE: usize = HUGE_PAGE / PAGE;
    let anonymous = libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
    let ram = memfd_create(c"huge", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_HUGETLB).expect("memfd");
    nix::unistd::ftruncate(&ram, i64::try_from(3 * HUGE_PAGE).expect("small")).expect("truncate");
    let pages = 3 * SMALL_IN_HUGE;
    let areas = [
        Area::map(
            pages,
            libc::MAP_PRIVATE | anonymous | libc::MAP_NORESERVE,
            None,
            0,
        ),
        Area::map(
            pages,
            libc::MAP_SHARED | anonymous | libc::MAP_NORESERVE,
            None,
            0,
        ),
        Area::map(
            pages,
            libc::MAP_SHARED | libc::MAP_NORESERVE,
            Some(ram.as_fd()),
            0,
        ),
        Area::map(
            pages,
            libc::MAP_PRIVATE | libc::MAP_NORESERVE,
            Some(ram.as_fd()),
            0,
        ),
    ];
    for (index, area) in areas[..3].iter().enumerate() {
        area.write(SMALL_IN_HUGE + 5, 1000 + index as u64);
    }
    show(&areas);
}

#[test]
fn huge_pages_are_read_and_not_allocated() {
    let _reserved = HugePages::reserve(16);
    let mut target = Target::start("huge", "");
    let said = target.hear_numbers();
    let before = huge_pages_in_use();
    assert_eq!(before, 3, "one for each area but the last, which shares");
    for (index, area) in said.chunks(2).enumerate() {
        let (sink, report) =
            capture(target.pid(), &only(&[&selector(area[0], area[1])])).expect("capture");
        let mut expected = vec![Some(0); 3 * 512];
        expected[512 + 5] = Some(1000 + index.min(2) as u64);
        assert!(sink.words(area[0], 3 * 512) == expected, "area {index}");
        let region = &report.regions[0];
        assert_eq!(
            (region.kind, region.page_size),
            (RegionKind::Hugetlb, PageSize::Huge2M)
        );
        assert_eq!(region.shared, index == 1 || index == 2);
        assert_eq!(huge_pages_in_use(), before, "area {index}");
    }
    target.finish();
}
