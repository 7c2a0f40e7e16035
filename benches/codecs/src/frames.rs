//! Ratio and speed of every codec at every frame size.

use crate::codec::{Codec, Kind};
use crate::image::{self, Image, PAGE};
use crate::measure::{Random, cpu_seconds, median, nanos, percentile};

pub const SIZES: [usize; 9] = [1, 2, 4, 8, 16, 32, 64, 128, 512];
const ROUNDS: usize = 3;
/// What the page index or frame table of a snapshot costs for one frame.
const OVERHEAD: usize = 8;

pub struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends in `bytes`.
    ends: Vec<usize>,
    frame: usize,
    len: usize,
    stored: usize,
    pub mb_per_s: f64,
}

impl Frames {
    pub fn compress(codec: &mut Codec, content: &[u8], pages: usize) -> Self {
        let frame = pages * PAGE;
        let mut bytes = Vec::with_capacity(content.len() / 2);
        let mut out = vec![0; frame + frame / 8 + 1024]; // lz4_flex insists on 10 % more
        let (mut ends, mut stored) = (Vec::new(), 0);
        let start = cpu_seconds();
        for piece in content.chunks(frame) {
            let len = codec.compress(piece, &mut out);
            if len < piece.len() {
                bytes.extend_from_slice(&out[..len]);
            } else {
                bytes.extend_from_slice(piece);
                stored += 1;
            }
            ends.push(bytes.len());
        }
        let mb_per_s = content.len() as f64 / 1e6 / (cpu_seconds() - start);
        Frames {
            bytes,
            ends,
            frame,
            len: content.len(),
            stored,
            mb_per_s,
        }
    }

    /// Copies of all frames, until their content is `len` bytes: no cache or TLB holds more of
    /// the frames of a sample than of those of the whole image.
    fn repeat(&mut self, len: usize) {
        let (bytes, ends, content) = (self.bytes.clone(), self.ends.clone(), self.len);
        while self.len + content <= len && content % self.frame == 0 {
            let base = self.bytes.len();
            self.bytes.extend_from_slice(&bytes);
            self.ends.extend(ends.iter().map(|end| base + end));
            self.stored += self.stored * content / self.len;
            self.len += content;
        }
    }

    pub fn total(&self) -> usize {
        self.bytes.len() + OVERHEAD * self.ends.len()
    }

    pub fn ratio(&self) -> f64 {
        self.len as f64 / self.total() as f64
    }

    pub fn decode(&self, codec: &mut Codec, number: usize, out: &mut [u8]) {
        let start = if number == 0 {
            0
        } else {
            self.ends[number - 1]
        };
        let frame = &self.bytes[start..self.ends[number]];
        let len = self.frame.min(self.len - number * self.frame);
        if frame.len() < len {
            codec.decompress(frame, &mut out[..len]);
        } else {
            out[..len].copy_from_slice(frame);
        }
    }

    pub fn check(&self, codec: &mut Codec, content: &[u8]) {
        let mut out = vec![0; self.frame];
        for number in (0..self.ends.len()).step_by(37) {
            let expected = content
                .chunks(self.frame)
                .nth(number)
                .expect("a frame of the content");
            self.decode(codec, number, &mut out);
            assert!(out[..expected.len()] == *expected, "wrong bytes");
        }
    }

    /// Nanoseconds for frames picked at random: median and 99th percentile.
    pub fn latency(&self, codec: &mut Codec, random: &mut Random) -> (f64, f64) {
        let mut out = vec![0; self.frame];
        let count = (64_000_000 / self.frame).clamp(60, 4000);
        let mut times: Vec<u32> = (0..count)
            .map(|_| {
                let number = random.below(self.ends.len());
                nanos(|| self.decode(codec, number, &mut out))
            })
            .collect();
        (
            percentile(&mut times, 50).into(),
            percentile(&mut times, 99).into(),
        )
    }

    /// MB of content per second of CPU time, frame after frame; at most 64 MB of them.
    pub fn bulk(&self, codec: &mut Codec) -> f64 {
        let mut out = vec![0; self.frame];
        let count = (64_000_000 / self.frame).min(self.ends.len() - 1);
        let start = cpu_seconds();
        for number in 0..count {
            self.decode(codec, number, &mut out);
        }
        (count * self.frame) as f64 / 1e6 / (cpu_seconds() - start)
    }
}

struct Row {
    kind: Kind,
    codec: Codec,
    frames: Frames,
    ratio: f64,
    p50: Vec<f64>,
    p99: Vec<f64>,
    bulk: Vec<f64>,
}

pub fn run(image: &Image, sizes: &[usize], only: &str) {
    const WHOLE: [Kind; 6] = [
        Kind::Zstd(-5),
        Kind::Zstd(-1),
        Kind::Zstd(1),
        Kind::Zstd(3),
        Kind::Lz4C,
        Kind::Lz4Flex,
    ];
    const SLOW: [Kind; 5] = [
        Kind::Zstd(6),
        Kind::Zstd(9),
        Kind::Lz4Hc(4),
        Kind::Lz4Hc(9),
        Kind::ZstdBare(1),
    ];
    const SLOWEST: [Kind; 2] = [Kind::Zstd(19), Kind::Lz4Hc(12)];
    println!("\n### {}: frames\n", image.name);
    println!(
        "| pages | codec | ratio | % stored | decode p50 µs | p99 µs | decode MB/s | compress MB/s |"
    );
    println!("|--:|---|--:|--:|--:|--:|--:|--:|");
    let sample = image::sample(&image.content, 24);
    for &pages in sizes {
        let mut rows: Vec<Row> = Vec::new();
        let mut slow: Vec<Kind> = SLOW.to_vec();
        if [1, 4, 16, 64, 512].contains(&pages) {
            slow.extend(SLOWEST);
        }
        // The ratio of a slow codec on the whole image: that on a sample, times what a fast
        // relative has on the whole image over what it has on the same sample.
        let scale = |whole: &[Row], kind: Kind| {
            let near = if matches!(kind, Kind::Lz4Hc(_)) {
                Kind::Lz4C
            } else {
                Kind::Zstd(3)
            };
            let row = whole.iter().find(|row| row.kind == near);
            row.map(|row| row.ratio / Frames::compress(&mut near.open(), &sample, pages).ratio())
        };
        for kind in WHOLE.into_iter().chain(slow) {
            if !only.is_empty() && !kind.name().contains(only) {
                continue;
            }
            let mut codec = kind.open();
            let of_sample = !WHOLE.contains(&kind);
            let content = if of_sample { &sample } else { &image.content };
            let mut frames = Frames::compress(&mut codec, content, pages);
            frames.check(&mut codec, content);
            let scale = if of_sample {
                scale(&rows, kind).unwrap_or(1.0)
            } else {
                1.0
            };
            let ratio = frames.ratio() * scale;
            if of_sample {
                frames.repeat(image.content.len());
            }
            rows.push(Row {
                kind,
                codec,
                frames,
                ratio,
                p50: vec![],
                p99: vec![],
                bulk: vec![],
            });
        }
        for _ in 0..ROUNDS {
            for Row {
                codec,
                frames,
                p50,
                p99,
                bulk,
                ..
            } in &mut rows
            {
                let mut random = Random::new();
                let (half, most) = frames.latency(codec, &mut random);
                p50.push(half);
                p99.push(most);
                bulk.push(frames.bulk(codec));
            }
        }
        for row in &mut rows {
            println!(
                "| {pages} | {} | {:.3} | {:.1} | {:.2} | {:.2} | {:.0} | {:.0} |",
                row.kind.name(),
                row.ratio,
                row.frames.stored as f64 * 100.0 / row.frames.ends.len() as f64,
                median(&mut row.p50) / 1000.0,
                median(&mut row.p99) / 1000.0,
                median(&mut row.bulk),
                row.frames.mb_per_s,
            );
        }
    }
}

/// A trained dictionary against none, for small frames. The dictionary learns from other pieces
/// of the image than those that are compressed.
pub fn dictionary(images: &[Image]) {
    const PIECE: usize = 2 << 20;
    println!("\n### zstd dictionaries\n");
    println!(
        "| image | pages | level | dictionary | ratio | decode p50 µs | decode MB/s | compress MB/s |"
    );
    println!("|---|--:|--:|---|--:|--:|--:|--:|");
    let half = |image: &Image, odd: usize| -> Vec<u8> {
        let pieces = image.content.len() / PIECE;
        let step = (pieces / 32).max(1);
        (0..pieces)
            .filter(|piece| piece / step % 2 == odd && piece % step == 0)
            .flat_map(|piece| &image.content[piece * PIECE..][..PIECE])
            .copied()
            .collect()
    };
    for image in images {
        let (learn, test) = (half(image, 1), half(image, 0));
        let other: Vec<u8> = images
            .iter()
            .filter(|other| other.name != image.name)
            .flat_map(|other| half(other, 1))
            .collect();
        for pages in [1, 4] {
            let train = |from: &[u8], size: usize| {
                // 100 times the dictionary is what the trainer recommends.
                let step = (from.len() / (size * 100)).max(1);
                let samples: Vec<&[u8]> = from.chunks_exact(pages * PAGE).step_by(step).collect();
                zstd::dict::from_samples(&samples, size).expect("a dictionary")
            };
            let dictionaries = [
                ("none", vec![]),
                ("own, 32 KiB", train(&learn, 32 << 10)),
                ("own, 112 KiB", train(&learn, 112 << 10)),
                ("of the other images, 112 KiB", train(&other, 112 << 10)),
            ];
            for level in [1, 3, 9] {
                let mut rows: Vec<_> = dictionaries
                    .iter()
                    .map(|(name, dictionary)| {
                        let mut codec = Kind::Zstd(level).open_with(dictionary);
                        let frames = Frames::compress(&mut codec, &test, pages);
                        frames.check(&mut codec, &test);
                        (name, codec, frames, vec![], vec![])
                    })
                    .collect();
                for _ in 0..ROUNDS {
                    for (_, codec, frames, p50, bulk) in &mut rows {
                        let mut random = Random::new();

                        p50.push(frames.latency(codec, &mut random).0);
                        bulk.push(frames.bulk(codec));
                    }
                }
                for (name, _, frames, p50, bulk) in &mut rows {
                    println!(
                        "| {} | {pages} | {level} | {name} | {:.3} | {:.2} | {:.0} | {:.0} |",
                        image.name,
                        frames.ratio(),
                        median(p50) / 1000.0,
                        median(bulk),
                        frames.mb_per_s
                    );
                }
            }
        }
    }
}
