//! The state of a simulated kernel: address spaces, threads, and what is queued for the daemon.

use std::collections::VecDeque;

use uffd_restore::addr::AddrRange;

use crate::coverage::{Case, Coverage};
use crate::image;
use crate::memory::{
    AREA, AREA_LEN, Content, Entry, Mapping, SLOTS, SMALL, Slot, Slots, Truth, address, alike,
};
use crate::rng::Rng;

/// What a call has to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told {
    Remove(AddrRange),
    Unmap(AddrRange),
    /// What a move with a shorter length has cut off.
    Cut {
        range: AddrRange,
        /// Some of it was registered, and nobody had told.
        unknown: bool,
    },
    /// The last word of a move: its source is no longer there.
    Tail {
        range: AddrRange,
        /// Where it has gone.
        to: AddrRange,
    },
    Remap {
        from: Slots,
        to: Slots,
        /// See `limits.rs`.
        odd: bool,
        /// Moves are numbered in the order in which they took place.
        number: u32,
    },
    /// A second place of a shared mapping, whose length is not told.
    Alias {
        from: usize,
        to: usize,
    },
    Fork {
        child: usize,
    },
}

/// What a thread does when all that its call had to tell was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Then {
    Return,
    /// Drop pages, and go on with the rest of the range.
    Zap {
        piece: Slots,
        rest: Slots,
    },
    /// Let the threads of a child run.
    Start(usize),
}

/// What a thread is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// A thread of a child whose fork has not returned.
    Unborn,
    Running,
    /// About to access a page again.
    Touching {
        slot: usize,
        write: bool,
    },
    /// In a fault.
    Waiting {
        slot: usize,
        write: bool,
    },
    /// In a call whose event, the first of these, is queued or was read.
    Telling {
        events: VecDeque<Told>,
        /// It has taken effect, and this event can be read.
        queued: bool,
        read: bool,
        then: Then,
    },
    Over,
}

#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) mm: usize,
    /// Calls and accesses that it will still make.
    pub(crate) left: usize,
    /// Signals that it will still get.
    pub(crate) signals: usize,
    pub(crate) state: State,
}

/// An address space.
#[derive(Debug)]
pub(crate) struct Mm {
    pub(crate) slots: Vec<Slot>,
    /// Faults that have not been read: thread and slot.
    pub(crate) faults: VecDeque<(usize, usize)>,
    /// Threads whose event has not been read.
    pub(crate) events: VecDeque<usize>,
    /// The threads whose first event is not queued yet, although their calls have taken effect.
    pub(crate) slow: VecDeque<usize>,
    /// The kernel's `mmap_changing`.
    pub(crate) changing: usize,
    pub(crate) parent: Option<usize>,
    /// The child's descriptor exists.
    pub(crate) open: bool,
    /// The descriptor was closed: nothing is registered any more.
    pub(crate) closed: bool,
    pub(crate) dead: bool,
    /// An ancestor died in the middle of a call: pages may have to be poisoned.
    pub(crate) orphan: bool,
    /// Forked in the middle of a move that had not been told of.
    pub(crate) half_born: bool,
    /// The fork overtook another call, or was overtaken.
    pub(crate) misplaced: bool,
}

impl Mm {
    pub(crate) fn has_messages(&self) -> bool {
        !self.faults.is_empty() || !self.events.is_empty()
    }
}

/// A page of a file that is mapped shared.
#[derive(Debug)]
pub(crate) struct FilePage {
    pub(crate) content: Option<Content>,
    pub(crate) truth: Content,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) mms: Vec<Mm>,
    pub(crate) threads: Vec<Thread>,
    pub(crate) file: Vec<FilePage>,
    pub(crate) moves: u32,
    pub(crate) values: u32,
    pub(crate) coverage: Coverage,
    /// Lines that a trace has, or would have: the measure of a schedule that is easy to read.
    pub(crate) lines: usize,
    /// The schedule has something in it of which the kernel tells too little.
    pub(crate) excluded: bool,
    /// The daemon may be killed.
    pub(crate) mortal: bool,
    /// The first thing that went wrong.
    pub(crate) failure: Option<String>,
    /// What happened, if somebody wants to read it.
    pub(crate) trace: Option<Vec<String>>,
}

impl World {
    /// The target as it is when the daemon takes over, and what the snapshot owes it.
    pub(crate) fn new(seed: u64, traced: bool) -> Self {
        let mut world = Self {
            rng: Rng::new(seed),
            mms: Vec::new(),
            threads: Vec::new(),
            file: Vec::new(),
            moves: 0,
            values: 0,
            coverage: Coverage::default(),
            lines: 0,
            excluded: false,
            mortal: false,
            failure: None,
            trace: traced.then(Vec::new),
        };
        let slots = world.first_memory();
        world.mms.push(Mm {
            slots,
            faults: VecDeque::new(),
            events: VecDeque::new(),
            slow: VecDeque::new(),
            changing: 0,
            parent: None,
            open: true,
            closed: false,
            dead: false,
            orphan: false,
            half_born: false,
            misplaced: false,
        });
        for _ in 0..world.rng.within(2..4) {
            world.add_thread(0, 2..6, State::Running);
        }
        world
    }

    pub(crate) fn add_thread(&mut self, mm: usize, calls: Slots, state: State) {
        let (left, signals) = (self.rng.within(calls), self.rng.below(3));
        self.threads.push(Thread {
            mm,
            left,
            signals,
            state,
        });
    }

    fn first_memory(&mut self) -> Vec<Slot> {
        let mut slots = vec![Slot::UNMAPPED; SLOTS];
        let registered = Mapping {
            registered: true,
            ..Mapping::PLAIN
        };
        let little = self.rng.one_in(4);
        for area in 0..3 {
            let start = area * AREA;
            let what = self.rng.below(12);
            let mut mapping = registered;
            mapping.wiped_on_fork = what == 0;
            let shared = what == 1;
            for offset in 0..AREA_LEN {
                let page = (area * 10 + offset) as u64;
                let slot = &mut slots[start + offset];
                if shared {
                    // Poison is a marker in one page table, not in the file.
                    let good = image::class(page) != image::Class::Bad;
                    let page = if good { page } else { page - 1 };
                    mapping.file = Some(self.file.len());
                    self.file.push(FilePage {
                        content: None,
                        truth: Content::Page(page),
                    });
                }
                *slot = Slot::empty(mapping);
                slot.border = offset == 0;
                // Some may have been empty in the snapshot.
                if what != 2 && !(area > 0 && little) {
                    slot.truth = Truth::Is(Content::Page(page));
                }
            }
            if what == 3 {
                slots[start + 2].border = true;
            }
        }
        if self.rng.one_in(50) {
            for index in 0..2 {
                let page =
                    image::FIRST_HUGE + (index as u64) * 512 * (1 + self.rng.below(3) as u64);
                let slot = &mut slots[SMALL + index];
                *slot = Slot::empty(registered);
                slot.truth = Truth::Is(Content::Page(page));
            }
        }
        slots
    }

    pub(crate) fn log(&mut self, line: impl FnOnce() -> String) {
        self.lines += 1;
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.failure.is_none() {
            let what = what();
            self.log(|| format!("FAILURE: {what}"));
            self.failure = Some(what);
        }
    }

    pub(crate) fn count(&mut self, case: Case) {
        self.coverage.count(case);
    }

    pub(crate) fn entry(&self, mm: usize, slot: usize) -> Entry {
        let found = &self.mms[mm].slots[slot];
        let file = found.mapping.and_then(|mapping| mapping.file);
        match (found.entry, file) {
            (Entry::Missing, Some(page)) => {
                self.file[page].content.map_or(Entry::Missing, Entry::Holds)
            }
            (entry, _) => entry,
        }
    }

    pub(crate) fn truth(&self, mm: usize, slot: usize) -> Truth {
        let found = &self.mms[mm].slots[slot];
        match found.mapping.and_then(|mapping| mapping.file) {
            Some(page) => Truth::Is(self.file[page].truth),
            None => found.truth,
        }
    }

    pub(crate) fn set_content(&mut self, mm: usize, slot: usize, content: Content) {
        let found = &mut self.mms[mm].slots[slot];
        match found.mapping.and_then(|mapping| mapping.file) {
            Some(page) => self.file[page].content = Some(content),
            None => found.entry = Entry::Holds(content),
        }
    }

    pub(crate) fn set_truth(&mut self, mm: usize, slot: usize, content: Content) {
        let found = &mut self.mms[mm].slots[slot];
        match found.mapping.and_then(|mapping| mapping.file) {
            Some(page) => self.file[page].truth = content,
            None => found.truth = Truth::Is(content),
        }
    }

    /// Complains about a page that is not what it should be.
    pub(crate) fn check(&mut self, mm: usize, slot: usize, entry: Entry, when: &str) {
        let truth = self.truth(mm, slot);
        let expected = match truth {
            Truth::Is(Content::Page(page)) => image::expected(page),
            Truth::Is(content) => Entry::Holds(content),
            Truth::PoisonOrZero if entry == Entry::Poison => Entry::Poison,
            Truth::PoisonOrZero => Entry::Holds(Content::Zero),
        };
        if entry == expected {
            return;
        }
        if entry == Entry::Poison && self.mms[mm].orphan {
            self.count(Case::OrphanPoison);
            return;
        }
        self.fail(|| {
            let at = address(slot);
            format!("{when}: mm{mm} slot {slot} ({at}) is {entry:?}, should be {truth:?}")
        });
    }

    /// The mapping that a slot lies in.
    pub(crate) fn mapping_around(&self, mm: usize, slot: usize) -> Slots {
        let slots = &self.mms[mm].slots;
        let continues = |left: usize| {
            let (Some(one), Some(other)) = (slots[left].mapping, slots[left + 1].mapping) else {
                return false;
            };
            one.registered == other.registered
                && one.wiped_on_fork == other.wiped_on_fork
                && one.file.is_some() == other.file.is_some()
                && !slots[left + 1].border
        };
        let room = alike(slot);
        let (mut start, mut end) = (slot, slot + 1);
        while start > room.start && continues(start - 1) {
            start -= 1;
        }
        while end < room.end && continues(end - 1) {
            end += 1;
        }
        start..end
    }

    pub(crate) fn any_registered(&self, mm: usize, slots: &Slots) -> bool {
        self.mms[mm].slots[slots.clone()]
            .iter()
            .any(Slot::is_registered)
    }

    /// Whoever waits in these slots tries again.
    pub(crate) fn wake(&mut self, mm: usize, slots: &Slots) {
        for thread in self.threads.iter_mut().filter(|thread| thread.mm == mm) {
            if let State::Waiting { slot, write } = thread.state
                && slots.contains(&slot)
            {
                thread.state = State::Touching { slot, write };
            }
        }
        self.mms[mm]
            .faults
            .retain(|(_, slot)| !slots.contains(slot));
    }
}
