//! Pages into an address space, and every answer that the kernel may give.
//!
//! What is installed was decided with all events applied that have been read. If the kernel says that there are more, or
//! that a thread that was told has not gone on yet, the decision is void: read, apply, decide anew.

use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::journal::Op;
use super::notice::Notice;
use super::{Installer, Session, SpaceId};
use crate::addr::{Addr, AddrRange};
use crate::space::{Found, Kind};
use crate::uffd::{Outcome, Put, Stop};

/// Most bytes of one install: as long as it runs, an event of the target waits for it.
pub(super) const BATCH: u64 = 1 << 20;

/// What came of installing one page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is there now, or whoever waited was woken to find out what has become of it.
    Done,
    /// Its content has been asked for, and will come.
    Requested,
    /// Something happened: decide anew.
    Changed,
    /// The kernel refuses for the moment, and has nothing to say: try again soon. Until then it refuses every page of this address
    /// space.
    Refused,
    /// What belongs there is not known before another address space has told everything: try again soon.
    TooEarly,
    /// There is no memory for it: try again soon.
    NoMemory,
    /// The address space is gone, or broken.
    Over,
}

impl<I: Installer> Session<I> {
    /// Installs one page of the mapping at `page`, and wakes whoever waits for it.
    pub(super) fn put_page(
        &mut self,
        id: SpaceId,
        page: AddrRange,
        put: Put<'_>,
        now: Instant,
    ) -> Progress {
        let outcome = self.install(id, page, put);
        let Some(stop) = outcome.stop else {
            return Progress::Done;
        };
        match stop {
            Stop::Changing | Stop::Partial => self.changed_or(id, Progress::Refused, now),
            Stop::Present if self.lacks_a_huge_page(id, page, put) => {
                self.notices.push(Notice::NoMemory(id));
                Progress::NoMemory
            }
            Stop::Present => {
                self.page_is_present(id, page, put);
                Progress::Done
            }
            Stop::Unmapped => self.page_is_unmapped(id, page, now),
            // Beyond the end of the file behind it: the thread shall find out by itself, by SIGBUS.
            Stop::Fault => {
                self.let_go_of(id, page);
                Progress::Done
            }
            Stop::Gone => Progress::Over,
            Stop::NoMemory => {
                self.notices.push(Notice::NoMemory(id));
                Progress::NoMemory
            }
            Stop::Other(errno) => {
                self.break_down(
                    id,
                    format!("cannot install the page at {}: {errno}", page.start),
                );
                Progress::Over
            }
        }
    }

    /// Installs a run of pages that nobody waits for, as far as that goes without deciding anew. Bytes are those of the whole
    /// run. Returns how many pages were installed, and where and why that ended before all was dealt with.
    pub(super) fn put_run(
        &mut self,
        id: SpaceId,
        run: AddrRange,
        kind: Kind,
        put: Put<'_>,
    ) -> (u64, Option<(Addr, Stop)>) {
        let (mut rest, mut single, mut installed) = (run, false, 0);
        while !rest.is_empty() {
            let most = if single {
                kind.page_bytes
            } else {
                BATCH.max(kind.page_bytes)
            };
            let batch = AddrRange::at(rest.start, most.min(rest.len()));
            let put = match put {
                // Callers pass as many bytes as the run has.
                Put::Bytes(all) => Put::Bytes(part(all, batch.start.since(run.start), batch.len())),
                other => other,
            };
            let outcome = self.install(id, batch, put);
            installed += outcome.done / PAGE_BYTES;
            rest.start = rest.start.plus(outcome.done);
            match outcome.stop {
                None => single = false,
                // What is wrong with the next page, the kernel says only when it is asked for that page alone. And a batch
                // that crosses a border between mappings that we do not know of (mprotect makes them) is refused as a whole.
                Some(Stop::Partial) => single = true,
                Some(Stop::Unmapped) if batch.len() > kind.page_bytes => single = true,
                Some(Stop::Present) => {
                    let page = AddrRange::at(rest.start, kind.page_bytes);
                    if self.lacks_a_huge_page(id, page, put) {
                        return (installed, Some((rest.start, Stop::NoMemory)));
                    }
                    self.page_is_present(id, page, put);
                    rest.start = page.end;
                }
                Some(stop) => return (installed, Some((rest.start, stop))),
            }
        }
        (installed, None)
    }

    /// The call itself, and what it says about the state of the address space.
    pub(super) fn install(&mut self, id: SpaceId, range: AddrRange, put: Put<'_>) -> Outcome {
        self.checkpoint_if_due();
        let Some(member) = self.members.get_mut(&id) else {
            return Outcome::stopped(Stop::Gone);
        };
        if member.space.is_in_doubt() {
            let stop = member.installer.probe(Addr::NOWHERE, PAGE_BYTES);
            if !matches!(stop, Some(Stop::Changing | Stop::Gone)) {
                self.quiescent(id);
            }
            // What to install was decided before that was known.
            return Outcome::stopped(Stop::Changing);
        }
        self.receipt.of(id.0);
        let outcome = member.installer.install(range, put, &self.receipt);
        let done = AddrRange::at(range.start, outcome.done);
        match put {
            Put::Bytes(_) | Put::Zero => {
                if member.space.settle(done) > 0 {
                    self.note(id, Op::Settled(done));
                }
            }
            Put::Poison if done.is_empty() => {}
            Put::Poison => {
                member.space.poison(done);
                self.note(id, Op::Poisoned(done));
            }
        }
        self.receipt.clear();
        match outcome.stop {
            Some(Stop::Changing) => self.counts.refused += 1,
            Some(Stop::Gone) => {}
            _ => self.quiescent(id),
        }
        outcome
    }

    /// Reads what there is to read.
    fn changed_or(&mut self, id: SpaceId, otherwise: Progress, now: Instant) -> Progress {
        if self.drain(id, now) {
            Progress::Changed
        } else {
            otherwise
        }
    }

    /// For a huge page EEXIST has a second meaning: there is none left in the pool (`hugetlb_mfill_atomic_pte` in mm/hugetlb.c).
    /// A private page that is owed cannot be there, for nobody else could have put it there.
    fn lacks_a_huge_page(&mut self, id: SpaceId, page: AddrRange, put: Put<'_>) -> bool {
        // A marker takes none.
        if matches!(put, Put::Poison) {
            return false;
        }
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let private = member
            .space
            .kind_at(page.start)
            .is_some_and(|kind| !kind.shared);
        if page.len() == PAGE_BYTES || !private {
            return false;
        }
        if matches!(member.space.at(page.start), Found::Owed(_)) {
            return true;
        }
        // A zero page that is asked for again and again: whoever asks is woken, but no oftener than makes sense.
        if member.occupied.replace(page.start) == Some(page.start) {
            self.notices.push(Notice::NoMemory(id));
        }
        false
    }

    /// The page is there, whoever put it there: a thread that asked in the meantime must be woken, nobody else will.
    fn page_is_present(&mut self, id: SpaceId, page: AddrRange, put: Put<'_>) {
        if matches!(put, Put::Bytes(_)) {
            self.counts.present += page.len() / PAGE_BYTES;
        }
        self.let_go_of(id, page);
    }

    /// Nothing is registered at this address. If no event explains that, it is true: either memory that was never ours, or
    /// memory that lost its registration without a word.
    pub(super) fn page_is_unmapped(
        &mut self,
        id: SpaceId,
        page: AddrRange,
        now: Instant,
    ) -> Progress {
        if self.drain(id, now) {
            return Progress::Changed;
        }
        let Some(member) = self.members.get_mut(&id) else {
            return Progress::Over;
        };
        // A change that was just beginning when the kernel looked would make it refuse now.
        match member.installer.probe(page.start, page.len()) {
            Some(Stop::Unmapped) => {}
            Some(Stop::Gone) => return Progress::Over,
            Some(Stop::Changing) => return self.changed_or(id, Progress::Refused, now),
            _ => return Progress::Changed,
        }
        if member.parent_may_tell {
            return Progress::TooEarly;
        }
        let owed = member.space.at(page.start);
        self.let_go_of(id, page);
        if matches!(owed, Found::Owed(_)) {
            self.counts.untracked += page.len() / PAGE_BYTES;
        }
        Progress::Done
    }

    /// Nothing is owed there any more, and whoever waits shall look again.
    fn let_go_of(&mut self, id: SpaceId, page: AddrRange) {
        if let Some(member) = self.members.get_mut(&id) {
            // Poisoned pages are marked as such for as long as the marker may be there.
            let settled =
                member.space.at(page.start) != Found::Poisoned && member.space.settle(page) > 0;
            member.installer.wake(page);
            if settled {
                self.note(id, Op::Settled(page));
            }
        }
    }

    /// Installs a page of zeros, in the way that the mapping allows.
    pub(super) fn put_zero_page(&mut self, id: SpaceId, page: Addr, now: Instant) -> Progress {
        let Some(member) = self.members.get(&id) else {
            return Progress::Over;
        };
        let page_bytes = member.page_bytes(page);
        // A page that was found occupied, and is asked for again, has a marker in its place that only a copy replaces.
        let marked = member.occupied == Some(page);
        let known = member.space.kind_at(page).is_some();
        // Its parent may have moved something here, and not said so yet.
        if !known && member.parent_may_tell {
            return Progress::TooEarly;
        }
        let range = AddrRange::at(page, page_bytes);
        if page_bytes > PAGE_BYTES || marked {
            return self.put_zero_copy(id, range, now);
        }
        let outcome = self.install(id, range, Put::Zero);
        match outcome.stop {
            None => Progress::Done,
            Some(Stop::Present) => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.occupied = Some(page);
                }
                self.let_go_of(id, range);
                Progress::Done
            }
            // hugetlbfs memory that grew, of which nobody told, has no zero pages.
            Some(Stop::Other(_)) if !known => self.put_zero_copy(id, huge_page_of(page), now),
            Some(Stop::Changing | Stop::Partial) => self.changed_or(id, Progress::Refused, now),
            Some(Stop::Unmapped) => self.page_is_unmapped(id, range, now),
            Some(_) => self.put_page(id, range, Put::Zero, now),
        }
    }

    fn put_zero_copy(&mut self, id: SpaceId, page: AddrRange, now: Instant) -> Progress {
        let mut zeros = std::mem::take(&mut self.zeros);
        zeros.resize(usize::try_from(page.len()).unwrap_or(0), 0);
        let progress = self.put_page(id, page, Put::Bytes(&zeros), now);
        self.zeros = zeros;
        progress
    }
}

fn huge_page_of(page: Addr) -> AddrRange {
    const HUGE: u64 = 2 << 20;
    AddrRange::at(page.page(HUGE), HUGE)
}

fn part(content: &[u8], from: u64, len: u64) -> &[u8] {
    let index = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    content
        .get(index(from)..index(from.saturating_add(len)))
        .unwrap_or_default()
}
