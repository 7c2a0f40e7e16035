//! What a capture says about pages that are absent, zero, shared, huge, guarded or lost, and that it leaves them so.
#![expect(unsafe_code, reason = "fork")]

mod support;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};

use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot_format::RegionKind;
use support::area::{Area, PAGE};
use support::sink::{Captured, capture, only};
use support::{Target, play_role, say, selector, show};
use uffd_restore::capture::Options;
use uffd_restore::capture::pagemap::{PageRun, PageState, Pagemap};

#[test]
fn role() {
    play_role(&[
        ("anonymous", anonymous),
        ("shared", shared),
        ("memfd", memfd),
        ("private_memfd", private_memfd),
    ]);
}

const MADV_GUARD_INSTALL: i32 = 102;

/// What is populated in the mapping at an address, in KiB, small and huge pages.
fn populated(pid: i32, address: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps")).expect("smaps");
    let head = format!("{address:x}-");
    let fields = text
        .lines()
        .skip_while(|line| !line.starts_with(&head))
        .skip(1);
    fields
        .take_while(|line| line.starts_with(|c: char| c.is_ascii_uppercase()))
        .filter(|line| {
            ["Rss:", "Private_Hugetlb:", "Shared_Hugetlb:"]
                .iter()
                .any(|name| line.starts_with(name))
        })
        .map(|line| {
            line.split_whitespace()
                .nth(1)
                .expect("a number")
                .parse::<u64>()
                .expect("a number")
        })
        .sum()
}

/// Pages 0 to 7, 20 and 30 to 33 are written, 10 to 12 only read, 31 and 40 are guarded.
fn anonymous(words: &[&str]) {
    let area = Area::private(64);
    area.advise(0, 64, libc::MADV_NOHUGEPAGE)
        .expect("small pages");
    for page in (0..8).chain([20]).chain(30..34) {
        area.write(page, 100 + page as u64);
    }
    (10..13).for_each(|page| assert_eq!(area.read(page), 0));
    area.advise(31, 1, MADV_GUARD_INSTALL).expect("guard");
    area.advise(40, 1, MADV_GUARD_INSTALL).expect("guard");
    if words == ["unreadable"] {
        area.protect(libc::PROT_NONE);
    }
    show(&[area]);
}

fn anonymous_words() -> Vec<Option<u64>> {
    let written = |page: u64| page < 8 || page == 20 || [30, 32, 33].contains(&page);
    (0..64)
        .map(|page| Some(if written(page) { 100 + page } else { 0 }))
        .collect()
}

#[test]
fn absent_pages_of_private_memory_are_zero_and_stay_absent() {
    for arguments in ["", "unreadable"] {
        let mut target = Target::start("anonymous", arguments);
        let said = target.hear_numbers();
        let before = populated(target.pid(), said[0]);
        let (sink, report) =
            capture(target.pid(), &only(&[&selector(said[0], said[1])])).expect("capture");
        assert_eq!(sink.words(said[0], 64), anonymous_words(), "{arguments}");
        assert_eq!(
            (report.pages.content, report.pages.zero),
            (12, 52),
            "zero pages were not read"
        );
        assert_eq!(
            populated(target.pid(), said[0]),
            before,
            "the target was left as it was"
        );
        assert_eq!(report.regions[0].kind, RegionKind::Private);
        assert_eq!(report.regions[0].protection.read, arguments.is_empty());
        target.finish();
    }
}

#[test]
fn both_ways_to_read_the_page_map_agree() {
    let mut target = Target::start("anonymous", "");
    let said = target.hear_numbers();
    let states = |pagemap: &Pagemap| {
        let mut states = Vec::new();
        let end = said[0] + said[1] * PAGE as u64;
        let each = |run: PageRun| {
            assert_eq!(
                run.start,
                said[0] + states.len() as u64 * PAGE as u64,
                "runs without gaps"
            );
            let pages = usize::try_from(run.end - run.start).expect("small") / PAGE;
            states.extend(std::iter::repeat_n(run.state, pages));
            Ok(())
        };
        pagemap
            .for_each_run::<std::io::Error>(said[0], end, each)
            .expect("runs");
        states
    };
    let scanned = states(&Pagemap::open(target.pid()).expect("page map"));
    let read = states(&Pagemap::open_without_scan(target.pid()).expect("page map"));
    assert_eq!(scanned.len(), 64);
    assert_eq!(
        (scanned[0], scanned[8], scanned[31]),
        (PageState::Content, PageState::Absent, PageState::Guard)
    );
    assert_eq!(
        (scanned[10], read[10]),
        (PageState::Zero, PageState::Content),
        "only the ioctl knows the zero page"
    );
    let but_for_the_zero_page = |state: &PageState| {
        if *state == PageState::Zero {
            PageState::Content
        } else {
            *state
        }
    };
    assert_eq!(
        scanned
            .iter()
            .map(but_for_the_zero_page)
            .collect::<Vec<_>>(),
        read
    );
    target.finish();
}

#[test]
fn a_range_cuts_a_mapping() {
    let mut target = Target::start("anonymous", "");
    let said = target.hear_numbers();
    let start = said[0] + 6 * PAGE as u64;
    let (sink, report) = capture(target.pid(), &only(&[&selector(start, 15)])).expect("capture");
    assert_eq!(sink.words(start, 15), anonymous_words()[6..21]);
    assert!(!sink.has(start - 1) && !sink.has(start + 15 * PAGE as u64));
    assert_eq!(
        (report.regions[0].start, report.regions[0].len),
        (start, 15 * PAGE as u64)
    );
    target.finish();
}

#[test]
fn by_default_all_of_the_process_is_captured_and_with_private_files_its_data_too() {
    static DATA: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(7);
    let mut target = Target::start("anonymous", "");
    let said = target.hear_numbers();
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("maps");
    let (sink, report) = capture(target.pid(), &Options::default()).expect("capture");
    assert_eq!(sink.words(said[0], 64), anonymous_words());
    let names: Vec<&str> = report
        .regions
        .iter()
        .map(|region| region.name.as_str())
        .collect();
    assert!(
        names.contains(&"[heap]") && names.contains(&"[stack]"),
        "{names:?}"
    );
    assert!(
        !names
            .iter()
            .any(|name| name.starts_with('/') || name.starts_with("[v")),
        "{names:?}"
    );
    assert_eq!(report.pages.lost, 0);
    assert_eq!(report.target.pid, target.pid());
    assert_eq!(
        report.target.exe.as_deref(),
        std::env::current_exe().ok().as_deref()
    );
    assert!(
        report.target.command_line.contains(&"--exact".to_owned()) && report.target.start_ticks > 0
    );

    let with_files = Options {
        private_files: true,
        ..Options::default()
    };
    let (sink, report) = capture(target.pid(), &with_files).expect("capture");
    assert_eq!(report.pages.lost, 0);
    // Position independent: the target's own copy of DATA lies as far into the program as ours.
    let first = |maps: &str| {
        let exe = std::env::current_exe()
            .expect("exe")
            .to_str()
            .expect("utf-8")
            .to_owned();
        let line = maps
            .lines()
            .find(|line| line.ends_with(&exe))
            .expect("the program");
        u64::from_str_radix(line.split('-').next().expect("start"), 16).expect("hexadecimal")
    };
    let ours = std::fs::read_to_string("/proc/self/maps").expect("maps");
    let address =
        std::ptr::from_ref(&DATA).expose_provenance() as u64 - first(&ours) + first(&maps);
    let Captured::Content(bytes) = sink.page(address) else {
        panic!("DATA is in the program's file")
    };
    let offset = usize::try_from(address % PAGE as u64).expect("small");
    assert_eq!(bytes[offset], 7);
    target.finish();
}

/// The target writes pages 3 and 50 only, a child of it page 40. Page 50 is guarded: this process may not access it any
/// more, but it is still there for others.
fn shared(_: &[&str]) {
    let area = Area::shared(64);
    area.write(3, 103);
    area.write(50, 150);
    area.advise(50, 1, MADV_GUARD_INSTALL)
        .expect("guard (Linux 6.15 for shared memory)");
    // SAFETY: the child calls nothing but a store and _exit.
    match unsafe { nix::unistd::fork() }.expect("fork") {
        nix::unistd::ForkResult::Child => {
            area.write(40, 140);
            // SAFETY: _exit ends the child at once, which is what is wanted.
            unsafe { libc::_exit(0) };
        }
        nix::unistd::ForkResult::Parent { child } => {
            assert!(nix::sys::wait::waitpid(child, None).is_ok());
        }
    }
    show(&[area]);
}

#[test]
fn shared_pages_count_no_matter_who_wrote_them() {
    let mut target = Target::start("shared", "");
    let said = target.hear_numbers();
    let before = populated(target.pid(), said[0]);
    let (sink, report) =
        capture(target.pid(), &only(&[&selector(said[0], said[1])])).expect("capture");
    let mut expected = vec![Some(0); 64];
    (expected[3], expected[40], expected[50]) = (Some(103), Some(140), Some(150));
    assert_eq!(sink.words(said[0], 64), expected);
    assert_eq!((report.pages.content, report.pages.zero), (3, 61));
    assert_eq!(populated(target.pid(), said[0]), before);
    assert_eq!(
        (report.regions[0].kind, report.regions[0].shared),
        (RegionKind::Shared, true)
    );
    target.finish();
}

fn file(pages: usize) -> OwnedFd {
    let file = memfd_create(c"ram", MFdFlags::MFD_CLOEXEC).expect("memfd");
    nix::unistd::ftruncate(&file, i64::try_from(pages * PAGE).expect("small")).expect("truncate");
    file
}

fn write_page(file: &OwnedFd, page: usize, value: u64) {
    let file = std::fs::File::from(file.try_clone().expect("duplicate"));
    file.write_all_at(&value.to_le_bytes(), (page * PAGE) as u64)
        .expect("write");
}

/// A file of 10 pages, mapped from its page 2 on, further than it is long. Says the descriptor too.
fn memfd(_: &[&str]) {
    let ram = file(10);
    let area = Area::map(16, libc::MAP_SHARED, Some(ram.as_fd()), 2 * PAGE);
    write_page(&ram, 1, 1);
    write_page(&ram, 4, 104);
    area.write(5, 107);
    say(&ram.as_raw_fd().to_string());
    show(&[area]);
}

fn blocks(pid: i32, descriptor: u64) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/fd/{descriptor}"))
        .expect("the memfd")
        .blocks()
}

#[test]
fn a_memfd_is_read_without_filling_its_holes() {
    let mut target = Target::start("memfd", "");
    let descriptor = target.hear_numbers()[0];
    let said = target.hear_numbers();
    let before = (
        blocks(target.pid(), descriptor),
        populated(target.pid(), said[0]),
    );
    assert_eq!(before.0, 3 * 8, "three pages of it exist");
    let (sink, report) = capture(target.pid(), &only(&["memfd:ram"])).expect("capture");
    let mut expected = vec![Some(0); 16];
    (expected[2], expected[5]) = (Some(104), Some(107));
    assert_eq!(sink.words(said[0], 16), expected);
    assert_eq!((report.pages.content, report.pages.zero), (2, 14));
    assert_eq!(
        (
            blocks(target.pid(), descriptor),
            populated(target.pid(), said[0])
        ),
        before
    );
    assert_eq!(
        (report.regions[0].offset, report.regions[0].name.as_str()),
        (2 * PAGE as u64, "/memfd:ram (deleted)")
    );
    target.finish();
}

/// Pages 0 to 3 and 40 are in the file; 1 and 5 are written to, 3 is read. That maps its neighbours too (fault-around, 16
/// pages); page 40 is too far away and stays absent.
fn private_memfd(_: &[&str]) {
    let ram = file(48);
    (0..4)
        .chain([40])
        .for_each(|page| write_page(&ram, page, 100 + page as u64));
    let area = Area::map(48, libc::MAP_PRIVATE, Some(ram.as_fd()), 0);
    area.write(1, 201);
    area.write(5, 205);
    assert_eq!(area.read(3), 103);
    say(&ram.as_raw_fd().to_string());
    show(&[area]);
}

#[test]
fn a_private_mapping_shows_its_own_pages_before_those_of_the_file() {
    let mut target = Target::start("private_memfd", "");
    let descriptor = target.hear_numbers()[0];
    let said = target.hear_numbers();
    let before = (
        blocks(target.pid(), descriptor),
        populated(target.pid(), said[0]),
    );
    let (sink, report) = capture(target.pid(), &only(&["/memfd:ram"])).expect("capture");
    let mut expected = [
        [
            Some(100),
            Some(201),
            Some(102),
            Some(103),
            Some(0),
            Some(205),
        ]
        .to_vec(),
        vec![Some(0); 42],
    ]
    .concat();
    expected[40] = Some(140);
    assert_eq!(sink.words(said[0], 48), expected);
    assert_eq!(report.pages.lost, 0);
    assert_eq!(
        (
            blocks(target.pid(), descriptor),
            populated(target.pid(), said[0])
        ),
        before
    );
    assert_eq!(
        (report.regions[0].kind, report.regions[0].shared),
        (RegionKind::Private, false)
    );
    target.finish();
}
