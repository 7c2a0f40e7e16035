//! Answering faults.

use std::time::Instant;

use snapshot_format::{PAGE_BYTES, PageNo};

use super::block::{Block, What};
use super::install::Progress;
use super::notice::{Notice, OnFailure};
use super::{Installer, Purpose, Request, Session, SpaceId, Supplier, Turn};
use crate::addr::{Addr, AddrRange};
use crate::space::Found;
use crate::uffd::{Put, Stop};

impl<I: Installer> Session<I> {
    /// Answers the faults that have been read.
    pub(super) fn answer_all(
        &mut self,
        id: SpaceId,
        supplier: &mut impl Supplier,
        now: Instant,
    ) -> Turn {
        let mut not_now: Vec<Addr> = Vec::new();
        let (mut over, mut refused) = (false, None);
        while let Some(page) = self.next_fault(id) {
            match self.answer(id, page, supplier, now) {
                Progress::NoMemory | Progress::TooEarly => not_now.push(page),
                // The others would be refused as well. It is the next again, because its content is at hand.
                Progress::Refused => {
                    refused = Some(page);
                    break;
                }
                Progress::Over => {
                    over = true;
                    break;
                }
                Progress::Done | Progress::Requested | Progress::Changed => {}
            }
        }
        let Some(member) = self.members.get_mut(&id) else {
            return Turn::Gone;
        };
        let mut soon = !not_now.is_empty() || refused.is_some();
        for page in not_now {
            member.waiting.put_back(page);
        }
        if let Some(page) = refused {
            member.waiting.put_first(page);
        }
        if over && !member.broken {
            self.notices.push(Notice::Gone(id));
            return Turn::Gone;
        }
        soon |= self.ask_whether_all_is_told(id);
        if soon { Turn::Soon } else { Turn::Idle }
    }

    fn next_fault(&mut self, id: SpaceId) -> Option<Addr> {
        if !self.is_up_to_date(id) {
            return None;
        }
        self.members.get_mut(&id)?.waiting.next()
    }

    /// True when pages can be answered: all is known that happened before it was forked, and it is not broken.
    pub(super) fn is_up_to_date(&mut self, id: SpaceId) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let journal = &mut self.journal;
        let note = |op| {
            if let Some(journal) = journal {
                journal.note(id, op);
            }
        };
        !member.broken && member.is_up_to_date(note)
    }

    /// Asks the kernel, where it matters. True when it still is not so.
    fn ask_whether_all_is_told(&mut self, id: SpaceId) -> bool {
        let Some(member) = self.members.get_mut(&id) else {
            return false;
        };
        let behind = member.may_be_behind();
        // The last page may be owed to memory that is about to be told of.
        let must_know = !member.open_children.is_empty()
            || member.space.remembers_much()
            || member.space.owes() == 0;
        if !must_know && !member.space.remembers() {
            return behind;
        }
        match member.installer.probe(Addr::NOWHERE, PAGE_BYTES) {
            Some(Stop::Changing) => behind || must_know,
            Some(Stop::Gone) => false,
            _ => {
                self.quiescent(id);
                behind
            }
        }
    }

    /// Answers one fault, deciding anew for as long as things happen meanwhile.
    fn answer(
        &mut self,
        id: SpaceId,
        page: Addr,
        supplier: &mut impl Supplier,
        now: Instant,
    ) -> Progress {
        loop {
            let progress = self.try_to_answer(id, page, supplier, now);
            if progress != Progress::Changed {
                return progress;
            }
            if !self.is_up_to_date(id) {
                return Progress::TooEarly;
            }
        }
    }

    fn try_to_answer(
        &mut self,
        id: SpaceId,
        page: Addr,
        supplier: &mut impl Supplier,
        now: Instant,
    ) -> Progress {
        let Some(member) = self.members.get_mut(&id) else {
            return Progress::Over;
        };
        let range = AddrRange::at(page, member.page_bytes(page));
        match member.space.at(page) {
            Found::Owed(number) => {
                let request = self.request(id, range, number);
                let Some(block) = supplier.fetch(&request) else {
                    if let Some(member) = self.members.get_mut(&id) {
                        member.waiting.requested(page);
                    }
                    return Progress::Requested;
                };
                self.put_wanted(&request, block, now)
            }
            // An old message, most likely. But the kernel may have dropped the marker without a word (MADV_GUARD_INSTALL), and
            // then a wake alone would bring the next message for ever.
            Found::Poisoned => {
                let progress = self.put_page(id, range, Put::Poison, now);
                if progress == Progress::Done {
                    self.answered(id, page);
                }
                progress
            }
            Found::Nothing if member.may_have_been_moved_to(page) => {
                let why = "the parent died in the middle of moving memory here";
                self.refuse(id, range, PageNo(0), why, now)
            }
            Found::Nothing => {
                let progress = self.put_zero_page(id, page, now);
                if progress == Progress::Done {
                    self.counts.zero += range.len() / PAGE_BYTES;
                    self.answered(id, page);
                }
                progress
            }
        }
    }

    /// A page that is waited for comes without others.
    fn comes_alone(&self) -> bool {
        self.answers_only || self.recorder.is_some()
    }

    fn request(&self, id: SpaceId, range: AddrRange, page: PageNo) -> Request {
        let needed = range.len() / PAGE_BYTES;
        let alone = page.0..page.0 + needed;
        let member = self.members.get(&id);
        let welcome = member
            .filter(|_| !self.comes_alone())
            .and_then(|member| member.space.run_around(range.start))
            .map_or(alone.clone(), |(run, first)| {
                let pages = first.0..first.0 + run.len() / PAGE_BYTES;
                let around = self.around.unwrap_or(u64::MAX).max(1);
                let from = page.0 - page.0 % around;
                let end = from.saturating_add(around).max(alone.end);
                pages.start.max(from)..pages.end.min(end)
            });
        Request {
            space: id,
            at: range.start,
            page,
            needed,
            welcome,
            crowded: member.is_some_and(|member| member.waiting.unrequested() > 1),
            purpose: Purpose::Neighbours,
        }
    }

    /// Content that was asked for has come. If it does not belong there any more, whoever waits is asked to ask again.
    /// [`Turn::Later`] means that it is to be delivered again, or [`Session::ask_again`] to be called.
    pub fn deliver(&mut self, request: &Request, block: &Block, now: Instant) -> Turn {
        let (id, page) = (request.space, request.at);
        let Some(member) = self.members.get_mut(&id) else {
            return Turn::Gone;
        };
        if member.space.at(page) != Found::Owed(request.page) {
            let range = AddrRange::at(page, member.page_bytes(page));
            member.installer.wake(range);
            self.answered(id, page);
            return Turn::Idle;
        }
        match self.put_wanted(request, block, now) {
            Progress::Done | Progress::Requested => self.turn_after_delivery(id),
            Progress::Over => {
                self.notices.push(Notice::Gone(id));
                Turn::Gone
            }
            Progress::Changed | Progress::Refused | Progress::TooEarly => Turn::Later,
            Progress::NoMemory => {
                if let Some(member) = self.members.get_mut(&id) {
                    member.waiting.ask_again(page);
                }
                Turn::Soon
            }
        }
    }

    /// Content that was asked for will not come from where it was expected: the fault is to be answered anew.
    pub fn ask_again(&mut self, request: &Request) {
        if let Some(member) = self.members.get_mut(&request.space) {
            member.waiting.ask_again(request.at);
        }
    }

    /// Installs what a thread waits for, then what came with it.
    fn put_wanted(&mut self, request: &Request, block: &Block, now: Instant) -> Progress {
        let (id, needed) = (
            request.space,
            request.page.0..request.page.0 + request.needed,
        );
        let range = AddrRange::at(request.at, request.needed * PAGE_BYTES);
        let piece = block
            .piece_of(request.page)
            .filter(|piece| needed.end <= piece.pages.end);
        let progress = match piece.map(|piece| (&piece.what, block.bytes_of(piece, &needed))) {
            Some((What::Bytes(_), Some(_)))
                if piece.is_some_and(|piece| self.put_together(request, block, piece)) =>
            {
                Progress::Done
            }
            Some((What::Bytes(_), Some(bytes))) => {
                let progress = self.put_page(id, range, Put::Bytes(bytes), now);
                if progress == Progress::Done {
                    self.counts.demand += request.needed;
                }
                progress
            }
            Some((What::Zero, _)) => {
                let progress = self.put_zero_page(id, request.at, now);
                if progress == Progress::Done {
                    self.counts.zero += request.needed;
                }
                progress
            }
            Some((What::Bad(why), _)) => return self.refuse(id, range, request.page, why, now),
            _ => return self.refuse(id, range, request.page, "its content is missing", now),
        };
        if progress == Progress::Done {
            let since = self.answered(id, request.at);
            if let Some(recorder) = &mut self.recorder {
                recorder.note(request, since.unwrap_or(now));
            }
            if self.comes_alone() {
                return progress;
            }
            self.fill(request, block, request.purpose);
            self.look_ahead(request);
        }
        progress
    }

    /// A page that a thread waits for cannot be served: never zeros.
    fn refuse(
        &mut self,
        id: SpaceId,
        range: AddrRange,
        page: PageNo,
        why: &str,
        now: Instant,
    ) -> Progress {
        match self.on_failure {
            OnFailure::Poison => {
                let progress = self.put_page(id, range, Put::Poison, now);
                if progress == Progress::Done {
                    self.note_poison(id, range, page, why);
                    self.answered(id, range.start);
                }
                progress
            }
            OnFailure::Kill => {
                let Some(member) = self.members.get_mut(&id) else {
                    return Progress::Over;
                };
                let thread = member
                    .waiting
                    .waiter(range.start)
                    .map_or(0, |waiter| waiter.thread);
                // It waits until it is dead.
                member.waiting.requested(range.start);
                let why = why.to_owned();
                self.notices.push(Notice::Kill {
                    space: id,
                    range,
                    thread,
                    why,
                });
                Progress::Requested
            }
        }
    }

    pub(super) fn note_poison(&mut self, id: SpaceId, range: AddrRange, page: PageNo, why: &str) {
        self.counts.poisoned += range.len() / PAGE_BYTES;
        let why = why.to_owned();
        self.notices.push(Notice::Poisoned {
            space: id,
            range,
            page,
            why,
        });
    }

    /// Nobody waits for this page any more. Returns since when somebody did.
    fn answered(&mut self, id: SpaceId, page: Addr) -> Option<Instant> {
        let waiter = self
            .members
            .get_mut(&id)
            .and_then(|member| member.waiting.answered(page))?;
        self.latency.add(waiter.since.elapsed());
        Some(waiter.since)
    }
}
