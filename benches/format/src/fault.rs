//! What a page costs that somebody waits for, and what of it is the codec's.

use crate::Setup;
use crate::codec::{Decoder, KINDS, Kind};
use crate::image::{Frames, Image, Open, open, options, pack};
use crate::measure::{Random, Series, nanos};
use snapshot_format::{Cursor, FrameRef, PAGE_SIZE, PageNo};
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Pages of a round.
const PAGES: usize = 3000;

/// What is timed, each for the same pages.
const STAGES: [&str; 8] = [
    "`read_page`",
    "codec alone",
    "look-up",
    "look-up again",
    "pread",
    "checksum",
    "copy",
    "clock",
];

/// Measure and print.
pub fn run(setup: &Setup) {
    println!("\n## One page\n");
    println!(
        "A random page with content by `Cursor::read_page`, one thread, one core, file in the page cache; µs, medians. Ratio = (`read_page` - checksum) /"
    );
    println!(
        "codec alone, median of the rounds (smallest - largest). The other columns are the parts on their own: the look-up of a"
    );
    println!(
        "random page, of the same page again, `pread` of the frame, checksum of its content, copy of the page. The clock's own time is taken off.\n"
    );
    println!(
        "| pages | image | codec | `read_page` p50 | p99 | codec alone p50 | p99 | **ratio** | look-up | again | pread | checksum | copy |"
    );
    println!("|--:|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    let path = setup.work.join("fault.snap");
    for frame_pages in [1, 4, 16] {
        for image in &setup.images() {
            for kind in KINDS {
                let file = File::create(&path).expect("the snapshot");
                let jobs = setup.cores.count();
                let options = options(kind, frame_pages, jobs, &setup.work);
                pack(&image.bytes, file, options)
                    .0
                    .sync_all()
                    .expect("the snapshot");
                let snapshot = open(&path);
                setup.cores.limit(1);
                case(setup, &snapshot, frame_pages, image, kind);
                setup.cores.limit(jobs);
            }
        }
    }
    fs::remove_file(&path).expect("the snapshot");
}

fn case(setup: &Setup, snapshot: &Open, frame_pages: u16, image: &Image, kind: Kind) {
    let frames = Frames::load(snapshot);
    let mut bench = Bench::new(snapshot, &frames);
    let mut ratio = Series::default();
    let mut p50 = vec![Series::default(); STAGES.len()];
    let mut p99 = p50.clone();
    // The first round warms up and does not count.
    for round in 0..=setup.rounds {
        let mut random = Random::new(round as u64);
        let picked: Vec<_> = (0..PAGES)
            .map(|_| frames.pages[random.below(frames.pages.len())])
            .collect();
        let times = bench.round(&picked);
        if round == 0 {
            continue;
        }
        let clock = times[7].median();
        for (stage, series) in times.iter().enumerate() {
            p50[stage].push((series.median() - clock) / 1000.0);
            p99[stage].push((series.percentile(99) - clock) / 1000.0);
        }
        ratio.push((times[0].median() - times[5].median()) / (times[1].median() - clock));
    }
    let (least, most) = ratio.range();
    println!(
        "| {frame_pages} | {} | {} | {:.2} | {:.1} | {:.2} | {:.1} | **{:.2}** ({least:.2} - {most:.2}) | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
        image.name,
        kind.name(),
        p50[0].median(),
        p99[0].median(),
        p50[1].median(),
        p99[1].median(),
        ratio.median(),
        p50[2].median(),
        p50[3].median(),
        p50[4].median(),
        p50[5].median(),
        p50[6].median(),
    );
}

/// The memory that the stages work with.
struct Bench<'a> {
    snapshot: &'a Open,
    frames: &'a Frames,
    reader: Cursor<File>,
    finder: Cursor<File>,
    decoder: Decoder,
    content: Vec<u8>,
    stored: Vec<u8>,
    page: Box<[u8; PAGE_SIZE]>,
}

impl<'a> Bench<'a> {
    fn new(snapshot: &'a Open, frames: &'a Frames) -> Self {
        let len = usize::from(snapshot.max_frame_pages()) * PAGE_SIZE;
        Self {
            snapshot,
            frames,
            reader: Cursor::new(Arc::clone(snapshot)),
            finder: Cursor::new(Arc::clone(snapshot)),
            decoder: Decoder::new(),
            content: vec![0; len],
            stored: vec![0; len + 8],
            page: Box::new([0; PAGE_SIZE]),
        }
    }

    /// The nanoseconds of every stage for every page: one stage after the other, so that none finds in the CPU's caches what
    /// another has just brought there.
    fn round(&mut self, picked: &[(PageNo, FrameRef, u16)]) -> Vec<Series> {
        let mut times = vec![Series::default(); STAGES.len()];
        for (page, ..) in picked {
            let mut read = || self.reader.read_page(*page, &mut self.page);
            times[0].push(nanos(|| read().expect("a page")));
        }
        for (_, frame, slot) in picked {
            let out = &mut self.content[..frame.content_len()];
            let payload = self.frames.payload(frame);
            let decoder = &mut self.decoder;
            times[1].push(nanos(|| decoder.decode(frame.codec, payload, out)));
            // These two have the content in the cache, as the library has.
            times[5].push(nanos(|| {
                black_box(twox_hash::XxHash3_64::oneshot(out));
            }));
            let from = usize::from(*slot) * PAGE_SIZE;
            times[6].push(nanos(|| {
                self.page
                    .copy_from_slice(black_box(&out[from..from + PAGE_SIZE]));
                black_box(&mut self.page);
            }));
            times[7].push(nanos(|| {
                black_box(&mut self.page);
            }));
        }
        for (page, ..) in picked {
            for stage in [2, 3] {
                let finder = &mut self.finder;
                times[stage].push(nanos(|| {
                    black_box(finder.content(*page).expect("an entry"));
                }));
            }
        }
        for (_, frame, _) in picked {
            let stored = &mut self.stored[..frame.payload_len as usize + 8];
            let at = self.frames.offset + frame.offset;
            let file = self.snapshot.storage();
            times[4].push(nanos(|| file.read_exact_at(stored, at).expect("a frame")));
        }
        times
    }
}
