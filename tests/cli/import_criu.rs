//! `import-criu`: what is in the snapshot, what is left of the directory, and what is refused.

use super::criu_writer::{PAGE, Vma, inventory, mm, pagemap, pages, pstree};
use super::dumps::{
    EAGER, ELSEWHERE, Files, HEAP, LAZY, STACK, files, in_snapshot, lazy_pages, put, tree,
};
use super::leaves_nothing::SmallDisk;
use super::{Workshop, stderr};
use snapshot_format::{Cursor, RegionKind, Snapshot};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::sync::Arc;

fn with_tree() -> (Workshop, Files) {
    let shop = Workshop::new();
    tree(&shop.path("dump"));
    let before = files(&shop.path("dump"));
    (shop, before)
}

/// A dump of one process with these entries and pages.
fn with_one(entries: &[(u64, u64, u64)], numbers: &[u64]) -> Workshop {
    let shop = Workshop::new();
    let folder = shop.path("dump");
    fs::create_dir(&folder).expect("space");
    fs::write(folder.join("inventory.img"), inventory(2)).expect("space");
    fs::write(folder.join("pstree.img"), pstree(&[(7, 0)])).expect("space");
    put(&folder, 7, 1, entries, numbers);
    shop
}

/// Refused with these words, and nothing has changed.
#[track_caller]
fn assert_refused(shop: &Workshop, arguments: &[&str], words: &[&str]) {
    let before = files(&shop.path("dump"));
    let said = shop.fails(1, arguments);
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said:?}");
    }
    assert!(said.starts_with("uffd-snapshot: ") && !said.contains("panicked"));
    assert!(before == files(&shop.path("dump")), "{said}");
    assert!(!shop.path("snap").exists(), "{said}");
}

const ENTRIES: [(u64, u64, u64); 7] = [
    (HEAP, 256, LAZY),
    (HEAP + 256 * PAGE, 3, EAGER),
    (HEAP + 259 * PAGE, 200, LAZY),
    (HEAP + 461 * PAGE, 40, LAZY),
    (HEAP + 561 * PAGE, 20, LAZY),
    (STACK, 2, EAGER),
    (STACK + 2 * PAGE, 38, LAZY),
];

#[test]
fn every_lazy_page_of_a_tree_is_in_the_snapshot_and_shared_ones_once() {
    let (shop, before) = with_tree();
    for frame_pages in ["1", "8", "64"] {
        let json = shop.json(&[
            "import-criu",
            "dump",
            "-o",
            "snap",
            "--force",
            "--frame-pages",
            frame_pages,
        ]);
        // The child has 4 of 5 pages of its parent, the grandchild all but 5 lazy ones of its own parent's.
        let own = (0..559).filter(|&number| in_lazy(number));
        let changed = own.clone().filter(|number| number % 5 == 2).count();
        assert_eq!(json["processes"], 4);
        assert_eq!(json["shared_pages"], 2 * own.count() - changed - 5);
        assert_eq!(json["stripped"], serde_json::Value::Null);
        let snapshot = Snapshot::open(File::open(shop.path("snap")).expect("it is there"));
        let snapshot = Arc::new(snapshot.expect("it is good"));
        let mut cursor = Cursor::new(Arc::clone(&snapshot));
        for (pid, id) in [(100, 1), (107, 2), (109, 4)] {
            for (at, page) in lazy_pages(&shop.path("dump"), pid, &ENTRIES, id) {
                let found = in_snapshot(&snapshot, &mut cursor, pid, at);
                assert!(found.as_ref() == Some(&page), "{pid} at {at:#x}");
            }
        }
        let kinds: Vec<_> = (snapshot.regions().as_slice().iter())
            .map(|placed| placed.region.kind)
            .collect();
        assert!(
            kinds
                .iter()
                .all(|kind| *kind == RegionKind::Private || *kind == RegionKind::Stack)
        );
        shop.ok(&["verify", "snap"]);
        let inspected = shop.json(&["inspect", "snap"]);
        assert_eq!(inspected["processes"][3]["pid"], 109);
        assert_eq!(inspected["processes"][2]["regions"], 0);
        assert_eq!(inspected["repeated_pages"], json["shared_pages"]);
        let text = shop.ok(&["inspect", "snap"]).stdout;
        let text = String::from_utf8(text).expect("UTF-8");
        assert!(
            text.contains("CRIU images of 4 processes") && text.contains("process 109:"),
            "{text}"
        );
    }
    assert!(before == files(&shop.path("dump")), "import only reads");
}

/// Whether a page of the tree's pages files is lazy.
fn in_lazy(number: u64) -> bool {
    !(256..259).contains(&number) && !(519..521).contains(&number)
}

#[test]
fn one_process_and_the_same_page_elsewhere_share_nothing() {
    let shop = with_one(
        &[(HEAP, 6, LAZY), (STACK, 2, LAZY)],
        &[1, 1, 2, 2, 1, 9, 1, 2],
    );
    let json = shop.json(&["import-criu", "dump", "-o", "snap"]);
    assert_eq!(
        (&json["shared_pages"], &json["pages"]),
        (&0.into(), &8.into())
    );
    let said = stderr(&shop.ok(&["import-criu", "dump", "-o", "more"]));
    assert!(
        said.contains("more: 1 process with 32.0 KiB, in a file of"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1);
    assert!(
        shop.ok(&["import-criu", "dump", "-o", "quiet", "-q"])
            .stderr
            .is_empty()
    );
}

#[test]
fn a_stripped_directory_keeps_what_criu_reads_and_is_marked() {
    let (shop, before) = with_tree();
    let json = shop.json(&["import-criu", "dump", "-o", "snap", "--strip"]);
    assert_eq!(json["stripped"]["processes"], 3);
    assert_eq!(json["stripped"]["left_bytes"], 3 * 5 * 4096);
    assert_eq!(json["stripped"]["linked"].as_array().map(Vec::len), Some(0));
    let after = files(&shop.path("dump"));
    for name in ["pages-1.img", "pages-2.img", "pages-4.img"] {
        assert!(!after.contains_key(name), "{name}");
    }
    assert!(after["pages-5.img"] == pages([256, 257, 258, 519, 520]));
    for pid in [100, 107, 109] {
        let name = format!("pagemap-{pid}.img");
        let marked = uffd_restore::criu::pagemap::Pagemap::read(&after[&name]).expect("a pagemap");
        assert!(marked.marked, "{pid}");
        assert!(after[&format!("uffd-restore/{name}")] == before[&name]);
    }
    for untouched in [
        "mm-100.img",
        "pages-3.img",
        "pagemap-shmem-1.img",
        "core-100.img",
    ] {
        assert!(after[untouched] == before[untouched]);
    }
    assert!(!after.contains_key("uffd-restore/next"));
}

#[test]
fn a_stripped_directory_is_not_imported_again() {
    let (shop, _) = with_tree();
    shop.ok(&["import-criu", "dump", "-o", "first", "--strip"]);
    for strip in [&["--strip"][..], &[]] {
        for output in ["first", "snap"] {
            let arguments = [&["import-criu", "dump", "-o", output][..], strip].concat();
            assert_refused(&shop, &arguments, &["already", "first", "export-criu"]);
        }
    }
    // The mark without the manifest: nobody knows where the pages are.
    fs::remove_dir_all(shop.path("dump/uffd-restore")).expect("it is there");
    assert_refused(
        &shop,
        &["import-criu", "dump", "-o", "snap"],
        &["process 100", "manifest.json", "is gone"],
    );
}

#[test]
fn directories_that_are_no_whole_dump_are_refused() {
    let shop = with_one(&[(HEAP, 2, LAZY), (HEAP + 2 * PAGE, 2, ELSEWHERE)], &[1, 2]);
    let import = ["import-criu", "dump", "-o", "snap"];
    assert_refused(
        &shop,
        &import,
        &["process 7", "not in the images", "without --lazy-pages"],
    );
    fs::remove_file(shop.path("dump/inventory.img")).expect("it is there");
    assert_refused(&shop, &import, &["no inventory.img"]);
    let said = shop.fails(1, &["import-criu", "nowhere", "-o", "snap"]);
    assert!(said.contains("nowhere"), "{said}");
    shop.fails(2, &["import-criu", "dump"]);
    shop.fails(2, &["export-criu", "dump"]);
}

#[test]
fn holes_are_refused_or_zeros() {
    let shop = with_one(&[(HEAP, 64, LAZY)], &[]);
    let path = shop.path("dump/pages-1.img");
    let file = File::create(&path).expect("space");
    file.set_len(64 * 4096).expect("space");
    file.write_all_at(&pages([1, 2, 3]), 4 * 4096)
        .expect("space");
    let import = ["import-criu", "dump", "-o", "snap", "--strip"];
    assert_refused(
        &shop,
        &import,
        &["hole", "--auto-dedup", "--holes-are-zeros"],
    );
    let before = files(&shop.path("dump"));
    let json = shop.json(&[&import[..], &["--holes-are-zeros"]].concat());
    assert_eq!(
        (&json["zero_pages"], &json["content_pages"]),
        (&61.into(), &3.into())
    );
    shop.ok(&["export-criu", "dump", "--snapshot", "snap"]);
    assert!(before == files(&shop.path("dump")));
    // Without holes now: what were zeros are pages like others.
    shop.ok(&["import-criu", "dump", "-o", "again"]);
}

#[test]
fn what_could_not_be_put_back_is_not_stripped() {
    let import = ["import-criu", "dump", "-o", "snap", "--strip"];
    let entries = [(HEAP, 4, LAZY), (STACK, 1, EAGER)];
    // More bytes than pages.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5, 6]);
    assert_refused(
        &shop,
        &import,
        &["pages-1.img", "24576 bytes", "without --strip"],
    );
    // A field that is not known.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    let path = shop.path("dump/pagemap-7.img");
    let mut bytes = fs::read(&path).expect("it is there");
    bytes.extend_from_slice(&[15, 0, 0, 0]);
    bytes.extend_from_slice(&[8]);
    bytes.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x08]);
    bytes.extend_from_slice(&[0x28, 1, 0x20, 2, 0x98, 6, 1, 0x10, 0]);
    bytes.truncate(bytes.len() - 9 + 7 + 2);
    fs::write(&path, &bytes).expect("space");
    let said = shop.fails(1, &import);
    assert!(said.contains("pagemap-7.img"), "{said}");
    // Two pagemaps with the same pages.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    let shmem = pagemap(1, &[(0, 5, EAGER)]);
    fs::write(shop.path("dump/pagemap-shmem-9.img"), shmem).expect("space");
    assert_refused(&shop, &import, &["pages-1.img", "several images"]);
    // A link.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    let (pages, elsewhere) = (shop.path("dump/pages-1.img"), shop.path("elsewhere"));
    fs::rename(&pages, &elsewhere).expect("it is there");
    std::os::unix::fs::symlink(&elsewhere, &pages).expect("a link");
    assert_refused(&shop, &import, &["pages-1.img", "regular file"]);
    // A dump that needs this one.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    fs::create_dir(shop.path("second")).expect("space");
    std::os::unix::fs::symlink("../dump", shop.path("second/parent")).expect("a link");
    assert_refused(&shop, &import, &["second", "incremental"]);
    // Memory where the mark would be.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    let low = [
        Vma::lazy(0, PAGE),
        Vma::lazy(HEAP, HEAP + 4 * PAGE),
        Vma::lazy(STACK, STACK + PAGE),
    ];
    fs::write(shop.path("dump/mm-7.img"), mm(&low)).expect("space");
    assert_refused(&shop, &import, &["process 7", "address 0"]);
    // Somebody else's folder.
    let shop = with_one(&entries, &[1, 2, 3, 4, 5]);
    fs::create_dir(shop.path("dump/uffd-restore")).expect("space");
    fs::write(shop.path("dump/uffd-restore/mine"), "x").expect("space");
    assert_refused(&shop, &import, &["uffd-restore", "no manifest.json"]);
    shop.ok(&["import-criu", "dump", "-o", "snap"]);
}

#[test]
fn removed_files_with_other_names_are_reported_and_stay() {
    let (shop, before) = with_tree();
    fs::hard_link(shop.path("dump/pages-2.img"), shop.path("other")).expect("a link");
    let said = stderr(&shop.ok(&["import-criu", "dump", "-o", "snap", "--strip"]));
    assert!(said.contains("pages-2.img has another name"), "{said}");
    assert!(shop.read("other") == before["pages-2.img"]);
    shop.ok(&["export-criu", "dump", "--snapshot", "snap"]);
    assert!(before == files(&shop.path("dump")));
}

#[test]
fn rights_of_files_are_kept_and_read_only_ones_are_no_obstacle() {
    let (shop, before) = with_tree();
    let mode = |name: &str| fs::metadata(shop.path(name)).expect("it is there").mode() & 0o777;
    for (name, mode) in [("pagemap-100.img", 0o440), ("pages-1.img", 0o400)] {
        let path = shop.path("dump").join(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("ours");
    }
    shop.ok(&["import-criu", "dump", "-o", "snap", "--strip"]);
    assert_eq!(
        (mode("dump/pagemap-100.img"), mode("dump/pages-5.img")),
        (0o440, 0o440)
    );
    shop.ok(&["export-criu", "dump", "--snapshot", "snap"]);
    assert_eq!(
        (mode("dump/pagemap-100.img"), mode("dump/pages-1.img")),
        (0o440, 0o440)
    );
    assert!(before == files(&shop.path("dump")));
}

#[test]
fn a_full_disk_leaves_the_directory_as_it_was() {
    // The snapshot does not fit.
    let shop = Workshop::new();
    let disk = SmallDisk::new(&shop.path("disk"), 1 << 20);
    let noise = super::memory(16 << 20);
    let one = with_one(&[(HEAP, 600, LAZY)], &[]);
    fs::write(one.path("dump/pages-1.img"), &noise[..600 * 4096]).expect("space");
    let dump = one.path("dump");
    let dump = dump.to_str().expect("UTF-8");
    let before = files(&one.path("dump"));
    let import = [
        "import-criu",
        dump,
        "-o",
        "disk/snap",
        "--strip",
        "--codec",
        "stored",
    ];
    let said = shop.fails(1, &import);
    assert!(said.contains("free some space"), "{said}");
    assert!(before == files(&one.path("dump")));
    assert_eq!(fs::read_dir(shop.path("disk")).expect("a disk").count(), 0);
    drop(disk);
    // What is to be left does not fit: first nothing does, then more and more of it.
    let shop = Workshop::new();
    let _disk = SmallDisk::new(&shop.path("disk"), 8 << 20);
    tree(&shop.path("disk/dump"));
    let before = files(&shop.path("disk/dump"));
    let filler = shop.path("disk/filler");
    fs::write(&filler, super::memory(8 << 20)).expect_err("no space");
    let full = fs::metadata(&filler).expect("it is there").len() / 4096 * 4096;
    let import = [
        "import-criu",
        "disk/dump",
        "-o",
        "snap",
        "--force",
        "--strip",
    ];
    let mut failures = 0;
    for pages in 0.. {
        let filler = File::options()
            .write(true)
            .open(&filler)
            .expect("it is there");
        filler.set_len(full - pages * 4096).expect("space");
        let output = shop.run(&import);
        if output.status.success() {
            break;
        }
        let said = stderr(&output);
        assert!(said.contains("free some space"), "{said}");
        assert!(before == files(&shop.path("disk/dump")), "{said}");
        failures += 1;
    }
    // The manifest, three pagemaps, 15 pages that are left; each named twice for a moment.
    assert!((5..60).contains(&failures), "{failures}");
    shop.ok(&["export-criu", "disk/dump", "--snapshot", "snap"]);
    assert!(before == files(&shop.path("disk/dump")));
}

#[test]
fn who_may_not_change_the_directory_gets_a_snapshot_and_a_sentence() {
    let (shop, before) = with_tree();
    let open = |name: &str, mode| {
        let path = shop.path(name);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("ours");
    };
    open("", 0o777);
    let mut command = shop.command(&["import-criu", "dump", "-o", "snap", "--strip"]);
    let output = command.uid(65_534).gid(65_534).output().expect("it runs");
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("uffd-restore") && said.contains("run as a user who may"),
        "{said}"
    );
    assert!(before == files(&shop.path("dump")));
    shop.ok(&["verify", "snap"]);
}

/// With `--force`, what is restored would lack it, or be something else.
#[test]
fn an_image_is_not_replaced_by_the_snapshot() {
    let (shop, _) = with_tree();
    for name in ["dump/pages-1.img", "dump/new.img"] {
        let arguments = ["import-criu", "dump", "-o", name, "--force"];
        assert_refused(&shop, &arguments, &[name, "another name"]);
    }
    shop.ok(&["import-criu", "dump", "-o", "dump/snap"]);
}
