//! By example: snapshots of few regions, targets of few mappings.

use snapshot_format::{PageSize, Protection, Region};

use super::*;
use crate::capture::maps::MapsLine;
use crate::capture::smaps::{Mapping, VmFlags};

const MIB: u64 = 1 << 20;

fn region(start: u64, len: u64, name: &str) -> Region {
    let kind = match name {
        "[stack]" => RegionKind::Stack,
        name if name.starts_with("/memfd:") => RegionKind::Shared,
        _ => RegionKind::Private,
    };
    Region {
        start,
        len,
        offset: 0,
        protection: Protection {
            read: true,
            write: true,
            exec: false,
        },
        kind,
        shared: kind == RegionKind::Shared,
        page_size: PageSize::Small,
        name: name.to_owned(),
    }
}

fn snapshot(regions: Vec<Region>) -> Vec<PlacedRegion> {
    let mut next = 0;
    regions
        .into_iter()
        .map(|region| {
            let first_page = PageNo(next);
            next += region.pages();
            PlacedRegion { region, first_page }
        })
        .collect()
}

fn mapping(start: u64, len: u64, name: &str) -> Candidate {
    let shared = name.starts_with("/memfd:");
    let backing = match name {
        name if shared || name.starts_with("/dev/shm") => Backing::Memory,
        name if name.starts_with('/') => Backing::File,
        "[vdso]" => Backing::Special,
        _ => Backing::Anonymous,
    };
    let line = MapsLine {
        start,
        end: start + len,
        protection: Protection {
            read: true,
            write: true,
            exec: false,
        },
        shared,
        // Another file for each.
        inode: if name.starts_with('/') { start } else { 0 },
        name: name.to_owned(),
        ..MapsLine::default()
    };
    Candidate {
        mapping: Mapping {
            line,
            page_kib: 4,
            flags: VmFlags::default(),
        },
        backing,
    }
}

fn decide(
    regions: &[PlacedRegion],
    mappings: &[Candidate],
    same_process: bool,
    choices: &[&str],
) -> Result<Vec<Place>, PlacementError> {
    let choices: Vec<Choice> = choices
        .iter()
        .map(|text| text.parse().expect("a choice"))
        .collect();
    place(&Situation {
        regions,
        same_process,
        mappings,
        in_use: &[],
        choices: &choices,
    })
}

fn whereto(places: &[Place]) -> Vec<(u64, u64, u64, Way)> {
    places
        .iter()
        .map(|place| (place.at.start.0, place.at.len(), place.first.0, place.way))
        .collect()
}

#[test]
fn a_process_gets_everything_back_where_it_was() {
    let regions = snapshot(vec![
        region(0x10_0000, MIB, "[heap]"),
        region(0x7000_0000, MIB, ""),
        region(0x7100_0000, 0x2000, "/lib/libc.so.6"),
        region(0x7fff_0000, 0x4000, "[stack]"),
    ]);
    let mappings = [
        mapping(0x10_0000, 2 * MIB, "[heap]"),
        mapping(0x7000_0000, 0x1000, ""),
        mapping(0x7000_1000, MIB - 0x1000, ""),
        mapping(0x7100_0000, 0x2000, "/lib/libc.so.6"),
        mapping(0x7ffe_0000, 0x14000, "[stack]"),
    ];
    let places = decide(&regions, &mappings, true, &[]).expect("it fits");
    assert_eq!(
        whereto(&places),
        [
            (0x10_0000, MIB, 0, Way::Lazy),
            (0x7000_0000, 0x1000, 256, Way::Lazy),
            (0x7000_1000, MIB - 0x1000, 257, Way::Lazy),
            (0x7100_0000, 0x2000, 512, Way::Eager),
            (0x7fff_0000, 0x4000, 514, Way::Lazy),
        ]
    );
    assert_eq!(
        places[0].mapping,
        AddrRange::new(0x10_0000, 0x10_0000 + 2 * MIB),
        "whole mappings are registered"
    );
}

#[test]
fn what_was_unmapped_since_is_mapped_again() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "")]);
    let places = decide(&regions, &[mapping(0x10_0000, MIB, "")], true, &[]).expect("it fits");
    assert_eq!(whereto(&places), [(0x7000_0000, MIB, 0, Way::Mapped)]);
    let holes = [
        mapping(0x7000_0000, 0x1000, ""),
        mapping(0x7000_3000, 0x1000, ""),
    ];
    let places = decide(&regions, &holes, true, &[]).expect("it fits");
    assert_eq!(
        whereto(&places),
        [
            (0x7000_0000, 0x1000, 0, Way::Lazy),
            (0x7000_1000, 0x2000, 1, Way::Mapped),
            (0x7000_3000, 0x1000, 3, Way::Lazy),
            (0x7000_4000, MIB - 0x4000, 4, Way::Mapped),
        ]
    );
}

#[test]
fn a_place_that_is_too_small_is_refused() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "")]);
    let half = [mapping(0x6000_0000, MIB / 2, "")];
    let error = decide(&regions, &half, false, &["largest=0x60000000"]).expect_err("too small");
    assert!(matches!(error, PlacementError::TooSmall { .. }), "{error}");
    assert!(error.to_string().contains("512.0 KiB"), "{error}");
}

#[test]
fn a_heap_without_the_data_of_the_library_is_no_rollback() {
    let regions = snapshot(vec![region(0x10_0000, MIB, "[heap]")]);
    let mappings = [
        mapping(0x10_0000, MIB, "[heap]"),
        mapping(0x7100_0000, 0x2000, "/lib/libc.so.6"),
    ];
    let error = decide(&regions, &mappings, true, &[]).expect_err("half");
    assert!(
        error.to_string().contains("libc.so.6") && error.to_string().contains("--private-files"),
        "{error}"
    );
    assert!(
        decide(&regions, &mappings, true, &["[heap]"]).is_ok(),
        "the user may insist"
    );
}

#[test]
fn another_process_keeps_its_own_heap() {
    let regions = snapshot(vec![
        region(0x10_0000, MIB, "[heap]"),
        region(0x7000_0000, MIB, "/memfd:state (deleted)"),
        region(0x7fff_0000, 0x4000, "[stack]"),
    ]);
    let mappings = [
        mapping(0x10_0000, MIB, "[heap]"),
        mapping(0x6000_0000, MIB, "/memfd:state (deleted)"),
        mapping(0x7fff_0000, 0x4000, "[stack]"),
    ];
    let error = decide(&regions, &mappings, false, &[]).expect_err("refused");
    let text = error.to_string();
    assert!(
        text.contains("[heap]") && text.contains("[stack]") && !text.contains("memfd"),
        "{text}"
    );
    let error = decide(&regions, &mappings, false, &["[heap]"]).expect_err("refused by name too");
    assert!(matches!(error, PlacementError::AnotherProcess { .. }));
    let places = decide(&regions, &mappings, false, &["memfd:state"]).expect("only this");
    assert_eq!(
        whereto(&places),
        [(0x6000_0000, MIB, 256, Way::Lazy)],
        "it moved"
    );
    let places = decide(&regions, &mappings, false, &["[heap]=0x100000"]).expect("the user's word");
    assert_eq!(whereto(&places), [(0x10_0000, MIB, 0, Way::Lazy)]);
}

#[test]
fn names_that_several_mappings_have_are_ambiguous() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "/memfd:ram (deleted)")]);
    let mut mappings = vec![
        mapping(0x5000_0000, MIB, "/memfd:ram (deleted)"),
        mapping(0x6000_0000, MIB, "/memfd:ram (deleted)"),
    ];
    let error = decide(&regions, &mappings, false, &[]).expect_err("two");
    let text = error.to_string();
    assert!(
        text.contains("0x50000000") && text.contains("0x60000000") && text.contains("--region"),
        "{text}"
    );
    // Another part of the file is another mapping.
    mappings[0].mapping.line.offset = MIB;
    assert_eq!(
        whereto(&decide(&regions, &mappings, false, &[]).expect("one"))[0].0,
        0x6000_0000
    );
    mappings[1].mapping.line.end += 0x1000;
    let error = decide(&regions, &mappings, false, &[]).expect_err("another size");
    assert!(matches!(error, PlacementError::Missing { .. }), "{error}");
    // At the very same address there is no question.
    mappings.push(mapping(0x7000_0000, MIB, "/memfd:ram (deleted)"));
    mappings.push(mapping(0x7100_0000, MIB, "/memfd:ram (deleted)"));
    assert_eq!(
        whereto(&decide(&regions, &mappings, false, &[]).expect("exact"))[0].0,
        0x7000_0000
    );
}

#[test]
fn memory_of_a_guest_is_found_by_its_size_alone() {
    let regions = snapshot(vec![region(0x7000_0000, 64 * MIB, "")]);
    let mappings = [
        mapping(0x10_0000, 64 * MIB, "[heap]"),
        mapping(0x6000_0000, 64 * MIB, ""),
        mapping(0x7000_0000, MIB, ""),
    ];
    assert_eq!(
        whereto(&decide(&regions, &mappings, false, &[]).expect("one"))[0].0,
        0x6000_0000
    );
    // Address randomisation leaves the old place free: memory made there would be nobody's.
    assert_eq!(
        whereto(&decide(&regions, &mappings[..2], false, &[]).expect("one")),
        [(0x6000_0000, 64 * MIB, 0, Way::Lazy)]
    );
    let error = decide(&regions, &[mapping(0x6000_0000, 32 * MIB, "")], false, &[])
        .expect_err("another size");
    assert!(matches!(error, PlacementError::Missing { .. }), "{error}");
    let two = snapshot(vec![
        region(0x7000_0000, 64 * MIB, ""),
        region(0x7800_0000, MIB, ""),
    ]);
    let error = decide(&two, &mappings, false, &[]).expect_err("may be anything");
    assert!(matches!(error, PlacementError::Missing { .. }), "{error}");
}

#[test]
fn free_addresses_are_mapped_when_the_user_says_so() {
    let regions = snapshot(vec![
        region(0x7000_0000, MIB, ""),
        region(0x7200_0000, MIB, "/memfd:x"),
    ]);
    let mappings = [mapping(0x7100_0000, 2 * MIB, "")];
    let error =
        decide(&regions, &mappings, false, &["0x70000000"]).expect_err("nobody would use it");
    assert!(error.to_string().contains("it is mapped"), "{error}");
    let places = decide(&regions, &mappings, false, &["0x70000000=0x70000000"]).expect("free");
    assert_eq!(whereto(&places), [(0x7000_0000, MIB, 0, Way::Mapped)]);
    let error = decide(&regions, &mappings, false, &["memfd:x=0x72000000"]).expect_err("shared");
    assert!(matches!(error, PlacementError::NotThere { .. }), "{error}");
}

#[test]
fn wrong_kinds_are_named() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "")]);
    let refused = |mapping: Candidate| {
        decide(&regions, &[mapping], true, &[])
            .expect_err("refused")
            .to_string()
    };
    assert!(refused(mapping(0x7000_0000, MIB, "[vdso]")).contains("kernel"));
    let mut file = mapping(0x7000_0000, MIB, "/data/file");
    file.mapping.line.shared = true;
    assert!(refused(file).contains("a file"));
    let mut served = mapping(0x7000_0000, MIB, "");
    served.mapping.flags.userfault_missing = true;
    assert!(refused(served).contains("another userfaultfd"));
    let mut huge = mapping(0x7000_0000, MIB, "");
    huge.mapping.flags.hugetlb = true;
    huge.mapping.page_kib = 2048;
    assert!(refused(huge.clone()).contains("huge page"));
    huge.mapping.page_kib = 1 << 20;
    assert!(refused(huge).contains("2 MiB"));
}

#[test]
fn regions_that_are_not_there_are_listed() {
    let regions = snapshot(vec![
        region(0x1000, 0x1000, "a"),
        region(0x3000, 0x1000, "a"),
        region(0x5000, 0x2000, ""),
    ]);
    let error = decide(&regions, &[], false, &["b"]).expect_err("no b");
    assert!(
        error.to_string().contains("\"a\" (0x1000, 4.0 KiB)"),
        "{error}"
    );
    let error = decide(&regions, &[], false, &["a"]).expect_err("two");
    assert!(
        matches!(error, PlacementError::SeveralRegions { .. }),
        "{error}"
    );
    let places =
        decide(&regions, &[], false, &["0x3000=0x9000", "largest=0xb000"]).expect("chosen");
    assert_eq!(
        whereto(&places),
        [
            (0x9000, 0x1000, 1, Way::Mapped),
            (0xb000, 0x2000, 2, Way::Mapped)
        ]
    );
    let error =
        decide(&regions, &[], false, &["0x3000=0x9000", "largest=0x9000"]).expect_err("both");
    assert!(matches!(error, PlacementError::Overlap { .. }), "{error}");
}

#[test]
fn private_mappings_of_memory_files_are_restored_at_once() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "/dev/shm/data")]);
    let places = decide(
        &regions,
        &[mapping(0x7000_0000, MIB, "/dev/shm/data")],
        true,
        &[],
    )
    .expect("it fits");
    assert_eq!(places[0].way, Way::Eager);
}

#[test]
fn memory_that_a_thread_stands_on_is_no_guest() {
    let regions = snapshot(vec![region(0x7000_0000, 64 * MIB, "")]);
    let mappings = [mapping(0x6000_0000, 64 * MIB, "")];
    let in_use = [Addr(0x6000_0000 + 64 * MIB - 0x1000)];
    let situation = Situation {
        regions: &regions,
        same_process: false,
        mappings: &mappings,
        in_use: &in_use,
        choices: &[],
    };
    let error = place(&situation).expect_err("a stack");
    assert!(matches!(error, PlacementError::Missing { .. }), "{error}");
    let small = snapshot(vec![region(0x7000_0000, 8 * MIB, "")]);
    let stack = [mapping(0x6000_0000, 8 * MIB, "")];
    assert!(
        decide(&small, &stack, false, &[]).is_err(),
        "as large as a stack"
    );
}

#[test]
fn what_cannot_be_emptied_is_refused() {
    let regions = snapshot(vec![region(0x7000_0000, MIB, "/memfd:ram")]);
    let mut locked = mapping(0x7000_0000, MIB, "/memfd:ram");
    locked.mapping.flags.locked = true;
    let error = decide(&regions, &[locked], true, &[]).expect_err("locked");
    assert!(error.to_string().contains("mlock"), "{error}");
    let regions = snapshot(vec![region(0x7000_0000, 2 * MIB, "/dev/shm/huge")]);
    let mut huge = mapping(0x7000_0000, 2 * MIB, "/dev/shm/huge");
    huge.mapping.flags.hugetlb = true;
    huge.mapping.page_kib = 2048;
    let error = decide(&regions, &[huge], true, &[]).expect_err("private, of a file");
    assert!(error.to_string().contains("huge pages"), "{error}");
}

#[test]
fn shared_memory_that_is_mapped_twice_is_restored_in_both_places() {
    let regions = snapshot(vec![
        region(0x7000_0000, MIB, "/memfd:ram"),
        region(0x7100_0000, MIB, "/memfd:ram"),
    ]);
    let mut mappings = [
        mapping(0x7000_0000, MIB, "/memfd:ram"),
        mapping(0x7100_0000, MIB, "/memfd:ram"),
    ];
    mappings[1].mapping.line.inode = mappings[0].mapping.line.inode;
    assert_eq!(
        decide(&regions, &mappings, true, &[]).expect("both").len(),
        2
    );
    let error = decide(&regions, &mappings, true, &["0x70000000"]).expect_err("one alone");
    assert!(error.to_string().contains("0x71000000"), "{error}");
    mappings[1].mapping.line.offset = MIB;
    assert!(
        decide(&regions, &mappings, true, &["0x70000000"]).is_ok(),
        "another part of it"
    );
}
