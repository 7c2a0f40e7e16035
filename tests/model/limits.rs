//! What nobody can know from what the kernel tells. Schedules with such things in them are counted, and not judged.
//!
//! All of them are about moves onto registered memory (`MREMAP_FIXED`) that have told of what was at their destination, and
//! not yet of themselves, while another thread changes the same address space.

use std::collections::VecDeque;

use crate::coverage::Case;
use crate::memory::{AREA, Slot, Slots, UNIT, address, range};
use crate::world::{State, Told, World};
use uffd_restore::addr::AddrRange;

impl World {
    /// From here on the kernel has told too little.
    fn exclude(&mut self, why: &'static str) {
        self.log(|| format!("EXCLUDED: {why}"));
        self.count(Case::Excluded);
        self.excluded = true;
    }

    /// A child whose parent died in the middle of a call is never told the rest.
    pub(crate) fn limit_orphans(&mut self, mm: usize) {
        if self.mms.iter().any(|child| child.parent == Some(mm)) {
            self.count(Case::Orphan);
            self.exclude("a child whose parent died in the middle of a call");
        }
    }

    /// A move that is longer or shorter than what it moves, keeps its source, or has to do with memory that nobody told to be
    /// registered, is told in the same words as munmap(2) of its destination and another move, made later.
    pub(crate) fn limit_odd_moves(&mut self, mm: usize, events: &VecDeque<Told>) {
        let odd =
            |event: &Told| matches!(event, Told::Remap { odd: true, .. } | Told::Alias { .. });
        let moves = |event: &Told| matches!(event, Told::Remap { .. } | Told::Alias { .. });
        let begins = events.iter().skip(1).any(odd);
        if self.any_untold(mm, odd) || (begins && self.any_untold(mm, moves)) {
            self.exclude("an odd move, and another call");
        }
    }

    /// What a child has been given, or not, while something was cut off that had not been told of.
    pub(crate) fn limit_fork(&mut self, mm: usize) {
        if self.any_untold(mm, |event| matches!(event, Told::Cut { .. })) {
            self.exclude("a fork in the middle of a move that cuts something off");
        }
    }

    /// Memory is unmapped where a move has brought it in silence, or has taken it away; or memory of which nobody has told
    /// that it is registered, so that it is not clear what the UNMAP is about.
    pub(crate) fn limit_unmapping(&mut self, mm: usize, place: &Slots) {
        let addresses = range(place);
        let concerned = |event: &Told| match event {
            Told::Remap { to, .. } => to.start < place.end && place.start < to.end,
            Told::Alias { to, .. } => place.start <= to + AREA && *to < place.end,
            Told::Cut { range, .. } => range.overlaps(addresses),
            _ => false,
        };
        let unknown = self.mms[mm].slots[place.clone()]
            .iter()
            .any(|slot| slot.unknown);
        let moves = |event: &Told| matches!(event, Told::Remap { .. });
        // Told as it may be: until mremap(2) returns, nobody knows that memory is there.
        let arriving = self.threads.iter().any(|thread| match &thread.state {
            State::Telling { events, .. } if thread.mm == mm => events
                .iter()
                .any(|told| matches!(told, Told::Tail { to, .. } if *to == addresses)),
            _ => false,
        });
        if arriving || self.any_untold(mm, concerned) || (unknown && self.any_untold(mm, moves)) {
            self.exclude("unmapped what has come or gone without a word");
        }
    }

    /// Memory grows, in silence, to where other memory has left in silence.
    pub(crate) fn limit_growth(&mut self, mm: usize, slot: usize) {
        let left = |event: &Told| matches!(event, Told::Remap { from, .. } if from.contains(&slot));
        if self.mms[mm].half_born || self.any_untold(mm, left) {
            self.exclude("grown to where other memory was");
        }
    }

    /// The second place of a part of a mapping, whose length is not told, is taken to be longer than it is.
    pub(crate) fn limit_alias(&mut self, mm: usize, source: usize, len: usize) {
        let rest = &self.mms[mm].slots[source..];
        let known = |slot: &Slot| slot.is_registered() && slot.is_shared();
        if rest.iter().take_while(|slot| known(slot)).count() != len {
            self.exclude("a part of a shared mapping got a second place");
        }
    }

    /// Two moves to one place: which of them came last? Or one to where another has cut something off, which has not been told
    /// of: was it unmapped before or after?
    pub(crate) fn limit_arrival(&mut self, mm: usize, to: &Slots, alias: bool) {
        let arrives = |event: &Told| match event {
            Told::Remap { to: other, .. } => other.start < to.end && to.start < other.end,
            Told::Alias { to: other, .. } => to.start <= other + AREA && *other < to.end,
            _ => false,
        };
        if self.any_untold(mm, arrives) {
            self.exclude("two moves to one place");
        }
        let (place, announced) = (range(to), self.any_registered(mm, to));
        let cut = |event: &Told| matches!(event, Told::Cut { range, .. } if range.overlaps(place) && (announced || alias));
        if self.any_untold(mm, cut) {
            self.exclude("a move to where another one has cut something off");
        }
    }

    /// A fork comes too early or too late, and its child changes its memory before that is found out.
    pub(crate) fn limit_misplaced(&mut self, mm: usize, events: &VecDeque<Told>) {
        if self.mms[mm].misplaced && !matches!(events.front(), Some(Told::Remove(_))) {
            self.exclude("a child of a fork that comes too early or too late changes its memory");
        }
    }

    /// Two threads change the same memory at the same instant, and the first word of the later call comes first. That is no
    /// way to use memory. Not so when memory goes to where another thread's has just left: there the kernel chose the place.
    pub(crate) fn limit_overtaking(&mut self, mm: usize, later: usize) {
        let overtaken: Vec<VecDeque<Told>> = (self.mms[mm].slow.iter())
            .map(|&index| self.events_of(index))
            .collect();
        let later = self.events_of(later);
        let theirs: Vec<AddrRange> = later.iter().flat_map(touched).collect();
        let unmapped = match later.front() {
            Some(Told::Unmap(range)) => vec![*range],
            _ => Vec::new(),
        };
        for events in &overtaken {
            let kept: Vec<AddrRange> = events.iter().flat_map(kept).collect();
            let touched: Vec<AddrRange> = events.iter().flat_map(touched).collect();
            if overlap(&kept, &theirs) || overlap(&touched, &unmapped) {
                self.exclude("two threads at the same memory at the same instant");
            }
            let onto_other = matches!(events.front(), Some(Told::Unmap(_))) && events.len() > 1;
            if child_of(&later).is_some() && onto_other {
                self.exclude(
                    "a fork in the middle of a move onto other memory, of which nothing is told",
                );
            }
            let is_odd = |told: &Told| matches!(told, Told::Remap { odd: true, .. });
            let odd = events.iter().chain(&later).any(is_odd);
            if odd && (child_of(events).is_some() || child_of(&later).is_some()) {
                self.exclude("an odd move, and a fork");
            }
            // The child has what seems to be gone, or something else there. It cannot have a use for it.
            if child_of(events).is_some() && !unmapped.is_empty() {
                self.exclude("unmapped while another thread forks");
            }
        }
        for child in overtaken.iter().chain([&later]).filter_map(child_of) {
            self.mms[child].misplaced = true;
        }
    }

    fn events_of(&self, thread: usize) -> VecDeque<Told> {
        match &self.threads[thread].state {
            State::Telling { events, .. } => events.clone(),
            _ => VecDeque::new(),
        }
    }

    /// True when a call under way has yet to tell of this, and something else first.
    pub(crate) fn any_untold(&self, mm: usize, what: impl Fn(&Told) -> bool) -> bool {
        self.threads
            .iter()
            .filter(|thread| thread.mm == mm)
            .any(|thread| match &thread.state {
                State::Telling { events, .. } => events.iter().skip(1).any(&what),
                _ => false,
            })
    }
}

fn child_of(events: &VecDeque<Told>) -> Option<usize> {
    match events.front() {
        Some(&Told::Fork { child }) => Some(child),
        _ => None,
    }
}

fn overlap(some: &[AddrRange], others: &[AddrRange]) -> bool {
    some.iter()
        .any(|place| others.iter().any(|other| other.overlaps(*place)))
}

/// Where memory is after a call.
fn kept(told: &Told) -> Vec<AddrRange> {
    match told {
        Told::Remap { from, to, odd, .. } => {
            let mut places = vec![range(to)];
            places.extend(odd.then(|| range(from)));
            places
        }
        Told::Alias { from, to } => vec![
            AddrRange::at(address(*from), AREA as u64 * UNIT),
            AddrRange::at(address(*to), AREA as u64 * UNIT),
        ],
        _ => Vec::new(),
    }
}

/// What a call changes.
fn touched(told: &Told) -> Vec<AddrRange> {
    match told {
        Told::Unmap(range) | Told::Tail { range, .. } | Told::Cut { range, .. } => vec![*range],
        Told::Remap { from, to, .. } => vec![range(from), range(to)],
        _ => kept(told),
    }
}
