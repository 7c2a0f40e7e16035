//! Directories of images as `criu dump` writes them, and what must be in a snapshot of one.

use super::criu_writer::{Entry, PAGE, Vma, inventory, mm, pagemap, pages, pstree};
use snapshot_format::{Cursor, PageNo, Snapshot};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// What criu says of pages: lazy, in the file; not lazy, in the file; lazy, for the network.
pub(crate) const LAZY: u64 = 6;
pub(crate) const EAGER: u64 = 4;
pub(crate) const ELSEWHERE: u64 = 2;

pub(crate) const HEAP: u64 = 0x1000_0000;
pub(crate) const STACK: u64 = 0x7fff_0000_0000;

/// Every file of a directory, and of the folders in it.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

pub(crate) fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.expect("UTF-8").to_owned();
        if path.is_dir() {
            files.insert(name.clone(), Vec::new());
            for (below, bytes) in self::files(&path) {
                files.insert(format!("{name}/{below}"), bytes);
            }
        } else {
            files.insert(name, fs::read(&path).expect("a file"));
        }
    }
    files
}

/// Put a process into a directory: its mappings, the entries of its pagemap, and the numbers of the pages in its file.
pub(crate) fn put(folder: &Path, pid: u64, id: u64, entries: &[Entry], numbers: &[u64]) {
    let vmas = [
        Vma::lazy(HEAP, HEAP + 600 * PAGE),
        Vma::lazy(STACK, STACK + 40 * PAGE),
    ];
    let write = |name: String, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).expect("space");
    };
    write(format!("mm-{pid}.img"), &mm(&vmas));
    write(format!("pagemap-{pid}.img"), &pagemap(id, entries));
    write(format!("pages-{id}.img"), &pages(numbers.iter().copied()));
}

/// A process, its child that has changed some of its pages, a zombie, and a grandchild; and a memory that they share.
pub(crate) fn tree(folder: &Path) {
    fs::create_dir(folder).expect("space");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(folder.join(name), bytes).expect("space");
    };
    write("inventory.img", &inventory(2));
    write(
        "pstree.img",
        &pstree(&[(100, 0), (107, 100), (108, 100), (109, 107)]),
    );
    let entries = [
        (HEAP, 256, LAZY),
        (HEAP + 256 * PAGE, 3, EAGER),
        (HEAP + 259 * PAGE, 200, LAZY),
        // A gap of 2 pages, and one of 60.
        (HEAP + 461 * PAGE, 40, LAZY),
        (HEAP + 561 * PAGE, 20, LAZY),
        (STACK, 2, EAGER),
        (STACK + 2 * PAGE, 38, LAZY),
    ];
    let numbers: Vec<u64> = (0..559).collect();
    put(folder, 100, 1, &entries, &numbers);
    let child: Vec<u64> = numbers
        .iter()
        .map(|&number| {
            if number % 5 == 2 {
                1000 + number
            } else {
                number
            }
        })
        .collect();
    put(folder, 107, 2, &entries, &child);
    // Of its parent's, its grandparent's and its own; the last entry is one page longer at the front.
    let mut grandchild = child.clone();
    for number in [0, 7, 300, 301, 302, 520] {
        grandchild[number] = 5000 + number as u64;
    }
    put(folder, 109, 4, &entries, &grandchild);
    write("pagemap-shmem-1.img", &pagemap(3, &[(0, 2, EAGER)]));
    write("pages-3.img", &pages([7001, 7002]));
    write("core-100.img", b"whatever");
}

/// Lazy pages of a process as the test wrote them: their addresses and bytes.
pub(crate) fn lazy_pages(
    folder: &Path,
    pid: u64,
    entries: &[Entry],
    id: u64,
) -> Vec<(u64, Vec<u8>)> {
    let _ = pid;
    let file = fs::read(folder.join(format!("pages-{id}.img"))).expect("a file");
    let mut stored = file.chunks(4096);
    let mut lazy = Vec::new();
    for &(at, count, flags) in entries.iter().filter(|entry| entry.2 & 4 != 0) {
        for number in 0..count {
            let page = stored.next().expect("a page");
            if flags == LAZY {
                lazy.push((at + number * PAGE, page.to_vec()));
            }
        }
    }
    lazy
}

/// The page at an address of a process in a snapshot.
pub(crate) fn in_snapshot(
    snapshot: &Arc<Snapshot<fs::File>>,
    cursor: &mut Cursor<fs::File>,
    pid: u64,
    at: u64,
) -> Option<Vec<u8>> {
    let processes = snapshot.processes().expect("processes");
    let (_, regions) = processes
        .with_regions()
        .find(|(process, _)| u64::from(process.pid) == pid)?;
    let regions = &snapshot.regions().as_slice()[regions];
    let region = regions.iter().find(|placed| {
        (placed.region.start..placed.region.start + placed.region.len).contains(&at)
    })?;
    let number = region.first_page.0 + (at - region.region.start) / PAGE;
    let mut page = [0; 4096];
    cursor.read_page(PageNo(number), &mut page).expect("a page");
    Some(page.to_vec())
}
