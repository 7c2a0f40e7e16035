//! What this machine can do at best: userfaultfd without a daemon, and the codecs without anything around them.

use std::fs::File;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use snapshot_format::working_set::{Frames, WorkingSet};
use snapshot_format::{Codec, Cursor, PAGE_SIZE, PageNo, Snapshot};

use crate::area::Area;
use crate::codec::{Decoder, Encoder, Kind};
use crate::handler;
use crate::image::Image;
use crate::measure::Series;
use crate::one_core::on_one_core;
use crate::target::{Board, Scene, Target};

/// Pages that a replay installs at once: a frame of a working set.
pub(crate) const BATCH: usize = 32;
/// Pages of a working set that are sorted together.
const WINDOW: usize = 256;
/// Pages that are copied to measure how fast that is.
const COPIED: usize = 16 << 10;
/// Bytes that are decoded, at least, to measure how fast that is.
const DECODED: usize = 256 << 20;

/// Microseconds of touches that a thread answers which has the content at hand: on one core and on all of them, the better of both.
pub(crate) fn round_trip(scene: Scene<'_>, pages: &[usize]) -> Series {
    let measure = || {
        let (mut target, userfaultfd) = Target::start_registered(scene);
        target.touch_unchecked(pages);
        handler::serve(&target, &userfaultfd, scene.area, |_, room| room[0] = 1);
        target.touched().each
    };
    let spread = measure();
    let mut together = Series::default();
    on_one_core(|| together = measure());
    if together.median() < spread.median() {
        together
    } else {
        spread
    }
}

/// Bytes a second of COPY, a batch at once, by one thread.
pub(crate) fn bulk_copy(image: &Image) -> f64 {
    copy(
        image,
        COPIED,
        (0..COPIED).step_by(BATCH).map(|page| (page, BATCH)),
    )
}

/// The same for the runs that a set has of these pages: sorted in windows, as it is written, where neighbours go together.
pub(crate) fn copy_of_runs(image: &Image, pages: &[usize]) -> f64 {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for window in pages.chunks(WINDOW) {
        let mut sorted = window.to_vec();
        sorted.sort_unstable();
        let first = runs.len();
        for page in sorted {
            match runs[first..].last_mut() {
                Some((start, len)) if *start + *len == page && *len < BATCH => *len += 1,
                _ => runs.push((page, 1)),
            }
        }
    }
    copy(image, image.pages, runs.into_iter())
}

fn copy(image: &Image, pages: usize, runs: impl Iterator<Item = (usize, usize)>) -> f64 {
    let area = Area::map(pages, None);
    let board = Board::new(1);
    let scene = Scene {
        area: &area,
        board: &board,
        image,
        eager: None,
    };
    let (_target, userfaultfd) = Target::start_registered(scene);
    let content = vec![7; BATCH * PAGE_SIZE];
    let mut bytes = 0;
    let begun = Instant::now();
    for (page, pages) in runs {
        let content = &content[..pages * PAGE_SIZE];
        let outcome = userfaultfd.copy(area.range_of(page, pages).start, content);
        assert_eq!(outcome.stop, None);
        bytes += content.len();
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

/// Bytes a second that all cores together can decode and copy: nobody else works meanwhile.
pub(crate) fn both(copy: f64, decode_by_one: f64) -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    cores as f64 / (1.0 / copy + 1.0 / decode_by_one)
}

/// Blocks of pages, each compressed on its own, by nothing but the codec.
pub(crate) struct Blocks {
    codec: Codec,
    blocks: Vec<(Vec<u8>, usize)>,
    bytes: usize,
}

impl Blocks {
    /// Pages of an image in this order, so many in a block.
    pub(crate) fn of(image: &Image, pages: &[usize], kind: Kind, at_once: usize) -> Self {
        let content = image.read(pages);
        let len = at_once * PAGE_SIZE;
        let mut encoder = Encoder::new(kind, len);
        let mut room = vec![0; 2 * len + 1024];
        let blocks = content.chunks(len).map(|block| {
            let size = encoder.encode(block, &mut room);
            (room[..size].to_vec(), block.len())
        });
        Self {
            codec: kind.compression(1).codec,
            blocks: blocks.collect(),
            bytes: content.len(),
        }
    }

    /// Bytes a second of decoding by so many threads.
    pub(crate) fn decode(&self, threads: usize) -> f64 {
        let times = DECODED.div_ceil(self.bytes);
        let begun = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| self.decode_all(times));
            }
        });
        (threads * times * self.bytes) as f64 / begun.elapsed().as_secs_f64()
    }

    fn decode_all(&self, times: usize) {
        let mut decoder = Decoder::new();
        let mut room = vec![0; self.blocks.iter().map(|(_, len)| *len).max().unwrap_or(0)];
        for (block, len) in self.blocks.iter().cycle().take(times * self.blocks.len()) {
            decoder.decode(self.codec, block, &mut room[..*len]);
            black_box(&room);
        }
    }
}

/// Bytes a second of reading a working set's frames by one thread: pread, codec, checksum.
pub(crate) fn read_set(set: &Path) -> f64 {
    let file = File::open(set).expect("the set");
    let set = Arc::new(WorkingSet::open(file).expect("a working set"));
    let mut frames = Frames::new(Arc::clone(&set));
    let mut room = Vec::new();
    let mut bytes = 0;
    let begun = Instant::now();
    for frame in 0..set.frames() {
        frames.read(frame, &mut room).expect("a frame");
        bytes += room.len();
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

/// Microseconds of reading each of these pages alone: look-up, pread, codec, checksum.
pub(crate) fn read_alone(snapshot: &Path, pages: &[usize]) -> Series {
    let file = File::open(snapshot).expect("the snapshot");
    let mut cursor = Cursor::new(Arc::new(Snapshot::open(file).expect("a snapshot")));
    let mut page = [0; PAGE_SIZE];
    let times = pages.iter().map(|&number| {
        let begun = Instant::now();
        cursor
            .read_page(PageNo(number as u64), &mut page)
            .expect("a page");
        black_box(&page);
        begun.elapsed().as_secs_f64() * 1e6
    });
    times.collect()
}
