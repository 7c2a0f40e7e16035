//! Pages that nobody waits for: those that came with one that was wanted, and those that are fetched ahead.

use std::ops::Range;
use std::time::Instant;

use snapshot_format::PAGE_BYTES;

use super::block::{Block, Piece, What};
use super::install::Progress;
use super::journal::Op;
use super::notice::{Notice, OnFailure};
use super::{Installer, Purpose, Request, Session, SpaceId, Turn};
use crate::addr::{Addr, AddrRange};
use crate::space::Kind;
use crate::uffd::{Put, Stop};

impl<I: Installer> Session<I> {
    /// The next pages to fetch ahead for an address space: at most `most` of consecutive ones, in the order of addresses,
    /// again from the start when the end is reached. `None` when nothing is owed.
    pub fn fill_request(&mut self, id: SpaceId, most: u64) -> Option<Request> {
        self.fill_request_by(id, |_| most)
    }

    /// The same; how many depends on the mapping. Requests end where the numbers of the pages are multiples of that, as frames do.
    pub fn fill_request_by(
        &mut self,
        id: SpaceId,
        most: impl FnOnce(Kind) -> u64,
    ) -> Option<Request> {
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
        let most = most(kind).max(1);
        let most = most - first.0 % most;
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
            purpose: Purpose::Prefill,
        })
    }

    /// Requests for all that is owed in a range now, to be fetched before anybody asks.
    #[must_use]
    pub fn requests_in(&self, id: SpaceId, range: AddrRange) -> Vec<Request> {
        let mut requests = Vec::new();
        let Some(member) = self.members.get(&id) else {
            return requests;
        };
        let mut rest = range;
        while let Some((run, first)) = member.space.next_run(rest) {
            rest.start = run.end;
            let kind = member.space.kind_at(run.start).unwrap_or(Kind::PRIVATE);
            requests.push(Request {
                space: id,
                at: run.start,
                page: first,
                needed: kind.snapshot_pages(),
                welcome: first.0..first.0 + run.len() / PAGE_BYTES,
                crowded: false,
                purpose: Purpose::Ahead,
            });
        }
        requests
    }

    /// Pages that were fetched ahead have come. What is not owed any more, or not there any more, is passed over.
    /// [`Turn::Soon`] means that the messages read meanwhile have faults to be answered, [`Turn::Later`] that not all could be
    /// installed at this moment.
    pub fn deliver_fill(&mut self, request: &Request, block: &Block, now: Instant) -> Turn {
        let id = request.space;
        let stopped = self.fill(request, block, request.purpose);
        self.after_fill(id, request.needed * PAGE_BYTES, stopped, now)
    }

    /// Pages of a working set have come, and where each piece of them belongs: nowhere if that is empty. What is not owed there any more is
    /// passed over. The answer is that of [`Session::deliver_fill`].
    pub fn deliver_replay(
        &mut self,
        id: SpaceId,
        block: &Block,
        places: &[AddrRange],
        now: Instant,
    ) -> Turn {
        let stopped =
            block.pieces.iter().zip(places).find_map(|(piece, &place)| {
                self.fill_piece(id, place, piece, block, Purpose::Replay)
            });
        self.after_fill(id, PAGE_BYTES, stopped, now)
    }

    /// What becomes of what could not be installed.
    fn after_fill(
        &mut self,
        id: SpaceId,
        page_bytes: u64,
        stopped: Option<(Addr, Stop)>,
        now: Instant,
    ) -> Turn {
        match stopped {
            // Events come first: they are read in the next turn, and then the same pages may still be owed.
            Some((_, Stop::Changing)) => return Turn::Later,
            // What is left is asked for again later.
            None | Some((_, Stop::Partial | Stop::Present)) => {}
            // And not at once.
            Some((_, Stop::NoMemory)) => self.notices.push(Notice::NoMemory(id)),
            Some((_, Stop::Gone)) => {
                self.notices.push(Notice::Gone(id));
                return Turn::Gone;
            }
            // Found out for each page, or they would be asked for for ever.
            Some((at, stop @ (Stop::Unmapped | Stop::Fault))) => {
                let page = AddrRange::at(at, page_bytes);
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
            self.note(id, Op::Settled(page));
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
        block.pieces.iter().find_map(|piece| {
            let place = place_of(request, &piece.pages)?;
            self.fill_piece(request.space, place, piece, block, purpose)
        })
    }

    /// Installs one piece of a block, as far as it is owed in its place.
    fn fill_piece(
        &mut self,
        id: SpaceId,
        place: AddrRange,
        piece: &Piece,
        block: &Block,
        purpose: Purpose,
    ) -> Option<(Addr, Stop)> {
        let mut rest = place;
        while let Some((run, kind, pages)) =
            self.owed_part(id, rest, place.start, piece.pages.start)
        {
            rest.start = run.end;
            let Some(pages) = pages else { continue };
            let stopped = match &piece.what {
                What::Bytes(_) => {
                    let bytes = block.bytes_of(piece, &pages)?;
                    let (installed, stopped) = self.put_run(id, run, kind, Put::Bytes(bytes));
                    match purpose {
                        Purpose::Neighbours | Purpose::Ahead => {
                            self.counts.neighbours += installed;
                        }
                        Purpose::Prefill => self.counts.prefill += installed,
                        Purpose::Replay => self.counts.replayed += installed,
                    }
                    stopped
                }
                What::Zero => self.fill_zeros(id, run, kind, purpose),
                What::Bad(why) => self.fill_bad(id, run, kind, (pages.start, why)),
            };
            if stopped.is_some() {
                return stopped;
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
    /// beside a page that was just touched, or where one was touched last time, they save the next fault, and cost next to nothing.
    fn fill_zeros(
        &mut self,
        id: SpaceId,
        run: AddrRange,
        kind: Kind,
        purpose: Purpose,
    ) -> Option<(Addr, Stop)> {
        let costly = kind.shared || kind.page_bytes > PAGE_BYTES;
        if purpose != Purpose::Prefill && !costly {
            let (installed, stopped) = self.put_run(id, run, kind, Put::Zero);
            self.counts.zero += installed;
            return stopped;
        }
        let member = self.members.get_mut(&id)?;
        self.counts.zero += member.space.settle(run) / PAGE_BYTES;
        self.note(id, Op::Settled(run));
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
