//! Pagemaps written again, and marked.

use uffd_restore::addr::Addr;
use uffd_restore::criu::Images;
use uffd_restore::criu::pagemap::{Counts, Entry, Flags, Pagemap};

use crate::writer::{
    Dump, Message, PAGEMAP, Vma, image, narrow_pagemap, old_pagemap, pagemap, pages,
};

const ENTRIES: [(u64, u64, u64); 5] = [
    (0x10000, 1, 6),
    (0x11000, 256, 4),
    (0x7ffc_8000_0000, 3, 2),
    (0x7ffc_8000_3000, 0xffff_ffff, 1),
    (1 << 60, 1 << 40, 3),
];

#[test]
fn come_out_as_they_were() {
    let narrow = &ENTRIES[..4];
    for bytes in [
        pagemap(3, &ENTRIES),
        pagemap(3, &[]),
        narrow_pagemap(0xffff_ffff, narrow),
    ] {
        let read = Pagemap::read(&bytes).expect("good");
        assert_eq!(read.encode(), bytes);
        assert!(!read.marked);
    }
    let read = Pagemap::read(&pagemap(3, &ENTRIES)).expect("good");
    assert_eq!(
        (read.pages_id, read.counts, read.present_pages()),
        (3, Counts::Wide, 257)
    );
    let first = Entry {
        at: Addr(0x10000),
        pages: 1,
        flags: Flags::LAZY_PRESENT,
    };
    assert_eq!(read.entries[0], first);
}

#[test]
fn what_would_be_lost_shows() {
    // Written by a CRIU without flags, or by one that says more.
    let old = old_pagemap(1, &[(0x10000, 1, 4), (0x11000, 1, 1)]);
    let more = Message::default().number(1, 0x10000).number(2, 0);
    let more = more.number(4, 6).number(5, 1).number(9, 1);
    let more = image(PAGEMAP, &[Message::default().number(1, 1), more]);
    for bytes in [old, more] {
        let read = Pagemap::read(&bytes).expect("good");
        assert_ne!(read.encode(), bytes);
    }
}

#[test]
fn the_mark_comes_first_and_is_no_entry() {
    for (bytes, mark) in [
        (pagemap(3, &ENTRIES), 1 << 51),
        (narrow_pagemap(3, &ENTRIES[..4]), 0xffff_ffff),
    ] {
        let plain = Pagemap::read(&bytes).expect("good");
        let marked = Pagemap {
            marked: true,
            ..plain.clone()
        };
        let mut with_mark = vec![(0, mark, 2)];
        with_mark.extend(&ENTRIES[..plain.entries.len()]);
        let expected = match plain.counts {
            Counts::Wide => pagemap(3, &with_mark),
            Counts::Narrow => narrow_pagemap(3, &with_mark),
        };
        assert_eq!(marked.encode(), expected);
        assert_eq!(Pagemap::read(&expected), Ok(marked));
    }
    // Twice, in another place, with other flags, or of another size it is an entry that cannot be.
    for entries in [
        [(0, 1 << 51, 2), (0, 1 << 51, 2), (0x10000, 1, 6)],
        [(0x1000, 1 << 51, 2), (0x2000, 1, 6), (0x10000, 1, 6)],
        [(0, 1 << 51, 6), (0x2000, 1, 6), (0x10000, 1, 6)],
        [(0, 1 << 50, 2), (0x2000, 1, 6), (0x10000, 1, 6)],
    ] {
        Pagemap::read(&pagemap(3, &entries)).expect_err("no mark");
    }
}

#[test]
fn a_marked_process_is_known() {
    let vmas = [Vma::lazy(0x10000, 0x20000)];
    let entries = [(0, 1 << 51, 2), (0x10000, 2, 2), (0x12000, 1, 4)];
    let dump = Dump::with(&vmas, &entries, &pages(0..1));
    let images = Images::open(&dump.folder()).expect("good");
    let process = &images.processes[0];
    assert!(process.stripped && process.can_be_marked);
    assert_eq!((process.lazy.len(), process.lazy[0].stored), (1, None));
    let vmas = [Vma::lazy(0, 0x1000)];
    let dump = Dump::with(&vmas, &[], &[]);
    let images = Images::open(&dump.folder()).expect("good");
    assert!(!images.processes[0].can_be_marked);
}

#[test]
fn flags_have_names() {
    let flags: Vec<_> = (1..7)
        .map(Flags::new)
        .map(|flags| format!("{flags:?}"))
        .collect();
    let expected = [
        "Some(PARENT)",
        "Some(LAZY)",
        "Some(PARENT|LAZY)",
        "Some(PRESENT)",
        "None",
        "Some(LAZY|PRESENT)",
    ];
    assert_eq!(flags, expected);
}
