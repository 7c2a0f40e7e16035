//! Memory made of huge pages.

mod support;

use std::os::fd::AsFd;

use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot_format::{PageSize, RegionKind};
use support::area::{Area, HUGE_PAGE, PAGE};
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

/// Huge pages in use by anybody, whether or not they are mapped.
fn huge_pages_in_use() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("meminfo");
    let field = |name: &str| -> u64 {
        let line = text
            .lines()
            .find(|line| line.starts_with(name))
            .expect("huge pages");
        line.split_whitespace()
            .nth(1)
            .expect("a number")
            .parse()
            .expect("a number")
    };
    field("HugePages_Total:") - field("HugePages_Free:")
}

/// Reserves huge pages, and gives them back.
struct HugePages(String);

impl HugePages {
    const FILE: &str = "/proc/sys/vm/nr_hugepages";

    fn reserve(pages: u32) -> Self {
        let before = std::fs::read_to_string(Self::FILE).expect("nr_hugepages");
        std::fs::write(Self::FILE, pages.to_string()).expect("root may reserve huge pages");
        Self(before)
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        std::fs::write(Self::FILE, &self.0).expect("give the huge pages back");
    }
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
