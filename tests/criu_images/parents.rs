//! Incremental dumps: pages that are in the directory before, or in the one before that.

use std::os::unix::fs::symlink;

use uffd_restore::addr::AddrRange;
use uffd_restore::criu::Images;

use crate::numbers_in;
use crate::writer::{Dump, Entry, Vma, pages};

const VMAS: [Vma; 1] = [Vma {
    start: 0x10000,
    end: 0x40000,
    prot: 3,
    flags: 0x22,
    status: 0x201,
    madv: 0,
}];

/// What is found: addresses, and numbers of pages.
fn found(dump: &Dump) -> Vec<(AddrRange, Option<Vec<u64>>)> {
    let images = Images::open(&dump.folder()).expect("good");
    images.refuse_holes().expect("no holes");
    let runs = images.processes[0].lazy.iter();
    runs.map(|run| (run.at, numbers_in(&images, run))).collect()
}

fn refused(dump: &Dump) -> String {
    Images::open(&dump.folder())
        .expect_err("refused")
        .to_string()
}

#[test]
fn one_entry_may_be_several_in_the_parent_and_in_its_parent() {
    let dump = Dump::with(
        &VMAS,
        &[(0x10000, 1, 6), (0x12000, 8, 3), (0x20000, 1, 6)],
        &pages(0..2),
    );
    let first = [
        (0x11000, 2, 4),
        (0x13000, 3, 1),
        (0x16000, 1, 2),
        (0x17000, 9, 6),
    ];
    let first = dump.parent(&dump.folder(), "first", &first, &pages(100..111));
    let second = [(0x10000, 4, 6), (0x14000, 1, 4), (0x15000, 3, 6)];
    dump.parent(&first, "second", &second, &pages(200..208));
    let range = AddrRange::new;
    assert_eq!(
        found(&dump),
        [
            (range(0x10000, 0x11000), Some(vec![0])),
            (range(0x12000, 0x13000), Some(vec![101])),
            (range(0x13000, 0x16000), Some(vec![203, 204, 205])),
            (range(0x16000, 0x17000), None),
            (range(0x17000, 0x1a000), Some(vec![102, 103, 104])),
            (range(0x20000, 0x21000), Some(vec![1])),
        ]
    );
}

#[test]
fn what_is_not_lazy_is_none_of_our_business() {
    // CRIU restores it itself, whatever the parent says of it; there is not even a parent here.
    let dump = Dump::with(&VMAS, &[(0x10000, 1, 6), (0x12000, 8, 1)], &pages(0..1));
    let images = Images::open(&dump.folder()).expect("good");
    assert_eq!(images.processes[0].eager_pages, 8);
    assert_eq!(images.processes[0].lazy.len(), 1);
}

fn with_parent(entries: &[Entry], present: u64) -> Dump {
    let dump = Dump::with(&VMAS, &[(0x12000, 4, 3)], &[]);
    dump.parent(&dump.folder(), "first", entries, &pages(0..present));
    dump
}

#[test]
fn pages_that_the_parent_lacks_are_refused() {
    for (entries, missing) in [
        (&[][..], "0x12000"),
        (&[(0x12000, 2, 6)], "0x14000"),
        (&[(0x13000, 9, 6)], "0x12000"),
        (&[(0x12000, 1, 6), (0x14000, 5, 6)], "0x13000"),
        (&[(0x10000, 2, 6)], "0x12000"),
    ] {
        let error = refused(&with_parent(entries, 9));
        assert!(error.contains(missing), "{error}");
        assert!(
            error.contains("first/pagemap-7.img\"") || error.contains("parent/pagemap-7.img\""),
            "{error}"
        );
    }
    let error = refused(&with_parent(&[(0x12000, 4, 6)], 3));
    assert!(
        error.contains("has 3 pages, but") && error.contains("says 4"),
        "{error}"
    );
}

#[test]
fn links_that_lead_nowhere_or_in_a_circle_are_refused() {
    let dump = with_parent(&[(0x12000, 4, 3)], 0);
    let error = refused(&dump);
    assert!(error.contains("\"parent\" is missing"), "{error}");
    let first = dump.folder().join("../first/parent");
    symlink("../nowhere", &first).expect("space");
    assert!(refused(&dump).contains("leads nowhere"));
    for circle in ["../dump", ".", "../first/../dump/parent"] {
        std::fs::remove_file(&first).expect("it is there");
        symlink(circle, &first).expect("space");
        let error = refused(&dump);
        assert!(error.contains("leads back"), "{error}");
    }
    std::fs::remove_file(&first).expect("it is there");
    symlink("parent", &first).expect("space");
    assert!(refused(&dump).contains("cannot be followed"));
    std::fs::remove_file(&first).expect("it is there");
    std::fs::write(&first, "").expect("space");
    assert!(refused(&dump).contains("cannot be followed"));
}

#[test]
fn a_parent_without_the_process_or_of_another_version_is_refused() {
    let dump = with_parent(&[(0x12000, 4, 6)], 4);
    let first = dump.folder().join("../first");
    std::fs::write(first.join("inventory.img"), crate::writer::inventory(3)).expect("space");
    assert!(refused(&dump).contains("version 3"));
    // Before 4.0, criu pre-dump wrote none.
    std::fs::remove_file(first.join("inventory.img")).expect("there");
    assert_eq!(found(&dump).len(), 1);
    std::fs::remove_file(first.join("pagemap-7.img")).expect("there");
    let error = refused(&dump);
    assert!(
        error.contains("parent/pagemap-7.img\" is missing"),
        "{error}"
    );
}
