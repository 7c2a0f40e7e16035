//! mremap(2), in all its forms.

use std::collections::VecDeque;

use crate::coverage::Case;
use crate::memory::{AREA, AREA_LEN, SMALL, Slot, Slots, alike, is_huge, range, slot_at};
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
        self.limit_unmapping(mm, &cut);
        self.take_away(mm, &cut);
        self.count(Case::Shrunk);
        let event = told.then(|| Told::Unmap(range(&cut)));
        self.tell(index, event.into_iter().collect(), Then::Return);
    }

    /// More pages at the same place: they are registered, and nothing is told.
    fn grow(&mut self, index: usize, source: &Slots) {
        let mm = self.threads[index].mm;
        let end = self.mapping_around(mm, source.start).end;
        let slots = &self.mms[mm].slots;
        if is_huge(end) || end >= SMALL || slots[end].mapping.is_some() {
            return;
        }
        let Some(mapping) = slots[end - 1].mapping.filter(|it| it.file.is_none()) else {
            return;
        };
        self.limit_growth(mm, end);
        self.mms[mm].slots[end] = Slot {
            unknown: true,
            ..Slot::empty(mapping)
        };
        self.log(|| format!("t{index} grows mm{mm} by {end}"));
        self.count(Case::Grown);
    }

    fn move_away(&mut self, index: usize, source: Slots, keep: bool) {
        let mm = self.threads[index].mm;
        let len = source.len();
        // More pages or fewer, now and then, and most often those that are new are given up again.
        let new = self.mms[mm].slots[source.clone()]
            .iter()
            .filter(|slot| slot.unknown)
            .count();
        let new_len = match self.rng.below(8) {
            0..4 if !keep && new > 0 && new < len => len - new,
            0 if !keep
                && !is_huge(source.start)
                && !self.mms[mm].slots[source.start].is_shared() =>
            {
                len + self.rng.within(1..AREA_LEN)
            }
            1 if !keep && len > 1 => self.rng.within(1..len),
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
        // The kernel likes places that somebody has just left.
        let left = self.just_cut_off(mm).filter(|_| !is_huge(source.start));
        let start = match left {
            Some(slot) if self.rng.one_in(2) => slot.saturating_sub(self.rng.below(AREA_LEN)),
            _ => start,
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

    /// Where a move has cut something off and not told of it yet.
    fn just_cut_off(&self, mm: usize) -> Option<usize> {
        let threads = self.threads.iter().filter(|thread| thread.mm == mm);
        threads
            .filter_map(|thread| match &thread.state {
                State::Telling { events, .. } => events.iter().find_map(|told| match told {
                    Told::Cut { range, .. } => slot_at(range.start),
                    _ => None,
                }),
                _ => None,
            })
            .next()
    }

    fn carry_out(&mut self, index: usize, plan: Plan) {
        let mm = self.threads[index].mm;
        let Plan { from, to, keep } = plan;
        let registered = self.mms[mm].slots[from.start].is_registered();
        let moved = from.start..from.start + from.len().min(to.len());
        self.limit_arrival(mm, &to, false);
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
        let mut unknown = self.take_away(mm, &to).iter().any(|slot| slot.unknown);
        unknown |= self.mms[mm].slots[from.clone()]
            .iter()
            .any(|slot| slot.unknown);
        if registered {
            events.push_back(Told::Remap {
                from: moved.clone(),
                to: to.start..to.start + moved.len(),
                odd: keep || unknown || to.len() != from.len(),
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
            events.push_back(Told::Tail {
                range: range(&moved),
                to: range(&to),
            });
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

    /// A second place of a shared mapping.
    fn duplicate(&mut self, index: usize, source: &Slots) {
        let mm = self.threads[index].mm;
        let all = source.start..self.mapping_around(mm, source.start).end;
        let len = if self.rng.one_in(4) {
            self.rng.within(1..all.len() + 1)
        } else {
            all.len()
        };
        let Some(to) = self.some_place(mm, &all, len) else {
            return;
        };
        self.log(|| format!("t{index} duplicates mm{mm} {source:?} at {to:?}"));
        self.count(Case::Alias);
        self.limit_arrival(mm, &to, true);
        self.limit_alias(mm, source.start, len);
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
