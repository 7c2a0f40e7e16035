//! What a VMM is to do: as a value, and as words for its role.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::guest::FIRST;
use super::machine::Mode;
use super::support::area::{HUGE_PAGE, PAGE};

/// Small pages in a huge one.
pub(crate) const SMALL_IN_HUGE: usize = HUGE_PAGE / PAGE;

#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) socket: PathBuf,
    pub(crate) mode: Mode,
    pub(crate) vcpus: usize,
    /// Small pages of memory.
    pub(crate) pages: usize,
    /// Bytes of a page of the mapping.
    pub(crate) page_size: usize,
    /// Nobody may access this page.
    pub(crate) forbidden: Option<usize>,
}

/// Pages in a task: many tasks, so that others see how far the vCPUs are.
pub(crate) const BATCH: usize = 64;

/// Pages to drop, when so many tasks of a phase are done.
#[derive(Debug, Clone)]
pub(crate) struct Drop {
    pub(crate) after: usize,
    pub(crate) range: Range<usize>,
}

impl Plan {
    /// 32 MiB.
    pub(crate) fn new(mode: Mode, vcpus: usize) -> Self {
        Self {
            socket: PathBuf::new(),
            mode,
            vcpus,
            pages: 8192,
            page_size: PAGE,
            forbidden: None,
        }
    }

    pub(crate) fn huge(self) -> Self {
        Self {
            page_size: HUGE_PAGE,
            ..self
        }
    }

    pub(crate) fn forbidden(self, page: usize) -> Self {
        Self {
            forbidden: Some(page),
            ..self
        }
    }

    pub(crate) fn words(&self, socket: &Path) -> String {
        format!(
            "{} {} {} {} {} {}",
            socket.display(),
            self.mode.word(),
            self.vcpus,
            self.pages,
            self.page_size,
            self.forbidden.unwrap_or(0),
        )
    }

    pub(crate) fn from_words(words: &[&str]) -> Self {
        let number = |index: usize| words[index].parse::<usize>().expect("a number");
        Self {
            socket: words[0].into(),
            mode: Mode::from_word(words[1]),
            vcpus: number(2),
            pages: number(3),
            page_size: number(4),
            forbidden: Some(number(5)).filter(|page| *page > 0),
        }
    }

    /// Words that the guest looks at, or writes, in all phases together.
    pub(crate) fn words_in_all(&self) -> usize {
        let pages = 3 * (self.pages - FIRST) + (self.pages / 2 - FIRST).div_ceil(3);
        pages * (PAGE / self.mode.stride())
    }

    /// The guest writes to pages of the lower half, and only reads those of the upper half.
    pub(crate) fn halves(&self) -> (Range<usize>, Range<usize>) {
        let middle = self.pages / 2;
        (FIRST..middle, middle..self.pages)
    }

    /// All that is dropped while the guest runs, by phases.
    pub(crate) fn balloons(&self) -> [Vec<Drop>; 3] {
        let (lower, upper) = self.halves();
        let all = FIRST..self.pages;
        let mut first = self.balloon(0, all.clone(), all.len() / BATCH);
        first.extend(self.chase());
        first.sort_by_key(|drop| drop.after);
        [
            first,
            self.balloon(1, upper, lower.len() / 3 / BATCH),
            self.balloon(2, lower, all.len() / BATCH),
        ]
    }

    /// Pages that the vCPUs ask for just when they are dropped, or that are being brought in.
    fn chase(&self) -> Vec<Drop> {
        if self.page_size != PAGE {
            return Vec::new();
        }
        let drop = |after: usize| {
            let first = FIRST + after * BATCH + after * 13 % (BATCH * self.vcpus);
            Drop {
                after,
                range: first..(first + 8).min(self.pages),
            }
        };
        let tasks = (self.pages - FIRST) / BATCH;
        (0..tasks - self.vcpus).map(drop).collect()
    }

    /// A page with content that is neither written to nor dropped.
    pub(crate) fn only_read(&self) -> usize {
        let dropped = self.balloons().concat();
        let (_, mut upper) = self.halves();
        upper
            .find(|page| page % 8 == 4 && dropped.iter().all(|drop| !drop.range.contains(page)))
            .expect("a page")
    }

    /// What is dropped in a phase, within a range. What lies far up goes first: the vCPUs have not been there yet. What lies
    /// far down goes last: they have.
    fn balloon(&self, phase: usize, within: Range<usize>, tasks: usize) -> Vec<Drop> {
        let (drops, unit) = if self.page_size == PAGE {
            (24, 1)
        } else {
            (3, SMALL_IN_HUGE)
        };
        let slot = (within.end - within.start) / drops / unit * unit;
        let begin = within.start.next_multiple_of(unit);
        let drop = |index: usize| {
            let first = begin + (drops - 1 - index) * slot + (phase * 5 % slot / unit * unit);
            let pages = (index * 37 + phase * 11) % 97 % (slot / unit) * unit + unit;
            Drop {
                after: index * tasks / drops,
                range: first..(first + pages).min(within.end),
            }
        };
        (0..drops).map(drop).collect()
    }
}
