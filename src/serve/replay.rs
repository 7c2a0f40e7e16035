//! What was touched last time, before it is touched again.
//!
//! The pool decodes the frames of a working set in their order, the hottest first, and the loop installs one after the other
//! between turns, so that a fault waits for one frame at most. A fault for a page of a frame that has come is answered from it, and one
//! for a page of a frame that is being decoded waits for that.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::working_set::{Run, WorkingSet};
use snapshot_format::{Error, PAGE_BYTES, PAGE_SIZE, PageNo};

use crate::addr::{Addr, AddrRange};
use crate::session::{Block, Piece, Purpose, Request, SpaceId, What};
use crate::space::{AddressSpace, Kind};

/// Frames that are looked at in one go: when nothing of them is owed any more there is nothing to wait for, and others shall have
/// their turn.
const AT_ONCE: usize = 16;

/// A working set, on its way into the target.
pub(super) struct Replay {
    set: Arc<WorkingSet<File>>,
    places: Places,
    /// The next frame to ask for.
    next: usize,
    /// Pages of huge mappings come as a whole, from the snapshot.
    huge: VecDeque<Request>,
    under_way: Vec<Arc<Plan>>,
    arrived: VecDeque<(Arc<Plan>, Block)>,
    /// Faults that wait for what is under way.
    awaited: Vec<Request>,
    /// Room.
    runs: Vec<Run>,
    began: Instant,
}

/// What a frame has, and where it belongs.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) frame: usize,
    pub(super) pieces: Vec<Piece>,
    /// Where the pieces belong, for each address space that has some of them: nowhere (empty) for those of others.
    places: Vec<(SpaceId, Vec<AddrRange>)>,
}

impl Plan {
    /// Where the pieces belong.
    pub(super) fn places(&self) -> &[(SpaceId, Vec<AddrRange>)] {
        &self.places
    }

    /// Adds a piece behind the others.
    fn push(&mut self, piece: Piece, space: SpaceId, place: AddrRange) {
        let nowhere = AddrRange::at(Addr(0), 0);
        if self.places.iter().all(|(known, _)| *known != space) {
            self.places.push((space, vec![nowhere; self.pieces.len()]));
        }
        for (known, places) in &mut self.places {
            places.push(if *known == space { place } else { nowhere });
        }
        self.pieces.push(piece);
    }

    fn has(&self, page: PageNo) -> bool {
        self.pieces
            .iter()
            .any(|piece| piece.pages.contains(&page.0))
    }
}

/// What there is to decode next.
#[derive(Debug)]
pub(super) enum Planned {
    /// This.
    Frame(Arc<Plan>),
    /// Nothing yet.
    Nothing,
    /// No more.
    End,
}

/// What is known of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// It is here.
    Arrived(usize),
    /// It is being decoded.
    Coming,
    /// It is for others to fetch.
    No,
}

impl Replay {
    /// For these address spaces, as they are now.
    pub(super) fn new<'a>(
        set: Arc<WorkingSet<File>>,
        spaces: impl IntoIterator<Item = (SpaceId, &'a AddressSpace)>,
    ) -> Self {
        let mut places = Places::default();
        for (id, space) in spaces {
            places.add(id, space);
        }
        Self {
            set,
            places,
            next: 0,
            huge: VecDeque::new(),
            under_way: Vec::new(),
            arrived: VecDeque::new(),
            awaited: Vec::new(),
            runs: Vec::new(),
            began: Instant::now(),
        }
    }

    /// Content for a fault: `None` if this has nothing to do with it, `Some(None)` if it will come.
    pub(super) fn fetch(&mut self, request: &Request) -> Option<Option<&Block>> {
        if request.needed > 1 {
            return None;
        }
        match self.knows(request.page) {
            Known::Arrived(index) => self.arrived.get(index).map(|(_, block)| Some(block)),
            Known::Coming => {
                // What comes with it is of the set as well.
                let request = Request {
                    purpose: Purpose::Replay,
                    ..request.clone()
                };
                self.awaited.push(request);
                Some(None)
            }
            Known::No => None,
        }
    }

    fn knows(&self, page: PageNo) -> Known {
        let arrived = self.arrived.iter().position(|(plan, _)| plan.has(page));
        match arrived {
            Some(index) => Known::Arrived(index),
            None if self.under_way.iter().any(|plan| plan.has(page)) => Known::Coming,
            None => Known::No,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.next >= self.set.frames() && self.in_flight() == 0
    }

    /// Frames that are being decoded, or wait to be installed.
    pub(super) fn in_flight(&self) -> usize {
        self.under_way.len() + self.arrived.len()
    }

    /// True when there is something to do without waiting, if so many frames may be in flight.
    pub(super) fn has_work(&self, most: usize) -> bool {
        !self.arrived.is_empty() || (self.next < self.set.frames() && self.in_flight() < most)
    }

    pub(super) fn set(&self) -> Arc<WorkingSet<File>> {
        Arc::clone(&self.set)
    }

    /// Bytes of content in a frame, at most.
    pub(super) fn frame_bytes(&self) -> usize {
        usize::from(self.set.max_frame_pages()) * PAGE_SIZE
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What is to be installed next.
    pub(super) fn next(&mut self) -> Option<(Arc<Plan>, Block)> {
        self.arrived.pop_front()
    }

    /// It could not be installed now.
    pub(super) fn put_back(&mut self, plan: Arc<Plan>, block: Block) {
        self.arrived.push_back((plan, block));
    }

    /// The frame that came last.
    pub(super) fn newest(&self) -> Option<&Block> {
        self.arrived.back().map(|(_, block)| block)
    }

    /// Pages of huge mappings that something was touched of.
    pub(super) fn huge_pages(&mut self) -> impl Iterator<Item = Request> + '_ {
        self.huge.drain(..)
    }

    /// Faults that wait.
    pub(super) fn into_awaited(self) -> Vec<Request> {
        self.awaited
    }

    /// The next frame of which something is still owed, by what `owed` says of an address space.
    pub(super) fn plan_next<'a>(
        &mut self,
        owed: impl Fn(SpaceId) -> Option<&'a AddressSpace>,
    ) -> Result<Planned, Error> {
        for _ in 0..AT_ONCE {
            if self.next >= self.set.frames() {
                return Ok(Planned::End);
            }
            let frame = self.next;
            self.set.runs(frame, &mut self.runs)?;
            self.next += 1;
            let mut plan = Plan {
                frame,
                pieces: Vec::with_capacity(self.runs.len()),
                places: Vec::new(),
            };
            let mut offset = 0;
            for run in &self.runs {
                for (pages, space, at, kind) in self.places.parts(&run.pages) {
                    let place = AddrRange::at(at, (pages.end - pages.start) * PAGE_BYTES);
                    if kind.page_bytes > PAGE_BYTES {
                        push_huge(
                            &mut self.huge,
                            space,
                            (place.start, PageNo(pages.start)),
                            kind,
                        );
                    } else if owed(space).is_some_and(|owed| owed.next_run(place).is_some()) {
                        let skipped = bytes_of(&(run.pages.start..pages.start));
                        let what = if run.zero {
                            What::Zero
                        } else {
                            What::Bytes(offset + skipped)
                        };
                        plan.push(Piece { pages, what }, space, place);
                    }
                }
                if !run.zero {
                    offset += bytes_of(&run.pages);
                }
            }
            if !plan.pieces.is_empty() {
                let plan = Arc::new(plan);
                self.under_way.push(Arc::clone(&plan));
                return Ok(Planned::Frame(plan));
            }
        }
        Ok(Planned::Nothing)
    }

    /// A frame has come. Returns the faults that waited for it.
    pub(super) fn came(&mut self, plan: Arc<Plan>, block: Block) -> Vec<Request> {
        self.under_way.retain(|other| !Arc::ptr_eq(other, &plan));
        let here = self
            .awaited
            .extract_if(.., |request| plan.has(request.page));
        let here = here.collect();
        self.arrived.push_back((plan, block));
        here
    }
}

fn bytes_of(pages: &Range<u64>) -> usize {
    usize::try_from(pages.end - pages.start).unwrap_or(usize::MAX / PAGE_SIZE) * PAGE_SIZE
}

/// Asks for the huge page that some pages lie in, if that has not been done just now.
fn push_huge(huge: &mut VecDeque<Request>, space: SpaceId, place: (Addr, PageNo), kind: Kind) {
    let at = place.0.page(kind.page_bytes);
    let Some(page) = place.1.0.checked_sub(place.0.since(at) / PAGE_BYTES) else {
        return;
    };
    if huge.iter().rev().take(4).any(|other| other.at == at) {
        return;
    }
    let needed = kind.snapshot_pages();
    huge.push_back(Request {
        space,
        at,
        page: PageNo(page),
        needed,
        welcome: page..page + needed,
        crowded: false,
        purpose: Purpose::Replay,
    });
}

/// Where the pages of a snapshot belong, as it was when serving began. What moves afterwards is left to faults.
#[derive(Debug, Default)]
struct Places(BTreeMap<u64, Place>);

/// Where consecutive pages belong.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// One past the last of them.
    end: u64,
    space: SpaceId,
    at: Addr,
    kind: Kind,
}

impl Places {
    fn add(&mut self, id: SpaceId, space: &AddressSpace) {
        let mut rest = AddrRange::new(0, u64::MAX);
        while let Some((run, first)) = space.next_run(rest) {
            rest.start = run.end;
            let Some(kind) = space.kind_at(run.start) else {
                continue;
            };
            // Of shared memory that is mapped twice the first mapping does for both.
            let end = first.0 + run.len() / PAGE_BYTES;
            if self.parts(&(first.0..end)).next().is_none() {
                let place = Place {
                    end,
                    space: id,
                    at: run.start,
                    kind,
                };
                self.0.insert(first.0, place);
            }
        }
    }

    /// The parts of some pages that have a place, in order.
    fn parts(
        &self,
        pages: &Range<u64>,
    ) -> impl Iterator<Item = (Range<u64>, SpaceId, Addr, Kind)> + '_ {
        let (start, end) = (pages.start, pages.end);
        let first = self
            .0
            .range(..=start)
            .next_back()
            .map_or(start, |(&first, _)| first);
        self.0
            .range(first..end.max(first))
            .filter_map(move |(&first, place)| {
                let part = first.max(start)..place.end.min(end);
                let at = place.at.plus(part.start.saturating_sub(first) * PAGE_BYTES);
                (part.start < part.end).then_some((part, place.space, at, place.kind))
            })
    }
}

#[cfg(test)]
mod tests;
