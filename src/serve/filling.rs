//! Pages that nobody waits for. One block at a time, and only when everything that was asked for is done.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::PAGE_BYTES;

use super::engine::Engine;
use super::lease::{Lease, Leases};
use super::pace::Pace;
use super::pool::Work;
use crate::addr::Addr;
use crate::session::{Block, Purpose, Request, SpaceId, Turn};
use crate::space::{AddressSpace, Found};

/// Pages of one request, where frames are not larger: 128 KiB are installed in about 50 µs, and no fault waits longer for that.
const PAGES: u64 = 32;
/// The same of memory that the pool installs itself: fewer hand-overs, and the loop is not needed for them.
const UNIT: u64 = 256;
/// The same while the target asks. Between two of them nothing runs where those who install run, and whoever is woken then moves there, away from the
/// core where it is answered.
const LONG_UNIT: u64 = 2048;
/// Requests for who reads in order that are under way at a time: each takes room, and there may be many VMs.
const READERS: usize = 2;

/// What has been fetched ahead, and what is being fetched.
#[derive(Debug, Default)]
pub(super) struct Filling {
    fetched: VecDeque<(Request, Block)>,
    /// The same, of what somebody is about to wait for: who reads in order, or who did so last time.
    fetched_ahead: VecDeque<(Request, Block)>,
    under_way: usize,
    pace: Pace,
    /// What somebody is about to wait for and is to be asked for, and how much of it is under way.
    ahead: VecDeque<Request>,
    ahead_under_way: usize,
    /// For each address space, how far its memory has been asked for in this round, and how many requests are out.
    rounds: BTreeMap<SpaceId, Round>,
    /// What the pool installs.
    pub(super) leases: Leases,
    /// The space asked for last: each gets its turn.
    last: Option<SpaceId>,
}

#[derive(Debug, Default)]
struct Round {
    reached: Addr,
    out: usize,
    /// What was owed when it began.
    owed: u64,
    /// The next one begins then, because this one brought nothing.
    rest_until: Option<Instant>,
}

/// How long to rest when all that is owed cannot be had, or not now.
const REST: Duration = Duration::from_millis(100);

impl Filling {
    pub(super) fn new(rate: Option<u64>, urgent: bool) -> Self {
        Self {
            pace: Pace::new(rate, urgent),
            ..Self::default()
        }
    }

    /// How long to wait before something is installed; `None` if there is nothing.
    pub(super) fn patience(&self, now: Instant, hurry: bool) -> Option<Duration> {
        if !self.fetched_ahead.is_empty() {
            return Some(Duration::ZERO);
        }
        let wait = || {
            if hurry {
                Duration::ZERO
            } else {
                self.pace.wait(now)
            }
        };
        (!self.fetched.is_empty()).then(wait)
    }

    /// True when as much is being installed ahead as can be. While the target asks that is little, and need not be counted.
    pub(super) fn is_busy(&self, fills: bool, now: Instant) -> bool {
        let ahead =
            !self.fetched_ahead.is_empty() || !self.ahead.is_empty() || self.ahead_under_way > 0;
        ahead || (fills && !self.pace.is_asked(now))
    }

    pub(super) fn fetched(&mut self, request: Request, block: Block) {
        match request.purpose {
            Purpose::Prefill => self.fetched.push_back((request, block)),
            _ => self.fetched_ahead.push_back((request, block)),
        }
    }

    /// A part of what the pool was to install, and has not.
    pub(super) fn left_over(&mut self, request: Request, block: Block) {
        self.under_way += 1;
        if let Some(round) = self.rounds.get_mut(&request.space) {
            round.out += 1;
        }
        self.fetched.push_back((request, block));
    }

    /// The pool has done with a request.
    pub(super) fn installed(&mut self, request: &Request, lease: &Arc<Lease>) {
        self.leases.returned(lease);
        self.taken(request.space);
    }

    /// To be fetched before what is only there to have all.
    pub(super) fn fetch_soon(&mut self, requests: impl IntoIterator<Item = Request>) {
        self.ahead.extend(requests);
    }

    /// What is to be installed next, if it may be now.
    fn next(&mut self, now: Instant, hurry: bool) -> Option<(Request, Block)> {
        if let Some(next) = self.fetched_ahead.pop_front() {
            return Some(next);
        }
        let may = hurry || self.pace.wait(now).is_zero();
        may.then(|| self.fetched.pop_front())?
    }

    fn taken(&mut self, space: SpaceId) {
        self.under_way = self.under_way.saturating_sub(1);
        if let Some(round) = self.rounds.get_mut(&space) {
            round.out = round.out.saturating_sub(1);
        }
    }

    pub(super) fn forget(&mut self, space: SpaceId) {
        self.leases.revoke(space);
        self.ahead.retain(|request| request.space != space);
        self.rounds.remove(&space);
    }
}

impl Engine {
    /// What others look at in ways that do not fault, as far as it is not there.
    pub(super) fn fetch_first(&mut self) {
        for (id, range) in self.roots.first() {
            let requests = self.session.requests_in(id, range);
            self.filling.fetch_soon(requests);
        }
    }

    /// Installs one block that was fetched ahead, if there is one.
    pub(super) fn install_ahead(&mut self, now: Instant) {
        let faults = self.session.counts().faults;
        self.filling.pace.note_faults(faults, now);
        let Some((request, block)) = self.filling.next(now, self.asked_to_end) else {
            return;
        };
        if request.purpose == Purpose::Prefill {
            self.filling.pace.took(block.bytes.len() as u64, now);
        }
        let space = request.space;
        let mut done = true;
        match self.session.deliver_fill(&request, &block, now) {
            Turn::Idle => self.soon_again(space),
            Turn::Soon => {
                self.soon.insert(space);
            }
            // While an address space changes all the time there are moments only, and not to be spent on fetching it anew.
            Turn::Later => {
                self.soon.insert(space);
                done = false;
            }
            Turn::Gone => self.gone(space),
        }
        // There may be no turn for long: nobody asks for anything.
        self.act_on_notices();
        if done {
            match request.purpose {
                Purpose::Prefill => self.filling.taken(space),
                _ => {
                    let under_way = &mut self.filling.ahead_under_way;
                    *under_way = under_way.saturating_sub(1);
                }
            }
            self.supply.pool.give_back(block);
        } else {
            // Behind what there is for others.
            self.filling.fetched(request, block);
        }
    }

    /// What a block brought about is dealt with in a turn.
    pub(super) fn soon_again(&mut self, space: SpaceId) {
        if self.session.is_finished(space) || self.session.waiting(space) > 0 {
            self.soon.insert(space);
        }
    }

    /// Asks for what somebody who reads in order is about to touch.
    pub(super) fn fetch_for_readers(&mut self, now: Instant) {
        let requests = self.session.ahead();
        // With everything it comes by itself.
        if !self.fills(now) {
            self.filling.fetch_soon(requests);
        }
        while self.filling.ahead_under_way < READERS
            && let Some(request) = self.filling.ahead.pop_front()
        {
            // Of a huge page several parts may have been touched.
            let space = self.session.space(request.space);
            if space.is_none_or(|space| space.at(request.at) != Found::Owed(request.page)) {
                continue;
            }
            if self.supply.pool.ask(Work::Fill(request)) {
                self.filling.ahead_under_way += 1;
            }
        }
    }

    /// Until something happens.
    pub(super) fn let_others_install(&self, now: Instant) {
        let asked = self.filling.pace.is_asked(now);
        self.filling.leases.open(&self.session, asked);
    }

    /// Keeps the pool busy, but not far ahead.
    pub(super) fn fetch_ahead(&mut self, now: Instant) {
        if !self.fills(now) {
            return;
        }
        let asked = self.filling.pace.is_asked(now) && !self.asked_to_end;
        let most = match (asked, self.options.prefill_urgent) {
            (false, _) => 2 * self.options.jobs,
            // A processor for who asks.
            (true, true) => (self.options.jobs / 2).max(1),
            (true, false) => 1,
        };
        if self.filling.under_way >= most {
            return;
        }
        let spaces: Vec<SpaceId> = self.session.spaces().collect();
        let after = spaces.partition_point(|&space| Some(space) <= self.filling.last);
        let mut wants = true;
        while std::mem::take(&mut wants) {
            for &space in spaces[after..].iter().chain(&spaces[..after]) {
                if self.filling.under_way >= most {
                    return;
                }
                if self.fetch_for(space, now) {
                    self.filling.last = Some(space);
                    wants = true;
                }
            }
        }
    }

    fn fetch_for(&mut self, space: SpaceId, now: Instant) -> bool {
        let owed = self.session.space(space).map_or(0, AddressSpace::owes);
        let round = self.filling.rounds.entry(space).or_default();
        if round.rest_until.is_some_and(|until| now < until) {
            return false;
        }
        let few = match self.asked_to_end {
            true => PAGES,
            false => self.filling.pace.pages(PAGES, now),
        };
        let pages = few.max(self.supply.granularity);
        let polite = self.filling.pace.is_asked(now) && !self.options.prefill_urgent;
        let lends = self.options.prefill_rate.is_none() && (self.asked_to_end || !polite);
        let unit = match self.filling.pace.is_asked(now) {
            true => LONG_UNIT,
            false => UNIT,
        };
        let request = self.session.fill_request_by(space, |kind| {
            let small = !kind.shared && kind.page_bytes == PAGE_BYTES;
            if lends && small {
                unit.max(pages)
            } else {
                pages
            }
        });
        let Some(request) = request else {
            return false;
        };
        if request.at <= round.reached || round.owed == 0 {
            // From the start again, but not before the end of this round is in: it would be fetched twice.
            if round.out > 0 {
                return false;
            }
            if round.owed == owed && round.rest_until.take().is_none() {
                round.rest_until = Some(now + REST);
                return false;
            }
            round.rest_until = None;
            round.owed = owed;
        }
        round.reached = request.at;
        round.out += 1;
        self.filling.under_way += 1;
        let lease = match lends {
            true => self.filling.leases.grant(&self.session, &request),
            false => None,
        };
        let work = match lease {
            Some(lease) => Work::Install(request, lease),
            None => Work::Fill(request),
        };
        if !self.supply.pool.ask(work) {
            self.filling.taken(space);
            return false;
        }
        true
    }
}
