//! Everything that is refused. Each text names the file and says what to do.

use std::fs;

use uffd_restore::criu::Images;

use crate::writer::{
    Dump, INVENTORY, MM, Message, PAGEMAP, PSTREE, Vma, image, inventory, mm, mm_message, pagemap,
    pages, pstree,
};

fn good() -> Dump {
    let vmas = [Vma::lazy(0x10000, 0x20000), Vma::lazy(0x30000, 0x40000)];
    Dump::with(&vmas, &[(0x10000, 2, 6), (0x12000, 1, 4)], &pages(0..3))
}

/// The text that a directory is refused with. It names the file.
fn refused(dump: &Dump, file: &str) -> String {
    let error = Images::open(&dump.folder()).expect_err(file).to_string();
    assert!(error.contains(&format!("{file}\"")), "{error}");
    let has_next_step = [
        "dump again",
        "give the directory",
        "give a directory",
        "dump with one of those",
    ];
    assert!(
        has_next_step.iter().any(|step| error.contains(step)) || error.contains("os error"),
        "{error}"
    );
    error
}

/// The same for a directory that is good but for one file.
fn with(file: &str, bytes: &[u8]) -> String {
    let dump = good();
    Images::open(&dump.folder()).expect("it is good before");
    dump.put(file, bytes);
    refused(&dump, file)
}

fn number(field: u64, value: u64) -> Message {
    Message::default().number(field, value)
}

#[test]
fn what_is_no_dump() {
    let dump = good();
    dump.remove("pstree.img");
    assert!(refused(&dump, "dump").contains("pre-dump"));
    dump.remove("inventory.img");
    assert!(refused(&dump, "dump").contains("no inventory.img"));
    let missing = Images::open(&dump.folder().join("nothing")).expect_err("nothing there");
    assert!(missing.to_string().contains("no inventory.img"));
    let file = Images::open(&dump.folder().join("pages-1.img")).expect_err("a file");
    assert!(file.to_string().contains("cannot open"), "{file}");
}

#[test]
fn versions_that_are_not_known() {
    for version in [0, 1, 3, 4_294_967_295] {
        let error = with("inventory.img", &inventory(version));
        assert!(error.contains(&format!("version {version}:")), "{error}");
    }
    let error = with("inventory.img", &image(INVENTORY, &[number(2, 1)]));
    assert!(error.contains("which version"), "{error}");
    with("inventory.img", &image(INVENTORY, &[]));
}

#[test]
fn images_of_another_kind() {
    let files = ["inventory.img", "pstree.img", "mm-7.img", "pagemap-7.img"];
    for (name, magic) in files.into_iter().zip([PSTREE, MM, PAGEMAP, PSTREE]) {
        let error = with(name, &image(magic, &[number(1, 2)]));
        assert!(error.contains("does not begin as"), "{error}");
        with(name, &[]);
        with(name, b"\x19\x43");
    }
}

#[test]
fn processes_that_cannot_be() {
    for (processes, word) in [
        (&[][..], "no processes"),
        (&[(7, 0), (7, 0)], "twice"),
        (&[(0, 0)], "cannot be"),
        (&[(0x8000_0000, 0)], "cannot be"),
        (&[(7, 0x8000_0000)], "cannot be"),
        (&[(0xffff_ffff, 0)], "cannot be"),
    ] {
        let error = with("pstree.img", &pstree(processes));
        assert!(error.contains(word), "{error}");
    }
    with("pstree.img", &image(PSTREE, &[number(1, 7)]));
    with("pstree.img", &image(PSTREE, &[number(2, 7)]));
}

#[test]
fn half_a_process() {
    for (missing, there) in [("mm-7.img", "pagemap-7.img"), ("pagemap-7.img", "mm-7.img")] {
        let dump = good();
        dump.remove(missing);
        let error = refused(&dump, missing);
        assert!(
            error.contains("is missing") && error.contains(there),
            "{error}"
        );
    }
}

#[test]
fn mappings_that_cannot_be() {
    let lazy = Vma::lazy;
    for vmas in [
        &[lazy(0x10001, 0x20000)][..],
        &[lazy(0x10000, 0x20001)],
        &[lazy(0x20000, 0x10000)],
        &[lazy(0x10000, 0x10000)],
        &[lazy(0x10000, 0x20000), lazy(0x1f000, 0x30000)],
        &[lazy(0x30000, 0x40000), lazy(0x10000, 0x20000)],
    ] {
        let error = with("mm-7.img", &mm(vmas));
        assert!(
            error.contains("cannot be") || error.contains("out of order"),
            "{error}"
        );
    }
    let twice = image(MM, &[mm_message(&[]), mm_message(&[])]);
    assert!(with("mm-7.img", &twice).contains("more than one"));
    assert!(with("mm-7.img", &image(MM, &[])).contains("no messages"));
    // A mapping without its end, or without flags.
    let message = |vma: &Message| image(MM, &[Message::default().bytes(14, &vma.0)]);
    with("mm-7.img", &message(&number(1, 0x10000)));
    let vma = number(1, 0x10000)
        .number(2, 0x20000)
        .number(5, 3)
        .number(7, 1);
    assert!(with("mm-7.img", &message(&vma)).contains("what the mapping at"));
    // Numbers where messages are.
    assert!(with("mm-7.img", &image(MM, &[number(14, 5)])).contains("message 0"));
}

#[test]
fn entries_that_cannot_be() {
    for entries in [
        &[(0x10001, 1, 6)][..],
        &[(0x10000, 0, 6)],
        &[(0x10000, u64::MAX, 6)],
        &[(0x10000, 1 << 52, 6)],
        &[(0xffff_ffff_ffff_f000, 1, 6)],
        &[(0x10000, 2, 6), (0x11000, 1, 6)],
        &[(0x11000, 1, 6), (0x10000, 1, 6)],
        &[(0x10000, 1, 6), (0x10000, 1, 6)],
    ] {
        let error = with("pagemap-7.img", &pagemap(1, entries));
        assert!(
            error.contains("cannot be") || error.contains("out of order"),
            "{error}"
        );
    }
    for messages in [
        &[number(2, 1)][..],
        &[number(1, 1), number(4, 6).number(5, 1)],
        &[],
    ] {
        with("pagemap-7.img", &image(PAGEMAP, messages));
    }
}

#[test]
fn flags_that_are_not_known() {
    // Nowhere, in two places, and what comes after 4.2.
    for flags in [0, 5, 7, 8, 14, 0x8000_0006, 0xffff_ffff] {
        let error = with("pagemap-7.img", &pagemap(1, &[(0x10000, 1, flags)]));
        assert!(
            error.contains(&format!("flags {flags:#x}, which are not known")),
            "{error}"
        );
    }
}

#[test]
fn lazy_pages_that_nobody_would_restore() {
    let locked = Vma {
        flags: 0x2022,
        ..Vma::lazy(0x20000, 0x30000)
    };
    let vmas = [Vma::lazy(0x10000, 0x20000), locked];
    for (entry, at) in [
        ((0x20000, 1, 6), "0x20000-0x21000"),
        ((0x1f000, 2, 6), "0x20000-0x21000"),
        ((0xf000, 2, 6), "0xf000-0x11000"),
        ((0x50000, 3, 2), "0x50000-0x53000"),
    ] {
        let dump = Dump::with(&vmas, &[entry], &pages(0..3));
        let error = refused(&dump, "pagemap-7.img");
        assert!(
            error.contains(at) && error.contains("it would be zero"),
            "{error}"
        );
    }
}

#[test]
fn pages_that_are_not_there() {
    let dump = good();
    dump.put("pages-1.img", &pages(0..2));
    let error = refused(&dump, "pages-1.img");
    assert!(
        error.contains("has 2 pages, but") && error.contains("says 3"),
        "{error}"
    );
    dump.put("pages-1.img", &pages(0..3)[1..]);
    assert!(refused(&dump, "pages-1.img").contains("whole pages"));
    dump.put("pages-1.img", &[]);
    refused(&dump, "pages-1.img");
    dump.remove("pages-1.img");
    refused(&dump, "pages-1.img");
    fs::create_dir(dump.folder().join("pages-1.img")).expect("space");
    let error = Images::open(&dump.folder())
        .expect_err("a folder")
        .to_string();
    assert!(error.contains("not a regular file"), "{error}");
}

#[test]
fn what_would_never_end() {
    let dump = good();
    dump.remove("mm-7.img");
    let pipe = dump.folder().join("mm-7.img");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("space");
    let error = Images::open(&dump.folder())
        .expect_err("a pipe")
        .to_string();
    assert!(error.contains("not a regular file"), "{error}");
    fs::remove_file(&pipe).expect("it is there");
    // A file of 8 TiB, all of it a hole.
    let file = fs::File::create(pipe).expect("space");
    file.set_len(8 << 40).expect("it takes no space");
    let error = refused(&dump, "mm-7.img");
    assert!(error.contains("larger than"), "{error}");
}
