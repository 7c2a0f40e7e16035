//! `export-criu`: everything is put back, or nothing.

use super::dumps::{Files, files, tree};
use super::leaves_nothing::SmallDisk;
use super::{Workshop, stderr};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

pub(crate) const IMPORT: [&str; 5] = ["import-criu", "dump", "-o", "snap", "--strip"];
pub(crate) const EXPORT: [&str; 4] = ["export-criu", "dump", "--snapshot", "snap"];

fn stripped() -> (Workshop, Files) {
    let shop = Workshop::new();
    tree(&shop.path("dump"));
    let before = files(&shop.path("dump"));
    shop.ok(&IMPORT);
    (shop, before)
}

#[test]
fn everything_is_put_back_bit_for_bit() {
    let (shop, before) = stripped();
    let said = stderr(&shop.ok(&EXPORT));
    assert!(said.contains("3 processes put back"), "{said}");
    assert!(before == files(&shop.path("dump")));
    let said = shop.fails(1, &EXPORT);
    assert!(said.contains("nothing was taken out of it"), "{said}");
    // And once more, with another snapshot.
    shop.ok(&[
        "import-criu",
        "dump",
        "-o",
        "second",
        "--strip",
        "--codec",
        "lz4",
    ]);
    let json = shop.json(&["export-criu", "dump", "--snapshot", "second"]);
    assert_eq!(json["processes"], 3);
    assert!(before == files(&shop.path("dump")));
}

#[test]
fn only_the_snapshot_that_has_the_pages_is_taken() {
    let (shop, before) = stripped();
    let whole = files(&shop.path("dump"));
    tree(&shop.path("twin"));
    shop.ok(&["import-criu", "twin", "-o", "other"]);
    shop.write("raw", &[0; 8192]);
    shop.ok(&["pack", "raw", "-o", "packed"]);
    for (name, words) in [
        ("other", "which was"),
        ("packed", "which was"),
        ("raw", "not a snapshot"),
        ("nowhere", "nowhere"),
    ] {
        let said = shop.fails(1, &["export-criu", "dump", "--snapshot", name]);
        assert!(said.contains(words), "{said}");
        assert!(whole == files(&shop.path("dump")));
    }
    // Another dump in its place.
    let inventory = shop.path("dump/inventory.img");
    let mut bytes = fs::read(&inventory).expect("it is there");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&inventory, &bytes).expect("space");
    let said = shop.fails(1, &EXPORT);
    assert!(said.contains("another dump was written over it"), "{said}");
    bytes[last] ^= 1;
    fs::write(&inventory, &bytes).expect("space");
    shop.ok(&EXPORT);
    assert!(before == files(&shop.path("dump")));
}

#[test]
fn a_damaged_snapshot_puts_nothing_back() {
    let (shop, _) = stripped();
    let whole = files(&shop.path("dump"));
    let mut snapshot = shop.read("snap");
    snapshot[6000] ^= 1;
    shop.write("snap", &snapshot);
    let said = shop.fails(1, &EXPORT);
    assert!(said.contains("corrupt frame"), "{said}");
    assert!(whole == files(&shop.path("dump")));
}

#[test]
fn what_was_changed_meanwhile_is_not_overwritten() {
    let (shop, _) = stripped();
    fs::write(shop.path("dump/pages-2.img"), "mine").expect("space");
    let said = shop.fails(1, &EXPORT);
    assert!(
        said.contains("pages-2.img") && said.contains("move it away"),
        "{said}"
    );
    assert_eq!(shop.read("dump/pages-2.img"), b"mine");
    fs::remove_file(shop.path("dump/pages-2.img")).expect("it is there");
    let kept = shop.path("dump/uffd-restore/pagemap-107.img");
    fs::write(&kept, "mine").expect("space");
    let said = shop.fails(1, &EXPORT);
    assert!(said.contains("pagemap-107.img"), "{said}");
}

#[test]
fn a_full_disk_leaves_the_directory_stripped() {
    let shop = Workshop::new();
    let _disk = SmallDisk::new(&shop.path("disk"), 8 << 20);
    tree(&shop.path("disk/dump"));
    let before = files(&shop.path("disk/dump"));
    shop.ok(&["import-criu", "disk/dump", "-o", "snap", "--strip"]);
    let filler = shop.path("disk/filler");
    fs::write(&filler, vec![1; 4 << 20]).expect("space");
    let whole = files(&shop.path("disk/dump"));
    let said = shop.fails(1, &["export-criu", "disk/dump", "--snapshot", "snap"]);
    assert!(said.contains("free some space"), "{said}");
    assert!(whole == files(&shop.path("disk/dump")));
    fs::remove_file(filler).expect("it is there");
    shop.ok(&["export-criu", "disk/dump", "--snapshot", "snap"]);
    assert!(before == files(&shop.path("disk/dump")));
}

#[test]
fn two_at_a_time_are_one_too_many() {
    let (shop, _) = stripped();
    let folder = fs::File::open(shop.path("dump")).expect("it is there");
    let locked = nix::fcntl::Flock::lock(folder, nix::fcntl::FlockArg::LockExclusiveNonblock);
    let said = shop.fails(1, &EXPORT);
    assert!(said.contains("another uffd-snapshot"), "{said}");
    drop(locked);
    shop.ok(&EXPORT);
}

#[test]
fn an_interrupted_export_is_as_if_it_had_not_begun() {
    let (shop, _) = stripped();
    let whole = files(&shop.path("dump"));
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for delay in [0, 5, 20] {
            let mut child = shop.command(&EXPORT).spawn().expect("the program");
            std::thread::sleep(std::time::Duration::from_millis(delay));
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            // It may have ended.
            let _ = kill(pid, signal);
            let ended = child.wait().expect("an end");
            if ended.success() {
                let _ = fs::remove_file(shop.path("snap"));
                shop.ok(&IMPORT);
                continue;
            }
            let now = files(&shop.path("dump"));
            assert!(whole.keys().eq(now.keys()), "{signal} after {delay} ms");
        }
    }
}
