//! The memory of real programs, and what a restored page of it must have.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::{Whence, lseek};
use snapshot_format::PAGE_SIZE;

use crate::Setup;

/// A raw memory file with what is known of its pages.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) name: String,
    pub(crate) raw: PathBuf,
    pub(crate) pages: usize,
    /// A word of every page, another one on each.
    words: Vec<u64>,
    /// All words of every page, added up.
    sums: Vec<u64>,
}

impl Image {
    /// Reads a file, once.
    pub(crate) fn load(raw: &Path) -> Self {
        let file = File::open(raw).expect("an image");
        let len = file.metadata().expect("its length").len();
        let pages = usize::try_from(len).expect("64 bits") / PAGE_SIZE;
        let mut image = Self {
            name: raw.file_stem().expect("a name").display().to_string(),
            raw: raw.to_path_buf(),
            pages,
            words: vec![0; pages],
            sums: vec![0; pages],
        };
        let mut bytes = [0; PAGE_SIZE];
        let mut page = 0;
        while let Some(next) = next_data(&file, page).filter(|&next| next < pages) {
            file.read_exact_at(&mut bytes, (next * PAGE_SIZE) as u64)
                .expect("a page");
            let words = || {
                bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|word| u64::from_le_bytes(*word))
            };
            image.sums[next] = words().fold(0, u64::wrapping_add);
            image.words[next] = words().nth(Self::word_of(next)).expect("a word");
            page = next + 1;
        }
        image
    }

    /// Which word of a page is looked at when it is touched.
    pub(crate) fn word_of(page: usize) -> usize {
        page * 37 % (PAGE_SIZE / 8)
    }

    pub(crate) fn word(&self, page: usize) -> u64 {
        self.words[page]
    }

    pub(crate) fn sum(&self, page: usize) -> u64 {
        self.sums[page]
    }

    /// The pages that are not zero.
    pub(crate) fn content(&self) -> Vec<usize> {
        (0..self.pages)
            .filter(|&page| self.sums[page] != 0)
            .collect()
    }

    /// Copies pages out of the file.
    pub(crate) fn read(&self, pages: &[usize]) -> Vec<u8> {
        let file = File::open(&self.raw).expect("the image");
        let mut bytes = vec![0; pages.len() * PAGE_SIZE];
        for (room, &page) in bytes.chunks_exact_mut(PAGE_SIZE).zip(pages) {
            file.read_exact_at(room, (page * PAGE_SIZE) as u64)
                .expect("a page");
        }
        bytes
    }

    /// Packs it.
    pub(crate) fn pack(&self, setup: &Setup, options: &[&str]) -> PathBuf {
        let path = setup
            .work
            .join(format!("{}{}.snap", self.name, options.concat()));
        pack(setup, &self.raw, &path, options);
        path
    }
}

/// Packs a raw file.
pub(crate) fn pack(setup: &Setup, raw: &Path, path: &Path, options: &[&str]) {
    let mut command = Command::new(&setup.packer);
    command
        .arg("pack")
        .arg(raw)
        .arg("-o")
        .arg(path)
        .args(options);
    let output = command.arg("--quiet").output().expect("uffd-snapshot");
    assert!(output.status.success(), "{output:?}");
}

/// Megabytes of a file.
pub(crate) fn megabytes(path: &Path) -> f64 {
    fs::metadata(path).expect("the file").len() as f64 / 1e6
}

/// The first page from this one on that is not in a hole of the file.
fn next_data(file: &File, page: usize) -> Option<usize> {
    let from = i64::try_from(page * PAGE_SIZE).expect("63 bits");
    let found = lseek(file, from, Whence::SeekData).ok()?;
    Some(usize::try_from(found).expect("64 bits") / PAGE_SIZE)
}
