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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recording(pages: &[u64]) -> History {
        History::of_recording((0..).zip(pages).map(|(at, &page)| (PageNo(page), at)))
    }

    fn after(recordings: &[&[u64]]) -> History {
        let mut all = recordings.iter().map(|pages| recording(pages));
        let first = all.next().expect("a recording");
        all.fold(first, |known, newer| known.then(&newer))
    }

    fn replayed(history: &History) -> Vec<u64> {
        let stay = history.pages().iter().filter(|page| history.stays(page));
        stay.map(|touched| touched.page.0).collect()
    }

    #[test]
    fn what_one_restore_of_three_touched_is_remembered_and_not_replayed() {
        let two = after(&[&[1, 2], &[1]]);
        assert_eq!(replayed(&two), [1, 2], "half is enough");
        let three = after(&[&[1, 2], &[1], &[1]]);
        assert_eq!(replayed(&three), [1]);
        assert_eq!(three.pages().len(), 2);
        let again = three.then(&recording(&[2]));
        assert_eq!(replayed(&again), [2, 1], "2 of 4, and 3 of 4");
        assert_eq!(again.pages()[0].seen, 0b1001);
    }

    #[test]
    fn what_eight_restores_did_not_touch_is_forgotten() {
        let mut known = recording(&[7, 8]);
        for recordings in 2..=8 {
            known = known.then(&recording(&[8]));
            assert_eq!(known.recordings(), recordings);
            assert_eq!(known.pages().len(), 2);
        }
        known = known.then(&recording(&[8]));
        assert_eq!(known.recordings(), 8);
        let pages: Vec<_> = known.pages().iter().map(|touched| touched.page.0).collect();
        assert_eq!(pages, [8]);
    }

    #[test]
    fn of_a_page_that_comes_twice_the_first_time_counts() {
        let twice = History::of_recording([(PageNo(5), 10), (PageNo(4), 20), (PageNo(5), 30)]);
        assert_eq!(twice.pages().len(), 2);
        assert_eq!(twice.pages()[0].after_us, 10);
        assert!(History::of_recording([]).pages().is_empty());
    }

    /// What is known after `recordings`, oldest first, page by page.
    fn oracle(recordings: &[Vec<(u64, u32)>]) -> Vec<Touched> {
        let newest_first: Vec<_> = recordings.iter().rev().take(8).collect();
        let mut pages = Vec::new();
        for page in 0..30 {
            let time = |recording: &Vec<(u64, u32)>| {
                let touch = recording.iter().find(|touch| touch.0 == page);
                touch.map(|touch| touch.1)
            };
            let mut seen = 0;
            for (bit, recording) in newest_first.iter().enumerate() {
                seen |= u8::from(time(recording).is_some()) << bit;
            }
            if let Some(after_us) = newest_first.iter().find_map(|recording| time(recording)) {
                pages.push(Touched {
                    page: PageNo(page),
                    after_us,
                    seen,
                });
            }
        }
        pages
    }

    fn sorted(history: &History) -> Vec<Touched> {
        let mut pages = history.pages().to_vec();
        pages.sort_by_key(|touched| touched.page);
        pages
    }

    proptest! {
        #[test]
        fn histories_are_those_of_the_oracle(
            recordings in prop::collection::vec(prop::collection::vec((0u64..30, 0u32..50), 0..20), 1..13),
            cut in 0usize..13,
        ) {
            let histories: Vec<History> = recordings
                .iter()
                .map(|touches| History::of_recording(touches.iter().map(|&(page, at)| (PageNo(page), at))))
                .collect();
            let fold = |some: &[History]| {
                let (first, rest) = some.split_first().expect("a recording");
                rest.iter().fold(first.clone(), |known, newer| known.then(newer))
            };
            let known = fold(&histories);
            prop_assert_eq!(usize::from(known.recordings()), recordings.len().min(8));
            prop_assert_eq!(sorted(&known), oracle(&recordings));
            if histories.len() > 1 {
                prop_assert!(known.pages().is_sorted_by_key(|touched| touched.after_us));
            }
            for touched in known.pages() {
                let seen = (0..8).filter(|bit| touched.seen >> bit & 1 == 1).count();
                prop_assert_eq!(known.stays(touched), 2 * seen >= recordings.len().min(8));
            }
            // Whether they are merged one by one or in groups makes no difference.
            let cut = cut % histories.len();
            if cut > 0 {
                let (old, new) = histories.split_at(cut);
                prop_assert_eq!(fold(old).then(&fold(new)), known);
            }
        }
    }
}
