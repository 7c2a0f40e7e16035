//! What it costs to open a snapshot, small or large, sparse or dense.

use crate::Setup;
use crate::codec::Kind;
use crate::image::{open, options};
use crate::measure::{Random, Series, nanos};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use snapshot_format::{
    Cursor, Metadata, PAGE_BYTES, PAGE_SIZE, PageNo, Region, SnapshotId, Summary, Writer,
};
use std::fs::{self, File};
use std::hint::black_box;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

/// Times that a file is opened while it is in the page cache.
const WARM: usize = 1000;

/// Times that it is opened from the disk.
const COLD: usize = 50;

/// Snapshots held open together to see what one takes.
const HELD: usize = 128;

/// Measure and print.
pub fn run(setup: &Setup) {
    println!("\n## Open\n");
    println!(
        "`File::open` and `Snapshot::open`, µs. Dense: one page in 256 is different, so that every node of the index exists and the index"
    );
    println!(
        "has its full size. Cold: nothing of the file in the page cache. Look-up: which frame a random page is in, nodes in the page cache.\n"
    );
    println!(
        "| memory | | index MiB | warm p50 | p99 | cold p50 | p95 | read from disk, KiB | RSS of an open one, KiB | with a cursor, KiB | look-up p50 |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    setup.cores.limit(1);
    for gib in [1, if setup.quick { 8 } else { 64 }] {
        for dense in [false, true] {
            case(setup, gib, dense);
        }
    }
    setup.cores.limit(setup.cores.count());
}

fn case(setup: &Setup, gib: u64, dense: bool) {
    let path = setup.work.join("open.snap");
    let summary = write(setup, &path, gib, dense);
    let (mut warm, mut cold) = (Series::default(), Series::default());
    for _ in 0..WARM {
        warm.push(nanos(|| drop(black_box(open(&path)))) / 1000.0);
    }
    let mut disk = 0;
    for _ in 0..COLD {
        let file = File::open(&path).expect("the snapshot");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("advice");
        drop(file);
        let before = read_from_disk();
        cold.push(nanos(|| drop(black_box(open(&path)))) / 1000.0);
        disk += read_from_disk() - before;
    }
    let [opened, with_cursor] = in_child(&path);
    // The nodes come from the page cache.
    fs::read(&path).expect("the snapshot");
    let mut cursor = Cursor::new(open(&path));
    println!(
        "| {gib} GiB | {} | {:.1} | **{:.1}** | {:.1} | **{:.0}** | {:.0} | {} | {} | {} | {:.2} |",
        if dense { "dense" } else { "sparse" },
        summary.index_len as f64 / f64::from(1 << 20),
        warm.median(),
        warm.percentile(99),
        cold.median(),
        cold.percentile(95),
        disk / COLD as u64 / 1024,
        opened,
        with_cursor,
        look_up(&mut cursor),
    );
    fs::remove_file(&path).expect("the snapshot");
}

/// Memory of `gib` GiB: all zero, or with one page in 256 of a word of its own.
fn write(setup: &Setup, path: &Path, gib: u64, dense: bool) -> Summary {
    let file = File::create(path).expect("the snapshot");
    let options = options(Kind::Zstd, 4, setup.cores.count(), &setup.work);
    let mut writer = Writer::new(file, options).expect("a writer");
    let region = Region::raw(0, gib << 30);
    let pages = region.pages();
    writer.begin_region(region).expect("a region");
    if dense {
        for leaf in 0..pages / 256 {
            let word = (leaf + 1).to_le_bytes();
            for chunk in writer.space().expect("room")[..PAGE_SIZE].chunks_exact_mut(8) {
                chunk.copy_from_slice(&word);
            }
            writer.commit(1).expect("a page");
            writer.zeros(255).expect("pages");
        }
    } else {
        writer.zeros(pages).expect("pages");
    }
    let (file, summary) = writer
        .finish(SnapshotId([7; 16]), &Metadata::default())
        .expect("a snapshot");
    file.sync_all().expect("the snapshot");
    summary
}

/// Microseconds of a look-up, median.
fn look_up(cursor: &mut Cursor<File>) -> f64 {
    let mut random = Random::new(0);
    let pages = usize::try_from(cursor.snapshot().pages()).expect("it fits");
    let mut times = Series::default();
    for _ in 0..20_000 {
        let page = PageNo(random.below(pages) as u64);
        let time = nanos(|| {
            black_box(cursor.content(page).expect("an entry"));
        });
        times.push(time / 1000.0);
    }
    times.median()
}

/// KiB that an open snapshot takes, and one with a cursor, found out in a process that has no other memory to use again.
fn in_child(path: &Path) -> [u64; 2] {
    let program = std::env::current_exe().expect("this program");
    let mut command = Command::new(program);
    let child = command.arg("open-child").arg(path).output();
    let text = String::from_utf8(child.expect("this program").stdout).expect("numbers");
    let numbers: Vec<u64> = text
        .split_whitespace()
        .map(|word| word.parse().expect("a number"))
        .collect();
    numbers.try_into().expect("two numbers")
}

/// The process of its own.
pub fn child(path: &str) {
    let before = resident();
    let snapshots: Vec<_> = (0..HELD).map(|_| open(Path::new(path))).collect();
    let opened = resident();
    let cursors: Vec<_> = snapshots
        .iter()
        .map(|snapshot| Cursor::new(Arc::clone(snapshot)))
        .collect();
    let with_cursor = resident();
    drop(cursors);
    let each = |kib: u64| (kib - before) / HELD as u64;
    println!("{} {}", each(opened), each(with_cursor));
}

/// KiB of this process in memory, counted page by page: the quicker counters are not exact.
fn resident() -> u64 {
    field("/proc/self/smaps_rollup", "Rss:")
}

/// Bytes that this process had read from a disk.
fn read_from_disk() -> u64 {
    field("/proc/self/io", "read_bytes:")
}

/// The number behind `name` in a file of the kernel.
pub fn field(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).expect("a file of the kernel");
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or_else(|| panic!("{path} has no {name}"))
}

// The arithmetic above takes a page for 4 KiB.
const _: () = assert!(PAGE_BYTES == 4096);
