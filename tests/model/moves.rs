//! mremap(2), in all its forms.

use std::collections::VecDeque;

use crate::coverage::Case;
use crate::memory::{AREA, AREA_LEN, SMALL, Slot, Slots, alike, is_huge, range};
use crate::world::{State, Then, Told, World};

/// A move that can be made.
struct Plan {
    from: Slots,
    to: Slots,
    /// The old range stays mapped, and empty.
    keep: bool,
}

impl World {
    pub(crate) fn some_move(&mut self, index: usize) {
        let mm = self.threads[index].mm;
        let Some(source) = self.some_source(mm) else {
            return;
        };
        let shared = self.mms[mm].slots[source.start].is_shared();
        match self.rng.below(16) {
            0 => self.shrink(index, &source),
            1 => self.grow(index, &source),
            2 | 3 if shared => self.duplicate(index, &source),
            kind => {
                let keep = kind < 4 && !shared;
                self.move_away(index, source, keep);
            }
        }
    }

    /// A mapping, or a part of one.
    fn some_source(&mut self, mm: usize) -> Option<Slots> {
        let slot = if self.rng.one_in(30) {
            SMALL
        } else {
            let area = self.rng.below(SMALL / AREA) * AREA;
            area + if self.rng.one_in(4) {
                self.rng.below(AREA)
            } else {
                0
            }
        };
        self.mms[mm].slots[slot].mapping?;
        let whole = self.mapping_around(mm, slot);
        if self.rng.one_in(4) {
            let start = self.rng.within(whole.clone());
            return Some(start..self.rng.within(start + 1..whole.end + 1));
        }
        Some(whole)
    }

    /// Fewer pages at the same place.
    fn shrink(&mut self, index: usize, source: &Slots) {
        if source.len() < 2 {
            return;
        }
        let mm = self.threads[index].mm;
        let cut = self.rng.within(source.start + 1..source.end)..source.end;
        self.log(|| format!("t{index} cuts mm{mm} {cut:?} off {source:?}"));
        let told = self.any_registered(mm, &cut);
        self.exclude_left_behind(mm, &cut);
        self.exclude_unmapped_arrival(mm, &cut);
        self.take_away(mm, &cut);
        self.count(Case::Shrunk);
        let event = told.then(|| Told::Unmap(range(&cut)));
        self.tell(index, event.into_iter().collect(), Then::Return);
    }

    /// More pages at the same place: they are registered, and nothing is told.
    fn grow(&mut self, index: usize, source: &Slots) {
        let mm = self.threads[index].mm;
        let end = self.mapping_around(mm, source.start).end;
        let slots = &mut self.mms[mm].slots;
        if is_huge(end) || end >= SMALL || slots[end].mapping.is_some() {
            return;
        }
        let Some(mapping) = slots[end - 1].mapping.filter(|it| it.file.is_none()) else {
            return;
        };
        slots[end] = Slot {
            unknown: true,
            ..Slot::empty(mapping)
        };
        self.log(|| format!("t{index} grows mm{mm} by {end}"));
        self.count(Case::Grown);
    }

    fn move_away(&mut self, index: usize, source: Slots, keep: bool) {
        let mm = self.threads[index].mm;
        let len = source.len();
        // One page more or one less, now and then.
        let new_len = match self.rng.below(8) {
            0 if !keep
                && !is_huge(source.start)
                && !self.mms[mm].slots[source.start].is_shared() =>
            {
                len + 1
            }
            1 if !keep && len > 1 => len - 1,
            _ => len,
        };
        let Some(to) = self.some_place(mm, &source, new_len) else {
            return;
        };
        self.carry_out(
            index,
            Plan {
                from: source,
                to,
                keep,
            },
        );
    }

    /// Somewhere else: the start of an area most often, whether something is there or not.
    fn some_place(&mut self, mm: usize, source: &Slots, len: usize) -> Option<Slots> {
        let room = alike(source.start);
        let start = if is_huge(source.start) {
            self.rng.within(room.clone())
        } else {
            let area = self.rng.below(SMALL / AREA) * AREA;
            area + if self.rng.one_in(5) {
                self.rng.below(AREA_LEN)
            } else {
                0
            }
        };
        let to = start..start + len;
        let fits = to.end <= room.end && (to.end <= source.start || source.end <= to.start);
        // Half of the moves let the kernel choose, and it chooses room that is free.
        let free = self.mms[mm]
            .slots
            .get(to.clone())?
            .iter()
            .all(|slot| slot.mapping.is_none());
        (fits && (free || self.rng.one_in(2))).then_some(to)
    }

    fn carry_out(&mut self, index: usize, plan: Plan) {
        let mm = self.threads[index].mm;
        let Plan { from, to, keep } = plan;
        let registered = self.mms[mm].slots[from.start].is_registered();
        let moved = from.start..from.start + from.len().min(to.len());
        self.exclude_second_arrival(mm, &to, false);
        self.exclude_left_behind(mm, &to);
        self.exclude_left_behind(mm, &from);
        self.moves += 1;
        let number = self.moves;
        self.log(|| {
            format!("t{index} moves mm{mm} {from:?} to {to:?}, keep {keep} (move {number})")
        });
        if moved != self.mapping_around(mm, from.start) {
            self.count(Case::PartialMove);
        }
        let mut events = VecDeque::new();
        if self.any_registered(mm, &to) {
            self.count(Case::FixedMove);
            events.push_back(Told::Unmap(range(&to)));
        }
        let mut left = self.take_away(mm, &to).iter().any(|slot| slot.unknown);
        left |= self.mms[mm].slots[from.clone()]
            .iter()
            .any(|slot| slot.unknown);
        if registered {
            events.push_back(Told::Remap {
                from: moved.clone(),
                to: to.start..to.start + moved.len(),
                keep,
                grown: to.len() > moved.len(),
                left,
                number,
            });
        }
        if moved.end < from.end {
            let cut = moved.end..from.end;
            let unknown = self.take_away(mm, &cut).iter().any(|slot| slot.unknown);
            if registered {
                events.push_back(Told::Cut {
                    range: range(&cut),
                    unknown,
                });
            }
        }
        let mut pages = self.take_away(mm, &moved);
        let mapping = pages[0].mapping.expect("a source is mapped");
        if keep {
            self.count(Case::DontUnmap);
            self.mms[mm].slots[moved.clone()].fill(Slot {
                unknown: true,
                ..Slot::empty(mapping)
            });
            self.set_border(mm, moved.start);
        } else if registered {
            events.push_back(Told::Tail(range(&moved)));
        }
        let grown = Slot {
            unknown: true,
            ..Slot::empty(mapping)
        };
        pages.resize(to.len(), grown);
        self.mms[mm].slots[to.clone()].copy_from_slice(&pages);
        self.set_border(mm, to.start);
        self.tell(index, events, Then::Return);
    }

    /// Memory is unmapped where a move has brought it, which has told only of what was there before.
    pub(crate) fn exclude_unmapped_arrival(&mut self, mm: usize, place: &Slots) {
        let arrived = |event: &Told| match event {
            Told::Remap { to, .. } => to.start < place.end && place.start < to.end,
            Told::Alias { to, .. } => place.start <= to + AREA && *to < place.end,
            _ => false,
        };
        if self.any_untold(mm, arrived) {
            self.exclude("unmapped what has come without a word");
        }
    }

    /// Two moves under way to one place: which of them came last, their messages do not tell.
    fn exclude_second_arrival(&mut self, mm: usize, to: &Slots, alias: bool) {
        let arrives = |event: &Told| match event {
            Told::Remap { to: other, .. } => other.start < to.end && to.start < other.end,
            Told::Alias { to: other, .. } => to.contains(other),
            _ => false,
        };
        if self.any_untold(mm, arrives) {
            self.exclude("two moves to one place");
        }
        let (place, announced) = (range(to), self.any_registered(mm, to));
        let cut = |event: &Told| {
            matches!(event, Told::Cut { range, unknown }
                if range.overlaps(place) && (announced || alias || *unknown))
        };
        if self.any_untold(mm, cut) {
            self.exclude("a move to where another one has cut something off");
        }
    }

    /// Memory that a move with `MREMAP_DONTUNMAP` has left behind, which has told only of what was at its destination: it
    /// cannot be told from a move that is made later.
    pub(crate) fn exclude_left_behind(&mut self, mm: usize, place: &Slots) {
        let left = |event: &Told| {
            matches!(event, Told::Remap { from, keep: true, .. }
                if from.start < place.end && place.start < from.end)
        };
        if self.any_untold(mm, left) {
            self.exclude("left behind");
        }
        let grown = |event: &Told| matches!(event, Told::Remap { grown: true, .. });
        if self.any_untold(mm, grown) {
            self.exclude("a move that grows onto something");
        }
        let left = |event: &Told| matches!(event, Told::Remap { left: true, .. });
        if self.any_untold(mm, left) {
            self.exclude("a move of what was left behind, onto something");
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

    /// A second place of a shared mapping.
    fn duplicate(&mut self, index: usize, source: &Slots) {
        let mm = self.threads[index].mm;
        let len = self.rng.within(1..source.len() + 1);
        let Some(to) = self.some_place(mm, source, len) else {
            return;
        };
        self.log(|| format!("t{index} duplicates mm{mm} {source:?} at {to:?}"));
        self.count(Case::Alias);
        self.exclude_second_arrival(mm, &to, true);
        self.exclude_left_behind(mm, &to);
        let mut events = VecDeque::new();
        if self.any_registered(mm, &to) {
            events.push_back(Told::Unmap(range(&to)));
        }
        self.take_away(mm, &to);
        let first = self.mms[mm].slots[source.start];
        if first.is_registered() {
            events.push_back(Told::Alias {
                from: source.start,
                to: to.start,
            });
        }
        for (offset, slot) in to.clone().enumerate() {
            let mapping = self.mms[mm].slots[source.start + offset].mapping;
            self.mms[mm].slots[slot] = Slot {
                mapping,
                border: offset == 0,
                ..Slot::UNMAPPED
            };
        }
        self.tell(index, events, Then::Return);
    }
}
