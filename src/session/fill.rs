//! Pages that nobody waits for: those that came with one that was wanted, and those that are fetched ahead.

use std::ops::Range;
use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::block::{Block, What};
use super::install::{Progress, Put};
use super::notice::{Notice, OnFailure};
use super::{Installer, Request, Session, SpaceId, Turn};
use crate::addr::{Addr, AddrRange};
use crate::space::Kind;
use crate::uffd::Stop;

/// Why pages are installed that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// They came with a page that somebody waited for.
    Neighbours,
    /// To have them before somebody waits.
    Prefill,
}

impl<I: Installer> Session<I> {
    /// The next pages to fetch ahead for an address space: at most `most` of consecutive ones, in the order of addresses,
    /// again from the start when the end is reached. `None` when nothing is owed.
    pub fn fill_request(&mut self, id: SpaceId, most: u64) -> Option<Request> {
        let member = self.members.get_mut(&id)?;
        if member.broken || member.may_be_behind() {
            return None;
        }
        let all = AddrRange::new(0, u64::MAX);
        let rest = AddrRange {
            start: member.fill_from,
            ..all
        };
        let (run, first) = member
            .space
            .next_run(rest)
            .or_else(|| member.space.next_run(all))?;
        let kind = member.space.kind_at(run.start).unwrap_or(Kind::PRIVATE);
        let bytes = (most * PAGE_BYTES).max(kind.page_bytes) / kind.page_bytes * kind.page_bytes;
        let run = AddrRange::at(run.start, bytes.min(run.len()));
        member.fill_from = run.end;
        Some(Request {
            space: id,
            at: run.start,
            page: first,
            needed: kind.snapshot_pages(),
            welcome: first.0..first.0 + run.len() / PAGE_BYTES,
            crowded: false,
            ahead: false,
        })
    }

    /// Pages that were fetched ahead have come. What is not owed any more, or not there any more, is passed over.
    /// [`Turn::Soon`] means that the messages read meanwhile have faults to be answered, [`Turn::Later`] that not all could be
    /// installed at this moment.
    pub fn deliver_fill(&mut self, request: &Request, block: &Block, now: Instant) -> Turn {
        let id = request.space;
        let purpose = if request.ahead {
            Purpose::Neighbours
        } else {
            Purpose::Prefill
        };
        match self.fill(request, block, purpose) {
            // Events come first: they are read in the next turn, and then the same pages may still be owed.
            Some((_, Stop::Changing)) => return Turn::Later,
            // What is left is asked for again later.
            None | Some((_, Stop::NoMemory | Stop::Partial | Stop::Present)) => {}
            Some((_, Stop::Gone)) => {
                self.notices.push(Notice::Gone(id));
                return Turn::Gone;
            }
            // Found out for each page, or they would be asked for for ever.
            Some((at, stop @ (Stop::Unmapped | Stop::Fault))) => {
                let page = AddrRange::at(at, request.needed * PAGE_BYTES);
                let progress = self.page_is_unmapped(id, page, now);
                if progress == Progress::Changed && stop == Stop::Fault {
                    self.put_aside(id, page);
                }
            }
            Some((at, Stop::Other(errno))) => {
                self.break_down(id, format!("cannot install the page at {at}: {errno}"));
            }
        }
        self.turn_after_delivery(id)
    }

    /// What was read meanwhile wants another turn.
    pub(super) fn turn_after_delivery(&self, id: SpaceId) -> Turn {
        match self.members.get(&id) {
            Some(member) if member.waiting.unrequested() > 0 && !member.broken => Turn::Soon,
            _ => Turn::Idle,
        }
    }

    /// Beyond the end of the file behind a shared mapping nothing can be installed, and an access is SIGBUS without us.
    fn put_aside(&mut self, id: SpaceId, page: AddrRange) {
        if let Some(member) = self.members.get_mut(&id) {
            self.counts.untracked += member.space.settle(page) / PAGE_BYTES;
        }
    }

    /// Installs what a block has, where it is still owed, without waiting for anything. Returns where and why that ended, if
    /// not at the end.
    pub(super) fn fill(
        &mut self,
        request: &Request,
        block: &Block,
        purpose: Purpose,
    ) -> Option<(Addr, Stop)> {
        for piece in &block.pieces {
            let Some(place) = place_of(request, &piece.pages) else {
                continue;
            };
            let mut rest = place;
            while let Some((run, kind, pages)) =
                self.owed_part(request.space, rest, place.start, piece.pages.start)
            {
                rest.start = run.end;
                let Some(pages) = pages else { continue };
                let stopped = match &piece.what {
                    What::Bytes(_) => {
                        let bytes = block.bytes_of(piece, &pages)?;
                        let (installed, stopped) =
                            self.put_run(request.space, run, kind, Put::Bytes(bytes));
                        match purpose {
                            Purpose::Neighbours => self.counts.neighbours += installed,
                            Purpose::Prefill => self.counts.prefill += installed,
                        }
                        stopped
                    }
                    What::Zero => self.fill_zeros(request.space, run, kind, purpose),
                    What::Bad(why) => self.fill_bad(request.space, run, kind, (pages.start, why)),
                };
                if stopped.is_some() {
                    return stopped;
                }
            }
        }
        None
    }

    /// The first part of `within` that is still owed, how it is mapped, and which pages of the snapshot it has; no pages if
    /// they are not those that would be there had nothing moved.
    pub(super) fn owed_part(
        &self,
        id: SpaceId,
        within: AddrRange,
        start: Addr,
        first: u64,
    ) -> Option<(AddrRange, Kind, Option<Range<u64>>)> {
        let space = &self.members.get(&id)?.space;
        let (run, page) = space.next_run(within)?;
        let kind = space.kind_at(run.start)?;
        let expected = first + run.start.since(start) / PAGE_BYTES;
        let whole = run.len().is_multiple_of(kind.page_bytes)
            && run.start.page(kind.page_bytes) == run.start;
        let pages = expected..expected + run.len() / PAGE_BYTES;
        Some((run, kind, (page.0 == expected && whole).then_some(pages)))
    }

    /// Zeros need not be installed, they only must not be owed: a fault there, or the kernel when all is over, makes them. But
    /// beside a page that was just touched they save the next fault, where they cost next to nothing.
    fn fill_zeros(
        &mut self,
        id: SpaceId,
        run: AddrRange,
        kind: Kind,
        purpose: Purpose,
    ) -> Option<(Addr, Stop)> {
        let costly = kind.shared || kind.page_bytes > PAGE_BYTES;
        if purpose == Purpose::Neighbours && !costly {
            let (installed, stopped) = self.put_run(id, run, kind, Put::Zero);
            self.counts.zero += installed;
            return stopped;
        }
        let member = self.members.get_mut(&id)?;
        self.counts.zero += member.space.settle(run) / PAGE_BYTES;
        None
    }

    /// Pages that cannot be served are poisoned when that is found out. Where the answer is to kill, only a touch deserves it.
    fn fill_bad(
        &mut self,
        id: SpaceId,
        run: AddrRange,
        kind: Kind,
        bad: (u64, &str),
    ) -> Option<(Addr, Stop)> {
        if self.on_failure == OnFailure::Kill {
            return None;
        }
        let (installed, stopped) = self.put_run(id, run, kind, Put::Poison);
        if installed > 0 {
            let range = AddrRange::at(run.start, installed * PAGE_BYTES);
            self.note_poison(id, range, snapshot_format::PageNo(bad.0), bad.1);
        }
        stopped
    }
}

/// Where pages belong if everything is still where it was when the request was made.
pub(super) fn place_of(request: &Request, pages: &Range<u64>) -> Option<AddrRange> {
    let start = if pages.start >= request.page.0 {
        request
            .at
            .0
            .checked_add((pages.start - request.page.0).checked_mul(PAGE_BYTES)?)?
    } else {
        request
            .at
            .0
            .checked_sub((request.page.0 - pages.start).checked_mul(PAGE_BYTES)?)?
    };
    let len = (pages.end - pages.start).checked_mul(PAGE_BYTES)?;
    Some(AddrRange::at(Addr(start), len))
}
