//! Memory that a userfaultfd handler has left its marks in, or still owes.
#![expect(unsafe_code, reason = "the system calls of userfaultfd")]

mod support;

use support::area::{Area, PAGE};
use support::sink::{capture, only};
use support::{Target, play_role, selector, show};
use uffd_restore::capture::{CaptureError, Options};

#[test]
fn role() {
    play_role(&[("poisoned", poisoned), ("registered", registered)]);
}

/// A userfaultfd on an area, registered for missing pages.
fn userfaultfd(area: Area) -> i32 {
    // SAFETY: plain numbers.
    let uffd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let uffd = i32::try_from(uffd).expect("a descriptor");
    assert!(
        uffd >= 0,
        "userfaultfd: {}",
        std::io::Error::last_os_error()
    );
    control(uffd, 0xc018_aa3f, &mut [0xaa, 1 << 14, 0]); // UFFDIO_API with UFFD_FEATURE_POISON
    control(
        uffd,
        0xc020_aa00,
        &mut [area.address(), (area.pages * PAGE) as u64, 1, 0],
    ); // UFFDIO_REGISTER, MISSING
    uffd
}

fn control(uffd: i32, request: libc::Ioctl, argument: &mut [u64]) {
    // SAFETY: the callers pass as many words as the request's structure has, which the kernel reads and writes.
    let result = unsafe { libc::ioctl(uffd, request, argument.as_mut_ptr()) };
    assert_eq!(
        result,
        0,
        "{request:#x}: {}",
        std::io::Error::last_os_error()
    );
}

/// Pages 2 and 3 poisoned, 1 and 4 written, and nobody's userfaultfd any more.
fn poisoned(_: &[&str]) {
    let areas = [Area::private(8), Area::shared(8)];
    for area in areas {
        let uffd = userfaultfd(area);
        let start = area.address();
        control(
            uffd,
            0xc020_aa08,
            &mut [start + 2 * PAGE as u64, 2 * PAGE as u64, 0, 0],
        ); // UFFDIO_POISON
        control(uffd, 0x8010_aa01, &mut [start, 8 * PAGE as u64]); // UFFDIO_UNREGISTER
        area.write(1, 101);
        area.write(4, 104);
    }
    show(&areas);
}

#[test]
fn a_poisoned_page_is_lost_and_never_zero() {
    let mut target = Target::start("poisoned", "");
    let said = target.hear_numbers();
    for area in said.chunks(2) {
        let (sink, report) =
            capture(target.pid(), &only(&[&selector(area[0], area[1])])).expect("capture");
        let expected = [
            Some(0),
            Some(101),
            None,
            None,
            Some(104),
            Some(0),
            Some(0),
            Some(0),
        ];
        assert_eq!(sink.words(area[0], 8), expected);
        assert_eq!(
            (report.pages.content, report.pages.zero, report.pages.lost),
            (2, 4, 2)
        );
        let lost = report.lost[0];
        assert_eq!(
            (lost.region, lost.address, lost.pages),
            (0, area[0] + 2 * PAGE as u64, 2)
        );
        assert_eq!(report.lost.len(), 1);
    }
    target.finish();
}

fn registered(_: &[&str]) {
    let areas = [Area::private(8), Area::shared(8), Area::private(8)];
    userfaultfd(areas[0]);
    userfaultfd(areas[1]);
    show(&areas);
}

#[test]
fn memory_that_somebody_else_still_owes_is_refused() {
    let mut target = Target::start("registered", "");
    let said = target.hear_numbers();
    let areas: Vec<&[u64]> = said.chunks(2).collect();
    for area in &areas[..2] {
        let error = capture(target.pid(), &only(&[&selector(area[0], area[1])]))
            .map(drop)
            .expect_err("refused");
        assert!(
            matches!(error, CaptureError::StillRestoring { .. }),
            "{error}"
        );
        assert!(
            error.to_string().contains(&format!("{:#x}", area[0])),
            "{error}"
        );
    }
    assert!(capture(target.pid(), &Options::default()).is_err());
    support::assert_left_alone(target.pid());
    let free = selector(areas[2][0], areas[2][1]);
    capture(target.pid(), &only(&[&free])).expect("other memory of the same process is nobody's");
    target.finish();
}
