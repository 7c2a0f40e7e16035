//! What is in a page of guest memory: every byte of it can be checked.

use super::PAGE;

pub const WORDS: usize = PAGE / 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    Zero,
    /// What the memory file has in this page, which is not a zero one.
    File(usize),
    /// Written by the VMM or its guest.
    Own(u64),
}

impl Content {
    /// What the memory file has: every fifth page is zero, and every eleventh repeats one word.
    pub fn of_file(page: usize) -> Self {
        if page % 5 == 3 {
            Self::Zero
        } else {
            Self::File(page)
        }
    }

    pub fn word(self, index: usize) -> u64 {
        match self {
            Self::Zero => 0,
            Self::File(page) if page % 11 == 7 => tag(0xf1, page as u64),
            Self::File(page) => tag(0xf1, page as u64) ^ spread(index),
            Self::Own(number) => tag(0x0e, number) ^ spread(index),
        }
    }

    #[expect(clippy::host_endian_bytes, reason = "memory of this very machine")]
    pub fn bytes(self) -> Vec<u8> {
        (0..WORDS)
            .flat_map(|index| self.word(index).to_ne_bytes())
            .collect()
    }
}

fn tag(kind: u64, number: u64) -> u64 {
    (kind << 56) | (number << 16)
}

/// Something else for each word, and yet it can be compressed.
fn spread(index: usize) -> u64 {
    let group = (index / 8) as u64;
    (group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 24) ^ (index % 8) as u64
}
