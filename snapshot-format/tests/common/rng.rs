//! Deterministic random numbers and pages.

use snapshot_format::PAGE_SIZE;

/// SplitMix64.
#[derive(Debug, Clone)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// A position below `end`.
    pub(crate) fn position(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }
}

const WORDS: [&[u8; 8]; 8] = [
    b"uffd    ",
    b"restore ",
    b"page\0\0\0\0",
    b"\x00\x7f\x10\0\0\0\0\0",
    b"snapshot",
    b"\xff\xff\xff\xff\0\0\0\0",
    b"lazily  ",
    b"memory. ",
];

/// Page content that depends on the seed alone: zero, filled, nearly so, compressible or not.
pub(crate) fn page(seed: u64) -> [u8; PAGE_SIZE] {
    let mut rng = Rng(seed);
    let mut page = [0; PAGE_SIZE];
    let flavour = rng.below(10);
    let word = (rng.next() | 1).to_le_bytes();
    match flavour {
        0 => {}
        1 | 2 => page.as_chunks_mut().0.fill(word),
        3 => page[rng.position(PAGE_SIZE)] = 1,
        4 => {
            page.as_chunks_mut().0.fill(word);
            page[rng.position(PAGE_SIZE)] ^= 0x10;
        }
        5 => noise(&mut page, seed),
        _ => {
            for chunk in page.as_chunks_mut::<8>().0 {
                *chunk = *WORDS[rng.position(8)];
            }
        }
    }
    page
}

/// Bytes that no codec makes smaller.
pub(crate) fn noise(bytes: &mut [u8], seed: u64) {
    let mut rng = Rng(seed ^ 0x6e6f_6973_6500);
    for chunk in bytes.as_chunks_mut::<8>().0 {
        *chunk = rng.next().to_le_bytes();
    }
}
