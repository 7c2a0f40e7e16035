//! The writer holds a few batches, whatever it writes.

use crate::common::options;
use crate::common::plan::{ID, metadata, parent_layer};
use crate::common::rng::{Rng, noise};
use crate::counting::{allocated, alone};
use snapshot_format::{Codec, PAGE_BYTES, PageNo, Region, Summary, Writer, WriterOptions};
use std::io::{self, Seek, SeekFrom, Write};

const MIB: usize = 1 << 20;

/// An output that forgets, sometimes slowly.
struct Nowhere {
    delay: std::time::Duration,
}

impl Write for Nowhere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        std::thread::sleep(self.delay);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Nowhere {
    fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
        Ok(0)
    }
}

fn writer(jobs: usize, codec: Codec, delay_ms: u64) -> Writer<Nowhere> {
    let options = WriterOptions {
        jobs,
        parent: Some(parent_layer()),
        ..options(codec, 16)
    };
    let delay = std::time::Duration::from_millis(delay_ms);
    Writer::new(Nowhere { delay }, options).unwrap()
}

fn finish(writer: Writer<Nowhere>) -> Summary {
    writer.finish(ID, &metadata()).unwrap().1
}

#[test]
fn a_gibibyte_goes_through_48_mebibytes() {
    let _alone = alone();
    let pages = 1 << 18;
    let (summary, counted) = allocated(|| {
        let mut writer = writer(2, Codec::Stored, 0);
        writer
            .begin_region(Region::raw(0, pages * PAGE_BYTES))
            .unwrap();
        let mut left = usize::try_from(pages).unwrap();
        while left > 0 {
            let space = writer.space().unwrap();
            // Every 64th page has content: the compressing and hashing of the others is not what is measured.
            for slot in space.chunks_exact_mut(64 * 4096) {
                noise(&mut slot[..8], left as u64);
                slot[8] ^= 1;
            }
            let step = left.min(space.len() / 4096);
            writer.commit(step).unwrap();
            left -= step;
        }
        finish(writer)
    });
    assert_eq!(summary.pages, pages);
    assert!(summary.content_pages >= pages / 64, "{summary:?}");
    assert!(counted.peak < 48 * MIB, "{counted:?}");
}

#[test]
fn a_slow_output_holds_up_the_caller_and_not_the_pages() {
    let _alone = alone();
    let pages = 128 * 512;
    let (summary, counted) = allocated(|| {
        let mut writer = writer(2, Codec::Stored, 10);
        writer
            .begin_region(Region::raw(0, pages * PAGE_BYTES))
            .unwrap();
        for number in 0..128_u64 {
            let space = writer.space().unwrap();
            space[..8].copy_from_slice(&number.to_le_bytes());
            writer.commit(512).unwrap();
        }
        finish(writer)
    });
    assert!(summary.content_pages > 0);
    assert!(counted.peak < 48 * MIB, "{counted:?}");
}

#[test]
fn runs_that_need_no_batch_do_not_pile_up() {
    let _alone = alone();
    // 2 TiB in steps of 2 MiB, while the output is slow with the one page of content before them.
    let steps = 1 << 20;
    let (summary, counted) = allocated(|| {
        let mut writer = writer(2, Codec::Stored, 300);
        writer
            .begin_region(Region::raw(0, (steps + 1) * 512 * PAGE_BYTES))
            .unwrap();
        writer.space().unwrap()[0] = 1;
        writer.commit(512).unwrap();
        for _ in 0..steps {
            writer.zeros(512).unwrap();
        }
        finish(writer)
    });
    assert_eq!(summary.pages, (steps + 1) * 512);
    assert!(counted.peak < 48 * MIB, "{counted:?}");
}

#[test]
fn a_large_index_waits_on_disk() {
    let _alone = alone();
    // 2 million pages of a parent, none next to the other: 32 MiB of index.
    let pages = 2 << 20;
    let (summary, counted) = allocated(|| {
        let mut writer = writer(1, Codec::Stored, 0);
        writer
            .begin_region(Region::raw(0, pages * PAGE_BYTES))
            .unwrap();
        let mut rng = Rng(5);
        for _ in 0..pages {
            writer.parent(PageNo(rng.below(1 << 29)), 1).unwrap();
        }
        finish(writer)
    });
    assert!(summary.index_len > 32 << 20);
    assert!(counted.peak < 48 * MIB, "{counted:?}");
}

#[test]
fn repeated_pages_take_no_memory_however_many_there_are() {
    let _alone = alone();
    // 16 MiB of index, which waits on disk, and 2 million pages that are looked up in it.
    let (own, times) = (1 << 20, 2);
    let (summary, counted) = allocated(|| {
        let mut writer = writer(1, Codec::Stored, 0);
        writer
            .begin_region(Region::raw(0, (1 + times) * own * PAGE_BYTES))
            .unwrap();
        let mut rng = Rng(5);
        for _ in 0..own {
            writer.parent(PageNo(rng.below(1 << 29)), 1).unwrap();
        }
        for _ in 0..times {
            writer.repeat(PageNo(0), own).unwrap();
        }
        finish(writer)
    });
    assert_eq!(summary.parent_pages, (1 + times) * own);
    assert!(counted.peak < 48 * MIB, "{counted:?}");
}

/// Threads of writers that are there now.
fn threads_of_writers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| ["compress", "collect"].contains(&name.trim_end()))
        .count()
}

/// A thread gets its name when it first runs, and stays in the list for a moment after its end.
#[track_caller]
fn await_threads(count: usize) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while threads_of_writers() != count {
        let now = std::time::Instant::now();
        assert!(now < deadline, "{} threads", threads_of_writers());
        std::thread::yield_now();
    }
}

#[test]
fn no_thread_outlives_a_writer() {
    let _alone = alone();
    for pages in [0, 1, 600, 3000_usize] {
        let mut writer = writer(5, Codec::Lz4, 1);
        await_threads(6);
        writer.begin_region(Region::raw(0, 1 << 30)).unwrap();
        for _ in 0..pages {
            writer.space().unwrap()[..8].copy_from_slice(&[1; 8]);
            writer.commit(1).unwrap();
        }
        if pages == 3000 {
            writer.zeros((1 << 18) - 3000).unwrap();
            finish(writer);
        } else {
            drop(writer);
        }
        await_threads(0);
    }
}
