//! A file that this program and the target talk through: what to touch, and how long that took. The target maps it, and CRIU
//! maps it again; here it is read and written as a file, so that it adds nothing to the memory that daemons inherit a
//! high-water mark of.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use snapshot_format::PAGE_SIZE;

use crate::area::Area;
use crate::measure::Series;

const PER_PAGE: usize = PAGE_SIZE / 8;

/// Words in the beginning.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Word {
    /// Not 0 when the target shall begin.
    Go = 0,
    /// Not 0 when the fill is over.
    Stop,
    /// How far the target is, a [`State`].
    State,
    /// When the first pages had been touched.
    FirstDone,
    /// How many it touched.
    Touched,
    /// How many pages had another content than they should.
    Wrong,
    /// Nanoseconds of work after each touch.
    Work,
    /// How many pages to touch at most.
    Most,
}

/// How far the target is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State {
    Filled = 1,
    Checked,
}

/// Of every page.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Column {
    /// The order of touching.
    Order = 0,
    /// Nanoseconds of every touch.
    Took,
    /// A word of every page.
    Expected,
    /// All words of every page, added up.
    Sum,
}

/// Where a word of a column is.
fn at(pages: usize, column: Column, index: usize) -> usize {
    PER_PAGE + column as usize * pages + index
}

fn file_pages(pages: usize) -> usize {
    1 + (4 * pages).div_ceil(PER_PAGE)
}

/// This program's side.
#[derive(Debug)]
pub(crate) struct Board {
    file: File,
    pub(crate) path: PathBuf,
    pages: usize,
}

impl Board {
    pub(crate) fn create(path: PathBuf, pages: usize) -> Self {
        let file = File::create_new(&path).expect("a new file");
        file.set_len((file_pages(pages) * PAGE_SIZE) as u64)
            .expect("room");
        drop(file);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Self {
            file: file.expect("the file"),
            path,
            pages,
        }
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        self.read(word as usize)
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.write(word as usize, &value.to_le_bytes());
    }

    pub(crate) fn set_order(&self, order: &[u32]) {
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|&page| u64::from(page).to_le_bytes())
            .collect();
        self.write(at(self.pages, Column::Order, 0), &bytes);
    }

    /// Microseconds of the touches.
    pub(crate) fn took(&self) -> Series {
        let touched = usize::try_from(self.get(Word::Touched)).expect("64 bits");
        let mut bytes = vec![0; touched * 8];
        let from = at(self.pages, Column::Took, 0) * 8;
        self.file
            .read_exact_at(&mut bytes, from as u64)
            .expect("the board");
        let words = bytes.as_chunks::<8>().0.iter();
        words
            .map(|&word| u64::from_le_bytes(word) as f64 / 1e3)
            .collect()
    }

    /// Waits for the target.
    pub(crate) fn wait(&self, state: State) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.get(Word::State) != state as u64 {
            assert!(Instant::now() < deadline, "the target is not {state:?}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read(&self, word: usize) -> u64 {
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, (word * 8) as u64)
            .expect("the board");
        u64::from_le_bytes(bytes)
    }

    fn write(&self, word: usize, bytes: &[u8]) {
        self.file
            .write_all_at(bytes, (word * 8) as u64)
            .expect("the board");
    }
}

/// The target's side: the same file, mapped.
#[derive(Debug)]
pub(crate) struct Mapped {
    area: Area,
    pages: usize,
}

impl Mapped {
    pub(crate) fn open(path: &Path, pages: usize) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(path);
        Self {
            area: Area::map(file_pages(pages), Some(&file.expect("the board"))),
            pages,
        }
    }

    pub(crate) fn get(&self, word: Word) -> u64 {
        self.area.read(0, word as usize)
    }

    pub(crate) fn set(&self, word: Word, value: u64) {
        self.area.write(0, word as usize, value);
    }

    pub(crate) fn column(&self, column: Column, index: usize) -> u64 {
        let word = at(self.pages, column, index);
        self.area.read(word / PER_PAGE, word % PER_PAGE)
    }

    pub(crate) fn set_column(&self, column: Column, index: usize, value: u64) {
        let word = at(self.pages, column, index);
        self.area.write(word / PER_PAGE, word % PER_PAGE, value);
    }
}
