//! Which sessions there are, in memory that outlives the process that serves them.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use crate::session::Journal;
use crate::shared_memory::{SharedMemory, WORD};

/// Most sessions at a time.
const SESSIONS: usize = 2048;
const FREE: u64 = 0;
const TAKEN: u64 = 1;
const SERVING: u64 = 2;
/// To be gone on with, by descriptors that have other numbers than the journal says.
const STORED: u64 = 3;
/// Not 0 when a worker has died while it was reading.
const AT_CAREFUL: usize = WORD;
/// Pages at which workers have died, and that are not to be tried again.
const AT_BAD: usize = 64 * WORD;
const BAD_PAGES: usize = 128;
/// Not 0 when a worker has died of itself.
const AT_CRASHED: usize = 3 * WORD;
/// How the only session went, once that has been said: 1 for well, 2 for not.
const AT_OUTCOME: usize = 2 * WORD;
/// Not 0 when it has been said that the only session has begun.
const AT_BEGUN: usize = 4 * WORD;
/// How often the keeper has looked around.
const AT_TURNS: usize = 5 * WORD;
/// What each thread that decodes is working at: a page, from 1 on; 0 for none.
const AT_WORK: usize = 256 * WORD;
/// Threads whose work is known.
pub(super) const THREADS: usize = 256;
const AT_SESSIONS: usize = 1024 * WORD;
const _: () = assert!(AT_CAREFUL < AT_OUTCOME && AT_OUTCOME < AT_CRASHED);
const _: () = assert!(AT_CRASHED < AT_BEGUN && AT_BEGUN < AT_TURNS && AT_TURNS < AT_BAD);
/// State, journal.
const SESSION_WORDS: usize = 2;
const BYTES: NonZeroUsize =
    NonZeroUsize::new(AT_SESSIONS + SESSIONS * SESSION_WORDS * WORD).expect("not zero");

/// The sessions of a keeper, and what it has to know of its worker.
#[derive(Debug, Clone)]
pub struct Directory(Arc<SharedMemory>);

/// A session that somebody has to serve until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Entry {
    directory: Directory,
    slot: usize,
}

impl Directory {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new() -> Result<Self, Errno> {
        let memory = SharedMemory::new(c"uffd-restore-sessions", BYTES)?;
        Ok(Self(Arc::new(memory)))
    }

    /// From now on a worker that takes over goes on with this session. `None` if there are too many.
    #[must_use]
    pub fn enter(&self, journal: &Journal) -> Option<Entry> {
        use std::os::fd::AsFd;
        let free = |slot: &usize| {
            let state = self.0.word(at_session(*slot, 0));
            let taken = state.compare_exchange(FREE, TAKEN, Ordering::SeqCst, Ordering::SeqCst);
            taken.is_ok()
        };
        let slot = (0..SESSIONS).find(free)?;
        let number = journal.as_fd().as_raw_fd();
        self.0
            .store(at_session(slot, 1), u64::from(number.cast_unsigned()));
        self.0.store(at_session(slot, 0), SERVING);
        Some(Entry {
            directory: self.clone(),
            slot,
        })
    }

    /// A session of an earlier run of this program, whose journal came with this number. False if its place is taken, or there is none.
    #[must_use]
    pub fn restore(&self, slot: usize, journal: RawFd) -> bool {
        if slot >= SESSIONS || self.0.load(at_session(slot, 0)) != FREE {
            return false;
        }
        self.0
            .store(at_session(slot, 1), u64::from(journal.cast_unsigned()));
        self.0.store(at_session(slot, 0), STORED);
        true
    }

    /// The sessions that were being served, each with the number of its journal, for who takes over. To be called by one thread, once.
    #[must_use]
    pub fn sessions(&self) -> Vec<(Entry, RawFd)> {
        let mut found = Vec::new();
        for slot in 0..SESSIONS {
            match self.0.load(at_session(slot, 0)) {
                SERVING | STORED => {
                    let number = self.0.load(at_session(slot, 1));
                    let number = u32::try_from(number).unwrap_or(u32::MAX).cast_signed();
                    let directory = self.clone();
                    found.push((Entry { directory, slot }, number));
                }
                // Somebody died while entering.
                TAKEN => self.0.store(at_session(slot, 0), FREE),
                _ => {}
            }
        }
        found
    }

    /// True when there is something to go on with.
    #[must_use]
    pub fn has_sessions(&self) -> bool {
        (0..SESSIONS).any(|slot| matches!(self.0.load(at_session(slot, 0)), SERVING | STORED))
    }

    /// The only session has begun, and that has been said: nobody need do so again.
    pub fn has_begun(&self) {
        self.0.store(AT_BEGUN, 1);
    }

    /// True when that has been said.
    #[must_use]
    pub fn is_said_to_have_begun(&self) -> bool {
        self.0.load(AT_BEGUN) != 0
    }

    /// The only session is over, and how it went has been said: nobody need do so again.
    pub fn is_over(&self, well: bool) {
        self.0.store(AT_OUTCOME, if well { 1 } else { 2 });
    }

    /// How it went, if that has been said.
    pub(super) fn outcome(&self) -> Option<bool> {
        match self.0.load(AT_OUTCOME) {
            1 => Some(true),
            2 => Some(false),
            _ => None,
        }
    }

    /// The keeper looks around.
    pub(super) fn keeper_goes_on(&self) {
        self.0.word(AT_TURNS).fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has.
    pub(super) fn turns(&self) -> u64 {
        self.0.load(AT_TURNS)
    }

    /// A thread begins to work at a page, or, with `None`, has done it. Threads are numbered from 0.
    pub fn working_at(&self, thread: usize, page: Option<u64>) {
        if thread < THREADS {
            let page = page.map_or(0, |page| page.saturating_add(1));
            self.0.store(AT_WORK + thread * WORD, page);
        }
    }

    /// What threads were working at when they died. They are forgotten.
    pub(super) fn take_work(&self) -> Vec<u64> {
        let take = |thread| {
            let word = self.0.word(AT_WORK + thread * WORD);
            word.swap(0, Ordering::SeqCst).checked_sub(1)
        };
        (0..THREADS).filter_map(take).collect()
    }

    /// From now on pages are read one at a time.
    pub(super) fn be_careful(&self) {
        self.0.store(AT_CAREFUL, 1);
    }

    /// True when pages are to be read one at a time, because workers have died of it.
    #[must_use]
    pub fn is_careful(&self) -> bool {
        self.0.load(AT_CAREFUL) != 0
    }

    /// A worker has died, and not because somebody killed it.
    pub(super) fn crashed(&self) {
        self.0.store(AT_CRASHED, 1);
    }

    /// True when that is so: what need not be done, and may be the reason, is better left alone.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.0.load(AT_CRASHED) != 0
    }

    /// From now on nobody shall try this page.
    pub(super) fn is_bad(&self, page: u64) {
        let free = (0..BAD_PAGES).find(|index| self.0.load(AT_BAD + index * WORD) == 0);
        if let Some(index) = free {
            self.0.store(AT_BAD + index * WORD, page.saturating_add(1));
        }
    }

    /// The pages at which too many workers have died.
    #[must_use]
    pub fn bad_pages(&self) -> Vec<u64> {
        let page = |index| self.0.load(AT_BAD + index * WORD).checked_sub(1);
        (0..BAD_PAGES).map_while(page).collect()
    }
}

impl Entry {
    /// Its number, which it keeps as long as it exists, from one run of this program to the next.
    #[must_use]
    pub fn slot(&self) -> usize {
        self.slot
    }

    /// True when the numbers of descriptors in its journal are those of an earlier run.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.directory.0.load(at_session(self.slot, 0)) == STORED
    }

    /// From now on they are those of this one.
    pub fn is_renumbered(&self) {
        self.directory.0.store(at_session(self.slot, 0), SERVING);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.directory.0.store(at_session(self.slot, 0), FREE);
    }
}

const fn at_session(slot: usize, word: usize) -> usize {
    AT_SESSIONS + (slot * SESSION_WORDS + word) * WORD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_found_until_they_end() {
        let directory = Directory::new().expect("memory");
        let journals = [(); 2].map(|()| Journal::new().expect("memory"));
        let [first, second] = journals
            .each_ref()
            .map(|it| directory.enter(it).expect("room"));
        assert!(directory.has_sessions());
        drop(first);
        // Whoever takes over owns what is found.
        std::mem::forget(second);
        let found = directory.sessions();
        assert_eq!(found.len(), 1);
        use std::os::fd::AsFd;
        assert_eq!(found[0].1, journals[1].as_fd().as_raw_fd());
        drop(found);
        assert!(!directory.has_sessions());
    }

    #[test]
    fn those_of_an_earlier_run_keep_their_places() {
        let directory = Directory::new().expect("memory");
        assert!(directory.restore(7, 42) && !directory.restore(7, 43));
        assert!(!directory.restore(SESSIONS, 1));
        let found = directory.sessions();
        let (entry, journal) = &found[0];
        assert_eq!((entry.slot(), *journal, found.len()), (7, 42, 1));
        assert!(entry.is_stored());
        entry.is_renumbered();
        assert!(!entry.is_stored() && directory.has_sessions());
    }

    #[test]
    fn what_was_being_done_is_known_once() {
        let directory = Directory::new().expect("memory");
        directory.working_at(3, Some(0));
        directory.working_at(5, Some(77));
        directory.working_at(5, None);
        directory.working_at(THREADS, Some(1));
        assert_eq!(directory.take_work(), [0]);
        assert!(directory.take_work().is_empty());
        directory.is_bad(0);
        directory.is_bad(9);
        assert_eq!(directory.bad_pages(), [0, 9]);
    }
}
