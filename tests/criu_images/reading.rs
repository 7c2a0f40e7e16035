//! What is read from good images.

use uffd_restore::addr::AddrRange;
use uffd_restore::criu::{Images, LazyRun, Mapping, Stored};

use crate::numbers_in;
use crate::writer::{Dump, Vma, mm, narrow_pagemap, old_pagemap, page, pagemap, pages};

fn mapping(start: u64, end: u64) -> Mapping {
    Mapping {
        at: AddrRange::new(start, end),
        protection: 3,
        wiped_on_fork: false,
        name: "",
    }
}

#[test]
fn only_what_criu_registers_is_a_mapping() {
    let other = |flags, status, at: u64| Vma {
        flags,
        status,
        ..Vma::lazy(at, at + 0x1000)
    };
    let vmas = [
        Vma::lazy(0x10000, 0x20000),
        other(0x22, 0x221, 0x20000),
        Vma {
            madv: 1 << 18 | 1 << 10,
            prot: 1,
            ..Vma::lazy(0x30000, 0x31000)
        },
        // Locked, huge, shared, of a file, grows down.
        other(0x2022, 0x201, 0x40000),
        other(0x4_0022, 0x201, 0x50000),
        other(0x21, 0x101, 0x60000),
        other(0x2, 0x41, 0x70000),
        other(0x122, 0x201, 0x80000),
        Vma::lazy(0x7fff_0000_0000, 0x7fff_0000_5000),
        // vvar, vdso, vsyscall.
        other(0x22, 0x1201, 0x7fff_1000_0000),
        other(0x22, 0x209, 0x7fff_1000_1000),
        other(0x22, 0x204, 0xffff_ffff_ff60_0000),
    ];
    let images = Images::open(&Dump::with(&vmas, &[], &[]).folder()).expect("good");
    let process = &images.processes[0];
    let expected = [
        mapping(0x10000, 0x20000),
        Mapping {
            name: "[heap]",
            ..mapping(0x20000, 0x21000)
        },
        Mapping {
            protection: 1,
            wiped_on_fork: true,
            ..mapping(0x30000, 0x31000)
        },
        mapping(0x80000, 0x81000),
        Mapping {
            name: "[stack]",
            ..mapping(0x7fff_0000_0000, 0x7fff_0000_5000)
        },
    ];
    assert_eq!(process.mappings, expected);
    let top = AddrRange::new(0x7fff_0000_1000, 0x7fff_0000_5000);
    assert_eq!(process.stack_top, Some(top));
    let arguments = AddrRange::new(0x7fff_0000_3b00, 0x7fff_0000_3ff8);
    assert_eq!(process.arguments, arguments);
    assert!(process.has_memory && process.can_be_marked && !process.stripped);
    assert!(images.files.is_empty() && process.lazy.is_empty());
    assert_ne!((images.inventory, process.pagemap), (0, 0));
}

#[test]
fn runs_are_joined_and_cut_where_mappings_end() {
    let vmas = [
        Vma::lazy(0x10000, 0x14000),
        Vma::lazy(0x14000, 0x20000),
        Vma {
            flags: 0x2022,
            ..Vma::lazy(0x20000, 0x22000)
        },
        Vma::lazy(0x22000, 0x30000),
    ];
    let entries = [
        (0x10000, 2, 6),
        (0x12000, 4, 6),
        // Not there, twice, then there again.
        (0x16000, 1, 2),
        (0x17000, 1, 2),
        (0x18000, 1, 6),
        (0x20000, 2, 4),
        (0x22000, 1, 6),
        (0x23000, 1, 6),
        (0x25000, 1, 6),
    ];
    let dump = Dump::with(&vmas, &entries, &pages(0..12));
    let images = Images::open(&dump.folder()).expect("good");
    let run = |start, end, page: Option<u64>| LazyRun {
        at: AddrRange::new(start, end),
        stored: page.map(|page| Stored { file: 0, page }),
    };
    let process = &images.processes[0];
    let expected = [
        run(0x10000, 0x14000, Some(0)),
        run(0x14000, 0x16000, Some(4)),
        run(0x16000, 0x18000, None),
        run(0x18000, 0x19000, Some(6)),
        run(0x22000, 0x24000, Some(9)),
        run(0x25000, 0x26000, Some(11)),
    ];
    assert_eq!(process.lazy, expected);
    assert_eq!(process.eager_pages, 2);
    assert_eq!(images.files.len(), 1);
    assert_eq!(images.files[0].pages, 12);
    assert_eq!(numbers_in(&images, &process.lazy[1]), Some(vec![4, 5]));
}

#[test]
fn a_tree_with_a_zombie() {
    let dump = Dump::of(&[(5, 0), (9, 5), (7, 5), (11, 7)]);
    for (id, pid) in [(3, 5), (1, 7), (2, 11)] {
        dump.put(
            &format!("mm-{pid}.img"),
            &mm(&[Vma::lazy(0x10000, 0x20000)]),
        );
        let entries = [(0x11000, 1, 4), (0x12000, 2, 6)];
        dump.put(&format!("pagemap-{pid}.img"), &pagemap(id, &entries));
        let first = pid * 100;
        dump.put(&format!("pages-{id}.img"), &pages(first..first + 3));
    }
    let images = Images::open(&dump.folder()).expect("good");
    let pids: Vec<_> = images
        .processes
        .iter()
        .map(|process| (process.pid, process.parent))
        .collect();
    assert_eq!(pids, [(5, 0), (9, 5), (7, 5), (11, 7)]);
    for process in &images.processes {
        if process.pid == 9 {
            assert!(!process.has_memory && process.lazy.is_empty() && process.pagemap == 0);
            continue;
        }
        let first = u64::try_from(process.pid).expect("positive") * 100;
        let got = numbers_in(&images, &process.lazy[0]);
        assert_eq!(got, Some(vec![first + 1, first + 2]));
    }
    let names: Vec<_> = images
        .files
        .iter()
        .map(|file| file.path.file_name())
        .collect();
    assert_eq!(
        names,
        ["pages-3.img", "pages-1.img", "pages-2.img"].map(|name| Some(name.as_ref()))
    );
}

#[test]
fn older_ones_count_in_32_bits() {
    let vmas = [Vma::lazy(0x10000, 0x20000)];
    let entries = [(0x10000, 2, 6), (0x12000, 1, 4), (0x13000, 1, 6)];
    let dump = Dump::with(&vmas, &entries, &pages(0..4));
    let wide = Images::open(&dump.folder()).expect("good");
    dump.put("pagemap-7.img", &narrow_pagemap(1, &entries));
    let narrow = Images::open(&dump.folder()).expect("good");
    assert_eq!(wide.processes[0].lazy, narrow.processes[0].lazy);
    // Before there were flags nothing was lazy.
    dump.put("pagemap-7.img", &old_pagemap(1, &entries));
    let old = Images::open(&dump.folder()).expect("good");
    assert_eq!(
        (old.processes[0].lazy.len(), old.processes[0].eager_pages),
        (0, 4)
    );
}

#[test]
fn files_of_others_may_have_more_pages_or_not_be_needed() {
    let vmas = [Vma::lazy(0x10000, 0x20000)];
    let dump = Dump::with(&vmas, &[(0x10000, 1, 6)], &pages(0..9));
    assert_eq!(
        Images::open(&dump.folder()).expect("good").files[0].pages,
        9
    );
    // As `criu dump --lazy-pages` leaves it: no page is in the file.
    dump.put("pagemap-7.img", &pagemap(1, &[(0x10000, 1, 2)]));
    dump.remove("pages-1.img");
    let images = Images::open(&dump.folder()).expect("good");
    assert!(images.files.is_empty() && images.processes[0].lazy[0].stored.is_none());
}

#[test]
fn arguments_that_cannot_be_are_none() {
    let dump = Dump::with(&[Vma::lazy(0x10000, 0x20000)], &[], &[]);
    let of = |from: u64, middle: u64, to: u64| {
        let message = crate::writer::Message::default();
        let message = message.number(8, from).number(9, middle).number(11, to);
        dump.put(
            "mm-7.img",
            &crate::writer::image(crate::writer::MM, &[message]),
        );
        let images = Images::open(&dump.folder()).expect("good");
        images.processes[0].arguments
    };
    assert!(of(0x5000, 0x4000, 0x3000).is_empty());
    assert_eq!(of(0x5000, 0x5100, 0x5200), AddrRange::new(0x5000, 0x5200));
    // A process that moved its arguments to its heap, for `ps` to see.
    assert_eq!(
        of(0x5000, 0x5100, 0x7fff_0000_0000),
        AddrRange::new(0x5000, 0x5100)
    );
    assert!(of(0x5000, u64::MAX, u64::MAX).is_empty());
}

#[test]
fn holes_under_lazy_pages_are_refused_when_asked() {
    let vmas = [Vma::lazy(0x10000, 0x40000)];
    let entries = [(0x10000, 4, 6), (0x18000, 4, 4), (0x20000, 8, 6)];
    let dump = Dump::with(&vmas, &entries, &pages(0..16));
    let images = Images::open(&dump.folder()).expect("good");
    images.refuse_holes().expect("there is no hole");
    // Under eager pages holes are the business of criu.
    let holes = |at: &[u64]| {
        dump.remove("pages-1.img");
        let file = std::fs::File::create(dump.folder().join("pages-1.img")).expect("space");
        file.set_len(16 * 4096).expect("space");
        for number in (0..16).filter(|number| !at.contains(number)) {
            std::os::unix::fs::FileExt::write_all_at(&file, &page(number), number * 4096)
                .expect("space");
        }
        let images = Images::open(&dump.folder()).expect("good");
        images.refuse_holes().map_err(|error| error.to_string())
    };
    assert_eq!(holes(&[4, 5, 7]), Ok(()));
    let error = holes(&[5, 11, 12, 15]).expect_err("holes");
    assert!(
        error.contains("3 lazy pages") && error.contains("page 11"),
        "{error}"
    );
    assert!(
        error.contains("pages-1.img") && error.contains("--holes-are-zeros"),
        "{error}"
    );
    let error = holes(&(0..16).collect::<Vec<_>>()).expect_err("nothing but holes");
    assert!(
        error.contains("12 lazy pages") && error.contains("page 0"),
        "{error}"
    );
}

#[test]
fn processes_that_share_a_file() {
    let dump = Dump::of(&[(7, 0), (9, 7)]);
    for (pid, pages) in [(7, 6), (9, 8)] {
        dump.put(
            &format!("mm-{pid}.img"),
            &mm(&[Vma::lazy(0x10000, 0x20000)]),
        );
        dump.put(
            &format!("pagemap-{pid}.img"),
            &pagemap(1, &[(0x10000, pages, 6)]),
        );
    }
    let file = std::fs::File::create(dump.folder().join("pages-1.img")).expect("space");
    file.set_len(8 * 4096).expect("space");
    let images = Images::open(&dump.folder()).expect("good");
    assert_eq!(images.files.len(), 1);
    // What both use is one page.
    let error = images
        .refuse_holes()
        .expect_err("nothing but holes")
        .to_string();
    assert!(error.contains("8 lazy pages"), "{error}");
    // It must be long enough for both.
    file.set_len(7 * 4096).expect("space");
    let error = Images::open(&dump.folder())
        .expect_err("too short")
        .to_string();
    assert!(
        error.contains("has 7 pages, but") && error.contains("pagemap-9.img"),
        "{error}"
    );
}
