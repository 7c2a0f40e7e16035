//! What threads do: accesses, and the calls that change an address space in one place.

use std::collections::VecDeque;

use crate::coverage::Case;
use crate::memory::{
    AREA, AREA_LEN, Content, Entry, Mapping, SMALL, Slot, Slots, Truth, is_huge, range,
};
use crate::world::{Mm, State, Then, Told, World};

const MOST_MMS: usize = 4;

impl World {
    /// The next thing a thread does.
    pub(crate) fn call(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        match self.rng.below(40) {
            0..=11 => {
                if let Some(slot) = self.some_slot(mm, 10) {
                    let write = self.rng.one_in(3);
                    self.touch(index, slot, write);
                }
            }
            12..=15 => {
                let slots = self.some_range();
                self.drop_pages(index, slots);
            }
            16..=17 => self.unmap(index),
            18..=31 => self.some_move(index),
            32..=34 => self.fork(index),
            35 => self.split(mm),
            36..=37 => self.drop_silently(mm),
            38 => self.map_anew(index),
            _ => {
                if self.rng.one_in(8) {
                    self.log(|| format!("t{index} exits, and mm{mm} with it"));
                    self.die(mm);
                }
            }
        }
    }

    /// A slot, most often one that is mapped.
    fn some_slot(&mut self, mm: usize, tries: usize) -> Option<usize> {
        let count = self.mms[mm].slots.len();
        for _ in 0..tries {
            let slot = self.rng.below(count);
            if self.mms[mm].slots[slot].mapping.is_some() {
                return Some(slot);
            }
        }
        self.rng.one_in(2).then(|| self.rng.below(SMALL))
    }

    /// Where an area, or a part of it, is.
    fn some_range(&mut self) -> Slots {
        let huge = self.mms[0].slots.len() - SMALL;
        if self.rng.one_in(30) {
            let start = SMALL + self.rng.below(huge);
            return start..start + 1;
        }
        let area = self.rng.below(SMALL / AREA) * AREA;
        let (start, end) = match self.rng.below(4) {
            0 => {
                let start = self.rng.below(AREA_LEN);
                (start, self.rng.within(start + 1..AREA + 1))
            }
            _ => (0, AREA_LEN),
        };
        area + start..area + end
    }

    /// `madvise(MADV_DONTNEED)`: for each mapping an event, and the pages are dropped when it was read.
    pub(crate) fn drop_pages(&mut self, index: usize, within: Slots) {
        let mm = self.threads[index].mm;
        let first = within
            .clone()
            .find(|&slot| self.mms[mm].slots[slot].mapping.is_some());
        let Some(first) = first else { return };
        let end = self.mapping_around(mm, first).end.min(within.end);
        let (piece, rest) = (first..end, end..within.end);
        // What a shared mapping is to have afterwards cannot be known from the event.
        if self.mms[mm].slots[first].is_shared() {
            return;
        }
        self.log(|| format!("t{index} drops mm{mm} {piece:?}"));
        let registered = self.mms[mm].slots[first].is_registered();
        let then = Then::Zap {
            piece: piece.clone(),
            rest,
        };
        if !registered {
            self.tell(index, VecDeque::new(), then);
            return;
        }
        self.count(Case::Remove);
        for slot in &mut self.mms[mm].slots[piece.clone()] {
            if slot.entry == Entry::Missing {
                slot.truth = Truth::Is(Content::Zero);
            }
        }
        self.tell(index, [Told::Remove(range(&piece))].into(), then);
    }

    /// The second half of it. Something else may have come there in the meantime.
    pub(crate) fn zap(&mut self, index: usize, piece: Slots, rest: Slots) {
        let mm = self.threads[index].mm;
        if self.mms[mm].slots[piece.start].mapping.is_none() {
            return;
        }
        let end = self.mapping_around(mm, piece.start).end.min(piece.end);
        let mut stale = false;
        for slot in &mut self.mms[mm].slots[piece.start..end] {
            if slot.is_shared() {
                continue;
            }
            match slot.entry {
                Entry::Missing => stale |= slot.truth != Truth::Is(Content::Zero),
                Entry::Holds(_) => slot.truth = Truth::Is(Content::Zero),
                Entry::Poison => slot.truth = Truth::PoisonOrZero,
            }
            slot.entry = Entry::Missing;
        }
        if stale {
            self.count(Case::StaleZap);
        }
        self.log(|| format!("t{index} has dropped mm{mm} {:?}", piece.start..end));
        if !rest.is_empty() {
            self.drop_pages(index, rest);
        }
    }

    fn unmap(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        let slots = self.some_range();
        let told = self.any_registered(mm, &slots);
        if told {
            self.count(Case::Unmapped);
        }
        self.log(|| format!("t{index} unmaps mm{mm} {slots:?}"));
        self.limit_unmapping(mm, &slots);
        self.take_away(mm, &slots);
        let event = told.then(|| Told::Unmap(range(&slots)));
        self.tell(index, event.into_iter().collect(), Then::Return);
    }

    /// Unmaps, and gives what was there.
    pub(crate) fn take_away(&mut self, mm: usize, slots: &Slots) -> Vec<Slot> {
        let taken = self.mms[mm].slots[slots.clone()].to_vec();
        self.mms[mm].slots[slots.clone()].fill(Slot::UNMAPPED);
        self.set_border(mm, slots.end);
        taken
    }

    pub(crate) fn set_border(&mut self, mm: usize, slot: usize) {
        if let Some(slot) = self.mms[mm].slots.get_mut(slot) {
            slot.border = true;
        }
    }

    /// `mmap(MAP_FIXED)`: new memory is not registered.
    fn map_anew(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        let slots = self.some_range();
        if is_huge(slots.start) {
            return;
        }
        let told = self.any_registered(mm, &slots);
        self.log(|| format!("t{index} maps mm{mm} {slots:?} anew"));
        self.limit_unmapping(mm, &slots);
        self.take_away(mm, &slots);
        self.mms[mm].slots[slots.clone()].fill(Slot::empty(Mapping::PLAIN));
        self.set_border(mm, slots.start);
        let event = told.then(|| Told::Unmap(range(&slots)));
        self.tell(index, event.into_iter().collect(), Then::Return);
        // It does not say that something new is there, so nobody can know of whoever overtakes it.
        self.queue_all(mm);
    }

    /// As mprotect(2) does: nothing is told, but no install goes over the border any more.
    fn split(&mut self, mm: usize) {
        if let Some(slot) = self.some_slot(mm, 4) {
            self.log(|| format!("mm{mm} is split at {slot}"));
            self.set_border(mm, slot);
        }
    }

    /// As `MADV_GUARD_INSTALL` and `MADV_GUARD_REMOVE` do: pages that were there are gone, and nothing is told. What was not
    /// there yet cannot be helped, and is left alone here.
    fn drop_silently(&mut self, mm: usize) {
        // If the daemon was killed just after it had installed them, nobody knows that they were ever there.
        if self.mortal {
            return;
        }
        let slots = self.some_range();
        self.log(|| format!("mm{mm} loses {slots:?}"));
        let mut dropped = false;
        for slot in &mut self.mms[mm].slots[slots] {
            if slot.is_shared() {
                continue;
            }
            match slot.entry {
                Entry::Missing => continue,
                Entry::Holds(_) => slot.truth = Truth::Is(Content::Zero),
                Entry::Poison => slot.truth = Truth::PoisonOrZero,
            }
            dropped |= slot.is_registered();
            slot.entry = Entry::Missing;
        }
        if dropped {
            self.count(Case::SilentDrop);
        }
    }

    fn fork(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        if self.mms.len() == MOST_MMS {
            return;
        }
        let child = self.mms.len();
        self.log(|| format!("t{index} of mm{mm} forks mm{child}"));
        self.count(Case::Fork);
        if self.mms[mm].parent.is_some() {
            self.count(Case::ForkOfChild);
        }
        if self.any_move_half_told(mm) {
            self.count(Case::ForkInsideMove);
        }
        self.limit_fork(mm);
        let mut slots = self.mms[mm].slots.clone();
        let told = slots.iter().any(Slot::is_registered);
        for slot in &mut slots {
            if let Some(mapping) = slot.mapping
                && mapping.wiped_on_fork
            {
                self.coverage.count(Case::ForkWiped);
                *slot = Slot {
                    border: slot.border,
                    ..Slot::empty(mapping)
                };
            }
        }
        self.mms.push(Mm {
            slots,
            faults: VecDeque::new(),
            events: VecDeque::new(),
            slow: VecDeque::new(),
            changing: 0,
            parent: Some(mm),
            open: false,
            closed: !told,
            dead: false,
            orphan: self.mms[mm].orphan,
            half_born: self.mms[mm].half_born || self.any_move_half_told(mm),
            misplaced: self.mms[mm].misplaced,
        });
        for _ in 0..self.rng.within(1..3) {
            self.add_thread(child, 1..4, State::Unborn);
        }
        let event = told.then_some(Told::Fork { child });
        self.tell(index, event.into_iter().collect(), Then::Start(child));
    }

    /// True when a thread is in the middle of a move that it has not told of.
    pub(crate) fn any_move_half_told(&self, mm: usize) -> bool {
        self.any_untold(mm, |event| matches!(event, Told::Remap { .. }))
    }
}
