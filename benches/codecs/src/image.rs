//! A memory image and what its pages are.

use std::{fs, path::Path};

pub const PAGE: usize = 4096;

pub struct Image {
    pub name: String,
    pub pages: usize,
    pub zero: usize,
    /// One 64-bit word, not zero, all over.
    pub same: usize,
    /// The other pages, one after the other.
    pub content: Vec<u8>,
}

pub fn load(path: &str) -> Image {
    let mut raw = fs::read(path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
    let pages = raw.len() / PAGE;
    let (mut zero, mut same, mut kept) = (0, 0, 0);
    for page in 0..pages {
        let bytes = &raw[page * PAGE..(page + 1) * PAGE];
        let (words, _) = bytes.as_chunks::<8>();
        if words.iter().all(|word| word == &words[0]) {
            *(if words[0] == [0; 8] {
                &mut zero
            } else {
                &mut same
            }) += 1;
        } else {
            raw.copy_within(page * PAGE..(page + 1) * PAGE, kept * PAGE);
            kept += 1;
        }
    }
    raw.truncate(kept * PAGE);
    raw.shrink_to_fit();
    let name = Path::new(path)
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    Image {
        name,
        pages,
        zero,
        same,
        content: raw,
    }
}

/// About `mib` MiB of the content in pieces of 2 MiB spread evenly over it.
pub fn sample(content: &[u8], mib: usize) -> Vec<u8> {
    const PIECE: usize = 2 << 20;
    let pieces = content.len() / PIECE;
    let wanted = (mib / 2).clamp(1, pieces);
    (0..wanted)
        .flat_map(|at| &content[at * pieces / wanted * PIECE..][..PIECE])
        .copied()
        .collect()
}
