//! Memory that moves, and what order that is told in.
//!
//! A call takes effect at once and tells afterwards, one event at a time, each queued only after the one before was read.
//! So the *first* events of all calls come in the order in which the calls took effect (nearly always), and later ones come late:
//!
//! * mremap(2) onto registered memory (MREMAP_FIXED) tells UNMAP(destination), REMAP, UNMAP(source); any other tells REMAP,
//!   UNMAP(source). With MREMAP_DONTUNMAP there is no UNMAP(source), with a shorter length an UNMAP of what was cut off.
//! * munmap(2) tells one UNMAP, madvise(2) one REMOVE after the other.
//!
//! From this follows where a late event belongs:
//!
//! * *Late UNMAP.* T0 moves X to Y, T1 moves Z to X: REMAP X→Y, REMAP Z→X, UNMAP X, UNMAP Z. Every REMAP announces the UNMAP of its
//!   source, and exactly that one is swallowed.
//! * *Late REMAP.* T0 moves Z onto X, T1 does anything: UNMAP X, *anything*, REMAP Z→X. The move took effect when UNMAP X was
//!   told. So what happened since is undone, the move takes the place of that UNMAP, and the rest is done again. If the anything
//!   was a move of X to Y, it moves what came from Z; if it was a REMOVE of X, that is what it drops; if it was another
//!   move to Z, or an UNMAP of Z, it does not concern what had been there before.
//! * *Late cut.* A move to a place that is occupied as far as we know, and no UNMAP of that place: what was there had left
//!   before, and that is yet to be told. The UNMAP that tells of it does not concern what has come.
//!
//! An UNMAP of X before a REMAP Z→X may also be a munmap(2) of its own. The kernel tells only of memory that is registered, so
//! events that concern nothing that is known make an order unlikely (`oddity`), and of two orders the likelier is taken.
//!
//! The order of first events has exceptions: a thread that is preempted between the effect of its call and queueing its first
//! event (as it may be when it lets go of the lock that another one waits for) is overtaken even then.
//!
//! * *Overtaken by a move to where it left.* T0 moves X to Y, T1 moves Z to X, because the kernel finds room there: REMAP Z→X,
//!   REMAP X→Y. A move to a place that is occupied tells of that first, so the second one belongs before.
//! * *Overtaken by a move of what it moved onto.* T0 moves Z onto X, T1 moves X to Y: REMAP X→Y, UNMAP X, REMAP Z→X, UNMAP X, UNMAP Z.
//!   The second UNMAP of X tells, once it is known that it is not the first word of anything (`is_in_doubt`).
//! * *Forks that overtake, or are overtaken.* What is registered in the child tells: the kernel is asked.
//!
//! What nobody can know, because the kernel tells the same of different things, is about moves onto registered memory while
//! other threads change the same places: two of them to one place at once; an munmap(2) of the place where one is arriving;
//! moves that grow, shrink or keep their source (MREMAP_DONTUNMAP); two threads that change the same memory, of which one is
//! overtaken. `tests/model/limits.rs` has the list.
//!
//! What has been told of is kept for as long as something may come late: until the kernel's count of changes under way
//! (`mmap_changing` in fs/userfaultfd.c) is zero, which is raised before anything moves and lowered when the last event of
//! the call has been read. While it is not, nothing can be installed, so nothing is done on the strength of a wrong order.

use serde::{Deserialize, Serialize};

use super::order::Order;
use super::steps::{Remap, Step, What};
use super::{Cut, Kind};
use crate::addr::{Addr, AddrRange};

/// Over more steps than this no fork is overtaken before its first word.
const FAR_BACK: usize = 8;

/// A move that belongs before others.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overtaken {
    pub(super) order: Order,
    pub(super) remap: Remap,
    /// Where it is.
    pub(super) moved: usize,
    /// The UNMAP that says so, and nothing else.
    pub(super) unmapped: usize,
}

/// Makes [`super::Extents`] a set of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct There;

impl Cut for There {
    fn cut(self, _: u64) -> Self {
        self
    }
}

/// What happened since it was last known that nothing is half told, in the order in which it took effect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Moves {
    pub(super) steps: Vec<Step>,
    /// Steps before this one are another address space's, from which this one was forked, or told in full.
    own: usize,
    /// A parent may have to tell of what happened before.
    pub(super) of_a_child: bool,
}

impl Moves {
    /// True when the UNMAP that belongs to a REMAP with this source has not come yet.
    pub(super) fn awaits_tail(&self, range: AddrRange) -> bool {
        let own = self.own.min(self.steps.len());
        without_tail(&self.steps[own..]).any(|(remap, _)| remap.source() == range)
    }

    /// Moves that were made with a shorter length, and may have cut off what is told to be unmapped only now, when something else has
    /// come there.
    pub(super) fn may_have_cut_off_before(&self, range: AddrRange) -> Vec<usize> {
        let own = self.own.min(self.steps.len());
        let cut_off = |remap: &Remap| {
            remap.source().end == range.start && !remap.destination().overlaps(range)
        };
        if !without_tail(&self.steps[own..]).any(|(remap, _)| cut_off(&remap)) {
            return Vec::new();
        }
        let comes = |step: &Step| match &step.what {
            What::Move { remap, .. } => remap.destination().overlaps(range),
            What::Alias { place, .. } => place.overlaps(range),
            _ => false,
        };
        let may = |index: &usize| {
            let cut =
                matches!(&self.steps[*index].what, What::Move { remap, .. } if cut_off(remap));
            cut && self.steps[*index..].iter().any(comes)
        };
        (own..self.steps.len()).filter(may).collect()
    }

    /// The parts of an unmapped range to which something came when they were not told to be free.
    pub(super) fn came_too_early(&self, range: AddrRange) -> impl Iterator<Item = AddrRange> + '_ {
        let own = self.own.min(self.steps.len());
        self.steps[own..].iter().filter_map(move |step| {
            let What::Move { remap, onto: None } = &step.what else {
                return None;
            };
            let mut in_its_way = step.registered.iter();
            let place = remap.destination().common(range);
            in_its_way
                .any(|(part, _)| part.overlaps(place))
                .then_some(place)
        })
    }

    /// Steps that may have been the first word of this move, and how odd that would be of them: an UNMAP of its destination,
    /// most likely the last; or what was taken for the tail of another move.
    pub(super) fn announcements(&self, remap: &Remap) -> Vec<(usize, u32)> {
        let destination = remap.destination();
        let (mut found, mut last) = (Vec::new(), None);
        for (index, step) in self.steps.iter().enumerate().skip(self.own).rev() {
            match step.what {
                What::Unmap {
                    range,
                    may_be_move: true,
                } if range.start == destination.start && range.covers(destination) => {
                    let is_another = last.is_some_and(|last| last != range);
                    let odd = if is_another { 2 } else { 0 };
                    last = last.or(Some(range));
                    found.push((index, odd));
                }
                What::Tail(range) if range == destination => found.push((index, 2)),
                _ => {}
            }
        }
        found
    }

    /// Where else this move may belong: before another that came to where it had just left, and overtook its first word. The
    /// place seemed to be occupied.
    pub(super) fn overtakers(&self, remap: &Remap, announced: &[(usize, u32)]) -> Vec<Order> {
        let left = remap.source();
        let overtakers = self.steps.iter().enumerate().skip(self.own);
        let overtakers = overtakers.filter(|(_, step)| match &step.what {
            What::Move {
                remap, onto: None, ..
            } => !step.registered.is_empty() && remap.destination().overlaps(left),
            _ => false,
        });
        overtakers
            .flat_map(|(before, _)| {
                let later = announced.iter().map(|&(index, _)| index);
                let later = later.filter(move |&index| index > before);
                later
                    .map(Some)
                    .chain([None])
                    .map(move |announced| Order { before, announced })
            })
            .collect()
    }

    /// A move onto X that was overtaken by one of X to Y: REMAP X→Y, UNMAP X, REMAP Z→X, UNMAP X, UNMAP Z. If the second UNMAP of
    /// X is not the first word of a move, as is known when everything has been told, then it is the last word of the one from
    /// X, and the first UNMAP is the first word of the one from Z. (Somebody else may have unmapped X while Z was moving
    /// there. That is no way to use memory.)
    pub(super) fn overtaken_onto(&self) -> Option<Overtaken> {
        // Asked before every install: where nothing has moved away and told all of it, there is nothing to look for.
        let any_tail = |step: &Step| matches!(step.what, What::Tail(_));
        if !self.steps.iter().any(any_tail) {
            return None;
        }
        let own = self.steps.iter().enumerate().skip(self.own);
        own.clone().find_map(|(unmapped, step)| {
            let What::Unmap {
                range,
                may_be_move: true,
            } = &step.what
            else {
                return None;
            };
            let before = self.own..unmapped;
            let (moved, remap) =
                before
                    .clone()
                    .rev()
                    .find_map(|index| match &self.steps[index].what {
                        What::Move {
                            remap, onto: None, ..
                        } if remap.destination() == *range => Some((index, *remap)),
                        _ => None,
                    })?;
            let is_tail = |step: &Step, of| matches!(&step.what, What::Tail(it) if *it == of);
            let last_word = (moved..self.steps.len())
                .find(|&index| is_tail(&self.steps[index], remap.source()))?;
            if last_word < unmapped {
                return None;
            }
            let announced =
                (self.own..moved).rfind(|&index| is_tail(&self.steps[index], *range))?;
            let before = (self.own..announced)
                .rfind(|&index| self.steps[index].moved_from() == Some(*range))?;
            Some(Overtaken {
                order: Order {
                    before,
                    announced: Some(announced),
                },
                remap,
                moved,
                unmapped,
            })
        })
    }

    /// True when a move that was made with a shorter length may have cut this off.
    pub(super) fn may_have_cut_off(&self, part: AddrRange) -> bool {
        without_tail(&self.steps).any(|(remap, _)| remap.source().end == part.start)
    }

    pub(super) fn oddity_from(&self, first: usize) -> i64 {
        let oddities = self.steps[first..].iter().map(|step| step.oddity);
        oddities.map(i64::from).sum()
    }

    /// True when memory may have come to a place, or stayed there, that has not been told of.
    pub(super) fn may_be_at(&self, place: AddrRange) -> bool {
        // A move with MREMAP_DONTUNMAP leaves its source behind. Onto other memory such moves are rare.
        without_tail(&self.steps)
            .any(|(remap, onto)| onto.is_none() && remap.source().overlaps(place))
            || self.half_told().iter().any(|half| half.overlaps(place))
    }

    /// Where memory may be that has not been told of: behind each UNMAP that may be the first word of a move.
    pub(super) fn half_told(&self) -> Vec<AddrRange> {
        let place = |step: &Step| match &step.what {
            What::Unmap {
                range,
                may_be_move: true,
            } => Some(*range),
            _ => None,
        };
        let first: Vec<AddrRange> = self.steps.iter().filter_map(place).collect();
        if first.is_empty() {
            return first;
        }
        // And where it has been moved on to since.
        let on = self.steps.iter().filter_map(|step| match &step.what {
            What::Move { remap, .. } => Some(remap.destination()),
            What::Alias { place, .. } => Some(*place),
            _ => None,
        });
        first.into_iter().chain(on).collect()
    }

    /// What a child inherits: its parent's past, and none of what its parent has yet to tell.
    pub(super) fn of_child(&self) -> Self {
        if self.half_told().is_empty() {
            return Self {
                of_a_child: true,
                ..Self::default()
            };
        }
        Self {
            steps: self.steps.clone(),
            own: self.steps.len(),
            of_a_child: true,
        }
    }

    /// From which step on nothing has happened in a child that was just forked, because what its parent's other threads did
    /// after that was told first. The kernel says what is registered in the child.
    pub(super) fn not_in_child(
        &self,
        is_there: &mut impl FnMut(Addr, Kind) -> Option<bool>,
    ) -> Option<usize> {
        let mut first = None;
        let from = self.own.max(self.steps.len().saturating_sub(FAR_BACK));
        for (index, step) in self.steps.iter().enumerate().skip(from).rev() {
            // What it moved may have been moved on since, and that is half told.
            if matches!(
                step.what,
                What::Unmap {
                    may_be_move: true,
                    ..
                }
            ) {
                break;
            }
            let place = step.what.places().pop();
            let mut later = self.steps[index + 1..]
                .iter()
                .flat_map(|step| step.what.places());
            if later.any(|later| place.is_some_and(|place| place.overlaps(later))) {
                continue;
            }
            match step.happened_in(is_there) {
                Some(true) => break,
                Some(false) => first = Some(index),
                None => {}
            }
        }
        first
    }

    /// What moved and is still registered where it was, and empty, now that everything has been told: such a move has no
    /// UNMAP of its source (MREMAP_DONTUNMAP).
    pub(super) fn left_behind(&self) -> Vec<(AddrRange, Kind)> {
        let mut open: Vec<&Step> = Vec::new();
        for step in &self.steps[self.own.min(self.steps.len())..] {
            if let What::Tail(range) = &step.what {
                let is_it = |other: &&Step| other.moved_from() == Some(*range);
                if let Some(at) = open.iter().position(is_it) {
                    open.remove(at);
                }
            }
            let over = step.what.places();
            open.retain(|other| {
                !over
                    .iter()
                    .any(|place| other.moved_from().is_some_and(|from| from.overlaps(*place)))
            });
            if step.moved_from().is_some() {
                open.push(step);
            }
        }
        open.iter()
            .flat_map(|step| step.moved.iter().copied())
            .collect()
    }

    /// All of the past has been told, as far as it is this address space's own.
    pub(super) fn own_is_told(&mut self) {
        self.own = self.steps.len();
    }

    pub(super) fn clear(&mut self) {
        self.steps.clear();
        self.own = 0;
    }
}

/// The moves of which the UNMAP of the source has not come, and onto what they went.
fn without_tail(steps: &[Step]) -> impl Iterator<Item = (Remap, Option<AddrRange>)> {
    let mut open: Vec<(Remap, Option<AddrRange>)> = Vec::new();
    for step in steps {
        match step.what {
            What::Move { remap, onto, .. } => open.push((remap, onto)),
            What::Tail(range) => {
                if let Some(at) = open.iter().position(|(remap, _)| remap.source() == range) {
                    open.remove(at);
                }
            }
            _ => {}
        }
    }
    open.into_iter()
}

/// The parts of `whole` outside `holes`.
pub(super) fn without(whole: AddrRange, holes: &[AddrRange]) -> Vec<AddrRange> {
    let mut rest = super::Extents::default();
    rest.set(whole, There);
    for &hole in holes {
        rest.remove(hole);
    }
    rest.iter().map(|(range, _)| range).collect()
}
