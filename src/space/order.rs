//! Doing and undoing: what is told late is put where it belongs among what happened.

use serde::{Deserialize, Serialize};

use super::moves::without;
use super::steps::{Remap, Step, What};
use super::{AddressSpace, Cut, Debt, Kind, whole_pages};
use crate::addr::{Addr, AddrRange};

/// How odd it is by itself that a call was overtaken before its first word.
const OVERTAKEN: i64 = 3;

/// Which of the things that happened, counted from when everything was last known to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Place(pub(super) usize);

/// Where a move belongs that was told late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// What it happened before.
    pub(super) before: usize,
    /// What is not something of its own, but the first word of the move.
    pub(super) announced: Option<usize>,
}

impl Order {
    /// In the place of an UNMAP that announced it.
    pub(super) const fn instead_of(index: usize) -> Self {
        Self {
            before: index,
            announced: Some(index),
        }
    }

    /// The last thing before a place.
    #[must_use]
    pub const fn just_before(place: Place) -> Self {
        Self {
            before: place.0,
            announced: None,
        }
    }

    /// True if it belongs before a place.
    #[must_use]
    pub fn is_before(self, place: Place) -> bool {
        self.before < place.0
    }

    fn first(self) -> usize {
        self.before.min(self.announced.unwrap_or(self.before))
    }
}

impl AddressSpace {
    /// The end of what has happened.
    #[must_use]
    pub fn now(&self) -> Place {
        Place(self.moves.steps.len())
    }

    /// Memory moved (REMAP). Returns how many bytes had been owed to what was there before, and, if the move may have taken
    /// effect before other things that were told first, where among them.
    ///
    /// An UNMAP of its destination may have been its first word, or a munmap(2) of its own. What happened in between
    /// decides: the kernel tells of memory that is there, so the better order is the one in which fewer events concern
    /// nothing.
    pub fn remap(&mut self, remap: Remap) -> (u64, Option<Order>) {
        let before = self.owes();
        // What moves is there.
        self.perhaps_unmapped.remove(remap.source());
        self.perhaps_unmapped.remove(remap.destination());
        let announced = self.moves.announcements(&remap);
        if announced.is_empty() {
            // Nearly always this is all there is to it.
            self.happened(a_move(remap, None));
            if self.moves.oddity_from(0) == 0 {
                return (before.saturating_sub(self.owes()), None);
            }
            self.undo_from(self.moves.steps.len() - 1);
        }
        let (mut order, likeliest, oddity) = self.when_announced(remap, &announced);
        let any_odd = oddity > 0 || self.moves.oddity_from(0) > 0;
        if any_odd && let Some(overtaken) = self.when_overtaken(remap, &announced, oddity) {
            order = Some(overtaken);
        }
        let end = self.moves.steps.len();
        let first = order.map_or(end, Order::first);
        let past = self.undo_from(first);
        self.do_again(&past, first, order, remap);
        (before.saturating_sub(self.owes()), order.or(likeliest))
    }

    /// Whether a move took place when an UNMAP of its destination was told, the likeliest of those, and how much odder all is
    /// with the move.
    fn when_announced(
        &mut self,
        remap: Remap,
        announced: &[(usize, u32)],
    ) -> (Option<Order>, Option<Order>, i64) {
        let end = self.moves.steps.len();
        let first = announced.iter().map(|&(index, _)| index).min();
        let first = first.unwrap_or(end);
        let (now, _) = self.oddity_of(None, remap, first);
        let then = announced.iter().map(|&(index, odd)| {
            let order = Order::instead_of(index);
            let (oddity, unknown) = self.oddity_of(Some(order), remap, first);
            (oddity + i64::from(odd), unknown, order)
        });
        let Some((then, unknown, order)) = then.min_by_key(|&(oddity, ..)| oddity) else {
            return (None, None, now);
        };
        // If both make it equally odd, and it was not before, memory that MREMAP_DONTUNMAP left behind is involved: then the
        // later one, because moves onto other memory are rarer. Unless what moved has yet to be told of.
        // And the length of a shared mapping's second place is less certain with an UNMAP that may have nothing to do with it.
        let as_well = remap.len > 0 && (then <= 0 || unknown);
        if then < now || (then == now && as_well) {
            (Some(order), Some(order), then)
        } else {
            (None, Some(order), now)
        }
    }

    /// Where a move belongs that was overtaken by the first words of later calls, if that is less odd.
    fn when_overtaken(
        &mut self,
        remap: Remap,
        announced: &[(usize, u32)],
        otherwise: i64,
    ) -> Option<Order> {
        let orders = self.moves.overtakers(&remap, announced);
        let first = orders.iter().map(|order| order.first()).min()?;
        let oddities = orders.into_iter().map(|order| {
            let (oddity, _) = self.oddity_of(Some(order), remap, first);
            (oddity + OVERTAKEN, order)
        });
        let (oddity, order) = oddities.min_by_key(|&(oddity, _)| oddity)?;
        (oddity < otherwise).then_some(order)
    }

    /// How much odder than before all is with a move in a place, or behind all; and if nothing is known of what it moves.
    fn oddity_of(&mut self, order: Option<Order>, remap: Remap, first: usize) -> (i64, bool) {
        let past = self.undo_from(first);
        let before: i64 = past.iter().map(|step| i64::from(step.oddity)).sum();
        self.do_again(&past, first, order, remap);
        let after = self.moves.oddity_from(first);
        let is_it = |step: &&Step| step.what.is_move(&remap);
        let unknown = self.moves.steps[first..].iter().rev().find(is_it);
        let unknown = unknown.is_none_or(|step| step.moved.is_empty());
        self.undo_from(first);
        for step in past {
            self.happened(step.what);
        }
        (after - before, unknown)
    }

    /// Everything has been told: moves that nothing but that could show to belong before others are put there.
    pub fn settle_doubts(&mut self) {
        while let Some(it) = self.moves.overtaken_onto() {
            let first = it.order.first();
            let mut past = self.undo_from(first);
            if let What::Unmap { range, .. } = past[it.unmapped - first].what {
                past[it.unmapped - first].what = What::Tail(range);
            }
            past.remove(it.moved - first);
            self.do_again(&past, first, Some(it.order), it.remap);
        }
    }

    /// In a child: a move that its parent told of later had taken effect before the fork.
    pub fn took_place_at(&mut self, order: Order, remap: Remap) {
        let first = order.first();
        let past = self.undo_from(first);
        self.do_again(&past, first, Some(order), remap);
        self.wipe();
    }

    /// True when something that happened after a move concerned memory in a range of which nothing is known.
    #[must_use]
    pub fn met_unknown_memory(&self, after: Order, range: AddrRange) -> bool {
        let later = self.moves.steps.get(after.before + 1..).unwrap_or_default();
        later.iter().any(|step| {
            step.oddity > 0
                && match &step.what {
                    What::Unmap { range: it, .. } | What::Remove(it) => it.overlaps(range),
                    What::Move { remap, .. } => remap.source().overlaps(range),
                    _ => false,
                }
        })
    }

    /// The parts of a range that nothing that happened after a place has to do with.
    #[must_use]
    pub fn untouched_since(&self, after: Place, range: AddrRange) -> Vec<AddrRange> {
        let later = self.moves.steps.get(after.0..).unwrap_or_default();
        let touched: Vec<AddrRange> = later.iter().flat_map(|step| step.what.places()).collect();
        without(range, &touched)
    }

    /// Does again what was undone from a step on, with a move in its place, or behind all.
    fn do_again(&mut self, past: &[Step], first: usize, order: Option<Order>, remap: Remap) {
        let announced = order.and_then(|order| order.announced);
        let onto = announced.and_then(|index| past.get(index - first)?.what.unmapped());
        let before = order.map_or(first + past.len(), |order| order.before);
        for (index, step) in (first..).zip(past) {
            if index == before {
                self.happened(a_move(remap, onto));
            }
            if Some(index) != announced {
                self.happened(step.what.clone());
            }
        }
        if before >= first + past.len() {
            self.happened(a_move(remap, onto));
        }
    }

    /// Something happened. Returns how many bytes had been owed to what is not there any more.
    pub(super) fn happened(&mut self, what: What) -> u64 {
        let before = self.owes();
        let mut step = Step::new(what);
        // Places where there should have been something, and nothing is known.
        let mut nothing_at = Vec::new();
        match &step.what {
            What::Tail(_) => {}
            What::Unmap { range, .. } => {
                step.registered = self.registered.take(*range);
                step.owed = self.take_owed(*range);
                nothing_at.extend(step.registered.is_empty().then_some(*range));
            }
            What::Alias { from, place, onto } => {
                let (from, to, onto) = (*from, place.start, *onto);
                // What seems to be there, and was not told to be gone, was taken for the rest of another second place.
                let assumed = self
                    .registered
                    .at(to)
                    .map(|(there, _)| AddrRange { start: to, ..there });
                if let Some(range) = onto.or(assumed) {
                    step.registered = self.registered.take(range);
                    step.owed = self.take_owed(range);
                }
                let most = onto.map_or(u64::MAX, AddrRange::len);
                let place = self.duplicate(from, to, most);
                nothing_at.extend(place.is_empty().then_some(AddrRange::at(from, 1)));
                step.what = What::Alias { from, place, onto };
            }
            What::Remove(range) => {
                let mut rest = *range;
                step.oddity += self.partly_unknown(rest);
                nothing_at.extend((!self.registered.any_in(rest)).then_some(rest));
                while let Some((part, kind)) = self.registered.first_in(rest) {
                    rest.start = part.end;
                    step.owed
                        .extend(self.take_owed(whole_pages(part, kind.page_bytes)));
                }
            }
            What::Move { remap, onto, .. } => {
                let (remap, onto) = (*remap, *onto);
                let place = onto.unwrap_or(remap.destination());
                // Moves that grow are rare.
                step.oddity = if place.len() == remap.len { 0 } else { 2 };
                let source = remap.source();
                step.oddity += self.partly_unknown(source);
                nothing_at.extend((!self.registered.any_in(source)).then_some(source));
                match (onto, self.registered.any_in(place)) {
                    (Some(place), false) => nothing_at.push(place),
                    // It has left, and that has yet to be told.
                    (None, true) => {
                        let mut parts = self.registered.clone_in(place).into_iter();
                        let cut_off = parts.all(|(part, _)| self.moves.may_have_cut_off(part));
                        step.oddity += if cut_off { 1 } else { 4 };
                    }
                    _ => {}
                }
                step.registered = self.registered.take(place);
                step.owed = self.take_owed(place);
                step.moved = self.shift(remap);
            }
        }
        for place in nothing_at {
            step.oddity += if self.moves.may_be_at(place) { 1 } else { 2 };
        }
        // Pages that are dropped when nothing else has happened are nothing that could have to be undone: who does nothing
        // else, and never stops, must not fill the memory. In a child something that its parent tells may come before it.
        let first = self.moves.steps.is_empty() && !self.moves.of_a_child;
        let is_nothing = matches!(step.what, What::Remove(_)) && first;
        if !is_nothing {
            self.moves.steps.push(step);
        }
        before.saturating_sub(self.owes())
    }

    /// 1 if something is registered in a range, and not in all of it: the kernel moves and drops what is registered.
    fn partly_unknown(&self, range: AddrRange) -> u32 {
        let known: u64 = self
            .registered
            .clone_in(range)
            .iter()
            .map(|(part, _)| part.len())
            .sum();
        u32::from(known > 0 && known < range.len())
    }

    /// Undoes what happened from a step on, and returns it.
    pub(super) fn undo_from(&mut self, index: usize) -> Vec<Step> {
        let mut undone = self
            .moves
            .steps
            .split_off(index.min(self.moves.steps.len()));
        for step in undone.iter_mut().rev() {
            match &step.what {
                What::Move { remap, .. } => {
                    self.shift(remap.reversed());
                }
                What::Alias { place, .. } => {
                    self.registered.remove(*place);
                    self.take_owed(*place);
                }
                What::Unmap { .. } | What::Tail(_) | What::Remove(_) => {}
            }
            let registered = std::mem::take(&mut step.registered);
            let owed = std::mem::take(&mut step.owed);
            self.put_back(registered, owed);
        }
        undone
    }

    /// Gives a shared mapping a second place, of `most` bytes at most. Returns it.
    fn duplicate(&mut self, from: Addr, to: Addr, most: u64) -> AddrRange {
        let Some((mapping, kind)) = self.registered.at(from) else {
            return AddrRange::at(to, 0);
        };
        let place = AddrRange::at(to, mapping.end.since(from).min(most));
        let room = self
            .registered
            .first_in(place)
            .map_or(place.end, |(next, _)| next.start);
        let len = room.since(to).min(place.len());
        let copy = Remap { from, to, len };
        let owed = self.owed.clone_in(copy.source());
        let owed = owed
            .into_iter()
            .map(|(part, debt)| (copy.moved(part), debt))
            .collect();
        self.put_back(Vec::new(), owed);
        let kind = kind.cut(from.since(mapping.start));
        self.registered.set(copy.destination(), kind);
        copy.destination()
    }

    /// Moves what is known. Returns how it was registered.
    fn shift(&mut self, remap: Remap) -> Vec<(AddrRange, Kind)> {
        let moved = self.registered.take(remap.source());
        for &(part, kind) in &moved {
            self.registered.set(remap.moved(part), kind);
        }
        for (part, debt) in self.owed.take(remap.source()) {
            self.owed.set(remap.moved(part), debt);
        }
        moved
    }

    fn take_owed(&mut self, range: AddrRange) -> Vec<(AddrRange, Debt)> {
        let taken = self.owed.take(range);
        for (part, debt) in &taken {
            if *debt == Debt::Poisoned {
                self.poisoned -= part.len();
            }
        }
        taken
    }

    pub(super) fn put_back(
        &mut self,
        registered: Vec<(AddrRange, Kind)>,
        owed: Vec<(AddrRange, Debt)>,
    ) {
        for (part, kind) in registered {
            self.registered.set(part, kind);
        }
        for (part, debt) in owed {
            if debt == Debt::Poisoned {
                self.poisoned += part.len();
            }
            self.owed.set(part, debt);
        }
    }
}

fn a_move(remap: Remap, onto: Option<AddrRange>) -> What {
    if remap.len == 0 {
        return What::Alias {
            from: remap.from,
            place: AddrRange::at(remap.to, 0),
            onto,
        };
    }
    What::Move { remap, onto }
}
