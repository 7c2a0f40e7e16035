//! The guest memory that is restored: made up, the same in every run, about as compressible as a real one.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use snapshot_format::PAGE_SIZE;

use crate::measure::Random;

/// Words of a page.
pub(crate) const WORDS: usize = PAGE_SIZE / 8;

/// Pages of one kind follow each other, at most so many.
const LONGEST_RUN: u64 = 32;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Zero,
    Text,
    Records,
    Noise,
}

impl Kind {
    fn pick(random: &mut Random) -> Self {
        match random.next() % 100 {
            0..15 => Self::Zero,
            15..60 => Self::Text,
            60..92 => Self::Records,
            _ => Self::Noise,
        }
    }
}

/// Writes a raw memory file, and beside it the sums of its pages.
pub(crate) fn write(memory: &Path, sums: &Path, pages: usize) {
    let mut file = BufWriter::new(File::create(memory).expect("the memory file"));
    let mut sums = BufWriter::new(File::create(sums).expect("the file of sums"));
    let mut random = Random::new(42);
    let vocabulary = vocabulary(&mut random);
    let (mut kind, mut left) = (Kind::Noise, 0);
    let mut page = Vec::with_capacity(2 * PAGE_SIZE);
    for number in 0..pages as u64 {
        if left == 0 {
            (kind, left) = (Kind::pick(&mut random), 1 + random.next() % LONGEST_RUN);
        }
        left -= 1;
        page.clear();
        match kind {
            Kind::Zero => {}
            Kind::Text => text(&mut page, &vocabulary, &mut random),
            Kind::Records => records(&mut page, number, &mut random),
            Kind::Noise => noise(&mut page, &mut random),
        }
        page.resize(PAGE_SIZE, 0);
        file.write_all(&page).expect("to write memory");
        let words = page
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")));
        let sum = words.fold(0, u64::wrapping_add);
        sums.write_all(&sum.to_ne_bytes()).expect("to write sums");
    }
    let file = file.into_inner().expect("to write memory");
    file.sync_all().expect("to write memory");
    sums.flush().expect("to write sums");
}

/// Reads what [`write`] wrote.
pub(crate) fn read_sums(path: &Path) -> Vec<u64> {
    let bytes = std::fs::read(path).expect("the file of sums");
    let words = bytes.chunks_exact(8);
    words
        .map(|word| u64::from_ne_bytes(word.try_into().expect("8 bytes")))
        .collect()
}

fn vocabulary(random: &mut Random) -> Vec<String> {
    const SYLLABLES: [&str; 24] = [
        "an", "ber", "con", "de", "er", "fo", "ge", "hi", "in", "ka", "lo", "ment", "na", "or",
        "pre", "qui", "re", "sta", "tion", "un", "ver", "wa", "ex", "ly",
    ];
    let mut word = || {
        let syllables = 1 + random.next() % 3;
        let mut syllable = || SYLLABLES[random.next() as usize % SYLLABLES.len()];
        (0..syllables).map(|_| syllable()).collect()
    };
    (0..2000).map(|_| word()).collect()
}

/// Words, the first of the vocabulary more often than the last, and a number now and then.
fn text(page: &mut Vec<u8>, vocabulary: &[String], random: &mut Random) {
    while page.len() < PAGE_SIZE {
        let among = random.next() % vocabulary.len() as u64 + 1;
        let word = &vocabulary[(random.next() % among) as usize];
        page.extend_from_slice(word.as_bytes());
        match random.next() % 24 {
            0 => page.extend_from_slice(format!("={};\n", random.next() % 10_000).as_bytes()),
            1..4 => page.extend_from_slice(b", "),
            _ => page.push(b' '),
        }
    }
    page.truncate(PAGE_SIZE);
}

/// Objects of 64 bytes as a heap has them: pointers, counters, flags, lengths, holes.
fn records(page: &mut Vec<u8>, number: u64, random: &mut Random) {
    for record in 0..(PAGE_SIZE / 64) as u64 {
        let fields = [
            0x7f3a_5c00_0000 + (random.next() % 0x4000) * 64,
            number * 64 + record,
            random.next() % 4,
            0,
            0x7f3a_6000_0000 + (random.next() % 0x100) * 64,
            random.next() % 200,
            if random.next().is_multiple_of(3) {
                random.next()
            } else {
                0
            },
            0,
        ];
        for field in fields {
            page.extend_from_slice(&field.to_ne_bytes());
        }
    }
}

fn noise(page: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..WORDS {
        let word = random.next() ^ random.next() << 32;
        page.extend_from_slice(&word.to_ne_bytes());
    }
}
