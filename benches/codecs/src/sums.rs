//! Checksums over memory that was just written (as after decoding), and reads from the page cache.

use crate::image::{Image, PAGE};
use crate::measure::{Random, cpu_seconds, median, nanos, percentile};
use std::{fs::File, hint::black_box, os::unix::fs::FileExt};

const ROUNDS: usize = 9;
type Sum = (&'static str, fn(&[u8]) -> u64);

pub fn run(image: &Image) {
    const SUMS: [Sum; 6] = [
        ("XXH3-64, twox-hash", twox_hash::XxHash3_64::oneshot),
        ("XXH3-64, xxhash-rust", xxhash_rust::xxh3::xxh3_64),
        ("CRC-32C, crc32c", |bytes| crc32c::crc32c(bytes).into()),
        ("CRC-32C, crc-fast", |bytes| {
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes)
        }),
        ("CRC-64/NVME, crc-fast", |bytes| {
            crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
        }),
        ("BLAKE3, blake3", |bytes| {
            u64::from_le_bytes(
                *blake3::hash(bytes)
                    .as_bytes()
                    .first_chunk()
                    .expect("32 bytes"),
            )
        }),
    ];
    const SIZES: [usize; 4] = [1, 4, 16, 512];
    let build = if cfg!(target_feature = "avx2") {
        "target-cpu with AVX2"
    } else {
        "baseline x86-64"
    };
    println!("\n### Checksums, {build}: ns per frame\n");
    println!("| checksum | 4 KiB | 16 KiB | 64 KiB | 2 MiB | GB/s at 64 KiB |");
    println!("|---|--:|--:|--:|--:|--:|");
    let mut times = vec![[const { Vec::new() }; 4]; SUMS.len()];
    for _ in 0..ROUNDS {
        for (sum, times) in SUMS.iter().zip(&mut times) {
            for (pages, times) in SIZES.iter().zip(times) {
                let len = pages * PAGE;
                let count = (8 << 20) / len;
                let bytes = &image.content[(7 << 20)..][..len];
                black_box((sum.1)(bytes));
                let start = cpu_seconds();
                for _ in 0..count {
                    black_box((sum.1)(black_box(bytes)));
                }
                times.push((cpu_seconds() - start) * 1e9 / count as f64);
            }
        }
    }
    for (sum, times) in SUMS.iter().zip(&mut times) {
        let [a, b, c, d] = times.each_mut().map(|times| median(times));
        println!(
            "| {} | {a:.0} | {b:.0} | {c:.0} | {d:.0} | {:.1} |",
            sum.0,
            65536.0 / c
        );
    }
}

/// pread(2) at random places of a file that is in the page cache.
pub fn reads(path: &str) {
    let file = File::open(path).expect("the image");
    let len = file.metadata().expect("the image").len() as usize;
    println!("\n### pread(2) at a random place, from the page cache: ns\n");
    println!("| bytes | p50 | p99 |\n|--:|--:|--:|");
    let mut random = Random::new();
    for size in [16, 64, 1024, 1500, 4096, 6000, 16384, 24000, 65536, 524_288] {
        let mut buffer = vec![0; size];
        let (mut p50, mut p99) = (vec![], vec![]);
        for _ in 0..ROUNDS {
            let mut times: Vec<u32> = (0..(64_000_000 / size).clamp(200, 4000))
                .map(|_| {
                    let at = random.below(len - size) as u64;
                    nanos(|| file.read_exact_at(&mut buffer, at).expect("a read"))
                })
                .collect();
            p50.push(percentile(&mut times, 50).into());
            p99.push(percentile(&mut times, 99).into());
        }
        println!(
            "| {size} | {:.0} | {:.0} |",
            median(&mut p50),
            median(&mut p99)
        );
    }
}
