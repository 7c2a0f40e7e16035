//! Images that were cut off, or changed in one byte: refused, or understood; never more than that.

use proptest::prelude::*;
use proptest::sample::Index;
use uffd_restore::criu::Images;
use uffd_restore::criu::pagemap::Pagemap;

use crate::writer::{Dump, Vma, inventory, mm, pagemap, pages, pstree};

const ENTRIES: [(u64, u64, u64); 4] = [
    (0x10000, 2, 6),
    (0x12000, 300, 2),
    (0x30_0000, 1, 4),
    (0x7f00_0000_0000, 1, 6),
];

fn vmas() -> [Vma; 3] {
    [
        Vma::lazy(0x10000, 0x20_0000),
        Vma {
            flags: 0x2022,
            ..Vma::lazy(0x30_0000, 0x40_0000)
        },
        Vma::lazy(0x7f00_0000_0000, 0x7f00_0001_0000),
    ]
}

/// A good directory, and its images.
fn good() -> (Dump, [(&'static str, Vec<u8>); 4]) {
    let dump = Dump::with(&vmas(), &ENTRIES, &pages(0..4));
    let images = [
        ("inventory.img", inventory(2)),
        ("pstree.img", pstree(&[(7, 0)])),
        ("mm-7.img", mm(&vmas())),
        ("pagemap-7.img", pagemap(1, &ENTRIES)),
    ];
    (dump, images)
}

#[test]
fn cut_off_anywhere() {
    let (dump, images) = good();
    let whole = Images::open(&dump.folder()).expect("good");
    for (name, bytes) in &images {
        let mut accepted = 0;
        for len in 0..bytes.len() {
            dump.put(name, &bytes[..len]);
            match Images::open(&dump.folder()) {
                Err(error) => assert!(
                    error.to_string().contains(name) || *name == "pstree.img",
                    "{error}"
                ),
                // Cut between two messages: nothing tells that there were more.
                Ok(part) => {
                    accepted += 1;
                    let lazy = &part.processes[0].lazy;
                    assert!(
                        whole.processes[0].lazy.starts_with(lazy),
                        "{name}, {len} bytes"
                    );
                }
            }
        }
        // Between the entries of a pagemap only.
        assert_eq!(
            accepted,
            if *name == "pagemap-7.img" { 4 } else { 0 },
            "{name}"
        );
        dump.put(name, bytes);
    }
    Images::open(&dump.folder()).expect("good again");
}

#[test]
fn one_byte_changed_anywhere() {
    let (dump, images) = good();
    for (name, bytes) in &images {
        let mut changed = bytes.clone();
        for at in 0..bytes.len() {
            for change in [0x01, 0x02, 0x08, 0x40, 0x80, 0xff] {
                changed[at] = bytes[at] ^ change;
                dump.put(name, &changed);
                // Whatever is accepted can be served: no page is behind the end of its file or outside of its mapping.
                if let Ok(images) = Images::open(&dump.folder()) {
                    check(&images);
                }
            }
            changed[at] = bytes[at];
        }
        dump.put(name, bytes);
    }
}

#[test]
fn lengths_that_lie() {
    let (dump, images) = good();
    for (name, bytes) in &images {
        let first = if *name == "inventory.img" { 4 } else { 8 };
        for len in [0, 1, 0x7fff_ffff, 0xffff_ffff_u32] {
            let mut changed = bytes.clone();
            changed[first..first + 4].copy_from_slice(&len.to_le_bytes());
            dump.put(name, &changed);
            Images::open(&dump.folder()).expect_err(name);
        }
        dump.put(name, bytes);
    }
}

fn check(images: &Images) {
    for process in &images.processes {
        for run in &process.lazy {
            assert!(!run.at.is_empty());
            assert!(
                process
                    .mappings
                    .iter()
                    .any(|mapping| mapping.at.covers(run.at))
            );
            if let Some(stored) = run.stored {
                let file = &images.files[stored.file];
                assert!(stored.page + run.at.len() / 4096 <= file.pages);
            }
        }
        assert!(
            process
                .lazy
                .is_sorted_by(|one, next| one.at.end <= next.at.start)
        );
    }
}

/// A change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Replace(Vec<u8>),
    Insert(Vec<u8>),
    Remove(usize),
    Repeat(usize),
}

fn edit() -> impl Strategy<Value = (Index, Edit)> {
    let bytes = || prop::collection::vec(any::<u8>(), 1..9);
    let edit = prop_oneof![
        bytes().prop_map(Edit::Replace),
        bytes().prop_map(Edit::Insert),
        (1usize..20).prop_map(Edit::Remove),
        (1usize..40).prop_map(Edit::Repeat),
    ];
    (any::<Index>(), edit)
}

fn apply(edit: &Edit, at: usize, bytes: &mut Vec<u8>) {
    let end = |len: usize| (at + len).min(bytes.len());
    let _ = match edit {
        Edit::Replace(new) => bytes.splice(at..end(new.len()), new.clone()),
        Edit::Insert(new) => bytes.splice(at..at, new.clone()),
        Edit::Remove(len) => bytes.splice(at..end(*len), Vec::new()),
        Edit::Repeat(len) => bytes.splice(at..at, bytes[at..end(*len)].to_vec()),
    };
}

proptest! {
    #[test]
    fn edited_in_several_places(image in 0usize..4, edits in prop::collection::vec(edit(), 1..5)) {
        let (dump, images) = good();
        let (name, mut bytes) = images[image].clone();
        for (at, edit) in &edits {
            apply(edit, at.index(bytes.len() + 1), &mut bytes);
        }
        dump.put(name, &bytes);
        if let Ok(images) = Images::open(&dump.folder()) {
            check(&images);
        }
    }

    #[test]
    fn any_bytes(bytes: Vec<u8>, behind: bool) {
        let mut all = if behind { pagemap(1, &[])[..8].to_vec() } else { Vec::new() };
        all.extend(bytes);
        if let Ok(read) = Pagemap::read(&all) {
            let again = Pagemap::read(&read.encode());
            prop_assert_eq!(again, Ok(read));
        }
        let (dump, images) = good();
        for (name, image) in images {
            dump.put(name, &all);
            if let Ok(images) = Images::open(&dump.folder()) {
                check(&images);
            }
            dump.put(name, &image);
        }
    }
}
