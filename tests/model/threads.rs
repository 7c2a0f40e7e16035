//! Threads: each step is atomic, everything between two steps may happen in any order.

use std::collections::VecDeque;

use crate::coverage::Case;
use crate::memory::{Content, Entry, address};
use crate::world::{State, Then, Told, World};

/// One in so many calls is overtaken, where it can be. In the kernel it is one in some 100,000.
const OVERTAKING: usize = 3;

impl World {
    /// True when some thread can go on without the daemon.
    pub(crate) fn any_can_run(&self) -> bool {
        self.threads.iter().any(|thread| can_run(&thread.state))
    }

    pub(crate) fn all_over(&self) -> bool {
        self.threads
            .iter()
            .all(|thread| matches!(thread.state, State::Over | State::Unborn))
    }

    /// One step of some thread. False when there is none.
    pub(crate) fn step(&mut self) -> bool {
        let able = |world: &Self, index: usize| can_run(&world.threads[index].state);
        let count = self.threads.len();
        let first = self.rng.below(count);
        if self.rng.one_in(12) {
            self.signal(first);
        }
        let next = (0..count)
            .map(|offset| (first + offset) % count)
            .find(|&index| able(self, index));
        let Some(index) = next else {
            return false;
        };
        self.go_on(index);
        true
    }

    /// Threads go on while the daemon is in a call, or between two.
    pub(crate) fn meanwhile(&mut self) {
        if self.rng.one_in(3) {
            for _ in 0..self.rng.within(1..5) {
                self.step();
            }
        }
    }

    /// A signal takes a thread out of its fault; afterwards it faults again.
    fn signal(&mut self, index: usize) {
        let thread = &mut self.threads[index];
        if let State::Waiting { slot, write } = thread.state
            && thread.signals > 0
        {
            thread.signals -= 1;
            thread.state = State::Touching { slot, write };
            let mm = thread.mm;
            let read = !self.mms[mm].faults.iter().any(|&(who, _)| who == index);
            if read {
                self.count(Case::DuplicateFault);
            }
            self.mms[mm].faults.retain(|&(who, _)| who != index);
        }
    }

    fn go_on(&mut self, index: usize) {
        match self.threads[index].state.clone() {
            State::Running if self.threads[index].left == 0 => {
                self.threads[index].state = State::Over;
            }
            State::Running => {
                self.threads[index].left -= 1;
                self.call(index);
            }
            State::Touching { slot, write } => self.touch(index, slot, write),
            State::Telling { queued: false, .. } => self.queue(index),
            State::Telling { events, then, .. } => self.was_read(index, events, then),
            State::Unborn | State::Waiting { .. } | State::Over => {}
        }
    }

    /// Takes effect, and tells. The count goes up for all events at once, before any is queued.
    pub(crate) fn tell(&mut self, index: usize, events: VecDeque<Told>, then: Then) {
        if events.is_empty() {
            self.finish(index, then);
            return;
        }
        let mm = self.threads[index].mm;
        self.limit_odd_moves(mm, &events);
        self.limit_misplaced(mm, &events);
        self.mms[mm].changing += events.len();
        self.threads[index].state = State::Telling {
            events,
            queued: false,
            read: false,
            then,
        };
        // Between the effect and the queue there is time. The first events come in the order of the effects, but for a thread
        // that is preempted there.
        // (madvise(2) has no effect before its event was read: the order of the queue is as good as any.)
        let removes = matches!(self.first_word(index), Some(Told::Remove(_)));
        let overtakes = !removes && self.rng.one_in(OVERTAKING);
        if !overtakes {
            self.queue_all(mm);
        } else if !self.mms[mm].slow.is_empty() {
            self.count(Case::Overtaken);
            self.log(|| format!("t{index} overtakes"));
            self.limit_overtaking(mm, index);
        }
        self.mms[mm].slow.push_back(index);
        if removes || overtakes || !self.rng.one_in(4) {
            self.queue(index);
        }
    }

    fn first_word(&self, index: usize) -> Option<&Told> {
        match &self.threads[index].state {
            State::Telling { events, .. } => events.front(),
            _ => None,
        }
    }

    pub(crate) fn queue_all(&mut self, mm: usize) {
        while let Some(&index) = self.mms[mm].slow.front() {
            self.queue(index);
        }
    }

    fn queue(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        self.mms[mm].slow.retain(|&other| other != index);
        if let State::Telling { queued, .. } = &mut self.threads[index].state {
            *queued = true;
            self.mms[mm].events.push_back(index);
        }
    }

    /// A thread finds that its event was read.
    fn was_read(&mut self, index: usize, mut events: VecDeque<Told>, then: Then) {
        let mm = self.threads[index].mm;
        self.mms[mm].changing = self.mms[mm].changing.saturating_sub(1);
        events.pop_front();
        self.log(|| format!("t{index} goes on"));
        if events.is_empty() {
            self.finish(index, then);
            return;
        }
        if !self.mms[mm].closed {
            self.mms[mm].events.push_back(index);
        }
        self.threads[index].state = State::Telling {
            events,
            queued: true,
            read: self.mms[mm].closed,
            then,
        };
    }

    fn finish(&mut self, index: usize, then: Then) {
        self.threads[index].state = State::Running;
        match then {
            Then::Return => {}
            Then::Zap { piece, rest } => self.zap(index, piece, rest),
            Then::Start(child) => {
                for thread in &mut self.threads {
                    if thread.mm == child && thread.state == State::Unborn {
                        thread.state = State::Running;
                    }
                }
            }
        }
    }

    /// An access, as far as it gets.
    pub(crate) fn touch(&mut self, index: usize, slot: usize, write: bool) {
        let mm = self.threads[index].mm;
        self.threads[index].state = State::Running;
        let Some(mapping) = self.mms[mm].slots[slot].mapping else {
            self.count(Case::Segfault);
            return;
        };
        let mut entry = self.entry(mm, slot);
        let what = if write { "writes" } else { "reads" };
        if entry == Entry::Missing {
            if mapping.registered {
                self.log(|| format!("t{index} {what} mm{mm} slot {slot}: fault"));
                self.mms[mm].faults.push_back((index, slot));
                self.threads[index].state = State::Waiting { slot, write };
                return;
            }
            self.set_content(mm, slot, Content::Zero);
            entry = Entry::Holds(Content::Zero);
        }
        self.log(|| format!("t{index} {what} mm{mm} slot {slot}: {entry:?}"));
        // A write changes a part of the page, so it matters what was there.
        self.check(mm, slot, entry, what);
        if entry == Entry::Poison {
            self.count(Case::Sigbus);
        } else if write {
            self.count(Case::Written);
            self.values += 1;
            let value = Content::Value(self.values);
            self.set_content(mm, slot, value);
            self.set_truth(mm, slot, value);
        }
    }

    /// All threads of an address space end, and nothing is told.
    pub(crate) fn die(&mut self, mm: usize) {
        self.count(Case::Exit);
        let (mut half, mut unborn) = (false, Vec::new());
        for thread in self.threads.iter_mut().filter(|thread| thread.mm == mm) {
            half |= matches!(thread.state, State::Telling { .. });
            if let State::Telling { events, .. } = &thread.state
                && let Some(Told::Fork { child }) = events.front()
            {
                unborn.push(*child);
            }
            thread.state = State::Over;
        }
        // A fork that is killed has no child, even if its FORK was read.
        for child in unborn {
            self.mms[child].dead = true;
        }
        self.mark_orphans(mm);
        if half {
            self.limit_orphans(mm);
        }
        let dead = &mut self.mms[mm];
        dead.dead = true;
        dead.changing = 0;
        dead.slow.clear();
        dead.faults.clear();
        dead.events.clear();
    }

    fn mark_orphans(&mut self, parent: usize) {
        for child in 0..self.mms.len() {
            if self.mms[child].parent == Some(parent) {
                self.mms[child].orphan = true;
                self.mark_orphans(child);
            }
        }
    }

    /// The descriptor was closed: the kernel lets everybody go on, with zeros for what is missing.
    pub(crate) fn close(&mut self, mm: usize) {
        self.log(|| format!("mm{mm} is closed"));
        self.count(Case::Closed);
        let closed = &mut self.mms[mm];
        closed.closed = true;
        closed.slow.clear();
        closed.faults.clear();
        closed.events.clear();
        for slot in &mut closed.slots {
            if let Some(mapping) = &mut slot.mapping {
                mapping.registered = false;
            }
        }
        let mut children = Vec::new();
        for thread in self.threads.iter_mut().filter(|thread| thread.mm == mm) {
            match &mut thread.state {
                State::Waiting { slot, write } => {
                    thread.state = State::Touching {
                        slot: *slot,
                        write: *write,
                    };
                }
                State::Telling {
                    events,
                    queued,
                    read,
                    ..
                } => {
                    *queued = true;
                    if let (Some(Told::Fork { child }), false) = (events.front(), *read) {
                        children.push(*child);
                    }
                    *read = true;
                }
                _ => {}
            }
        }
        // A child whose FORK nobody reads has nothing registered.
        for child in children {
            self.close(child);
        }
    }

    pub(crate) fn describe(&self, mm: usize) -> String {
        let mut text = String::new();
        for (index, slot) in self.mms[mm].slots.iter().enumerate() {
            if let Some(mapping) = slot.mapping {
                let registered = if mapping.registered { "R" } else { "-" };
                let (entry, truth) = (self.entry(mm, index), self.truth(mm, index));
                let at = address(index);
                text += &format!("  {index} {at} {registered} {entry:?}, truth {truth:?}\n");
            }
        }
        text
    }
}

fn can_run(state: &State) -> bool {
    matches!(
        state,
        State::Running
            | State::Touching { .. }
            | State::Telling { read: true, .. }
            | State::Telling { queued: false, .. }
    )
}
