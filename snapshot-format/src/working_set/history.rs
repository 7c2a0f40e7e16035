//! What is known of the pages that restores touched. Pure: no bytes of a file, no content.

use crate::page::PageNo;
use std::collections::HashSet;

/// Most recordings that a history remembers; what is older is forgotten.
pub const MAX_RECORDINGS: u8 = 8;

/// A page that a restore touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touched {
    /// The page.
    pub page: PageNo,
    /// Microseconds from the beginning of serving to the first touch, in the newest recording that has the page; the
    /// largest number stands for all that are longer.
    pub after_us: u32,
    /// The recordings that have the page: bit 0 the newest, bit 1 the one before, and so on. Never 0.
    pub seen: u8,
}

/// What is known of the pages that restores of one snapshot touched: the newest recordings, merged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    recordings: u8,
    /// Each page once, in the order of replay.
    pages: Vec<Touched>,
}

impl History {
    /// One recording: pages in first-touch order, each with the microseconds since serving began. When a page comes twice
    /// the first time counts.
    #[must_use]
    pub fn of_recording(touches: impl IntoIterator<Item = (PageNo, u32)>) -> Self {
        let mut known = HashSet::new();
        let first = |&(page, _): &(PageNo, u32)| known.insert(page);
        let touched = |(page, after_us)| Touched {
            page,
            after_us,
            seen: 1,
        };
        Self {
            recordings: 1,
            pages: touches.into_iter().filter(first).map(touched).collect(),
        }
    }

    /// What a reader found, and has checked: see the fields.
    pub(super) fn of_file(recordings: u8, pages: Vec<Touched>) -> Self {
        Self { recordings, pages }
    }

    /// Recordings that are known, 1 to [`MAX_RECORDINGS`].
    #[must_use]
    pub fn recordings(&self) -> u8 {
        self.recordings
    }

    /// The pages, each once, in the order of replay.
    #[must_use]
    pub fn pages(&self) -> &[Touched] {
        &self.pages
    }

    /// What is known after a newer history of the same snapshot: a page of both has the newer time, and pages that the
    /// newest [`MAX_RECORDINGS`] recordings do not have are forgotten. Pages are in the order of their times.
    #[must_use]
    pub fn then(&self, newer: &Self) -> Self {
        let shifted = |seen: u8| seen.checked_shl(newer.recordings.into()).unwrap_or(0);
        let older = self.pages.iter().map(|touched| (touched.page, touched));
        let mut older: std::collections::HashMap<_, _> = older.collect();
        let both = newer.pages.iter().map(|touched| Touched {
            seen: touched.seen
                | older
                    .remove(&touched.page)
                    .map_or(0, |before| shifted(before.seen)),
            ..*touched
        });
        let mut pages: Vec<Touched> = both.collect();
        let only_older = self.pages.iter().filter_map(|touched| {
            let seen = shifted(touched.seen);
            let kept = seen != 0 && older.contains_key(&touched.page);
            kept.then_some(Touched { seen, ..*touched })
        });
        pages.extend(only_older);
        // Stable: at the same time, the newer knowledge first.
        pages.sort_by_key(|touched| touched.after_us);
        Self {
            recordings: self
                .recordings
                .saturating_add(newer.recordings)
                .min(MAX_RECORDINGS),
            pages,
        }
    }

    /// True when `page` is to be replayed: at least half of the recordings known have it. The others are remembered
    /// without content ("faded"), so that one restore that did something else does not decide alone.
    #[must_use]
    pub fn stays(&self, page: &Touched) -> bool {
        page.seen.count_ones().saturating_mul(2) >= self.recordings.into()
    }
}
