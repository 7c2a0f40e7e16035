//! Where a fault's content comes from: this thread, or the others.

use std::time::{Duration, Instant};

use super::pool::{self, Pool, Work};
use super::replay::Replay;
use crate::session::{Block, Request, Supplier};
use crate::source::{PageReader, PageSource};

/// Pages of a frame that are decoded at once rather than by another thread: waking it costs as much as 64 KiB of decoding.
const INLINE_PAGES: u64 = 16;

/// Pages of a frame that are decoded at once although others wait: handing them over, and being woken for them, takes longer.
const INLINE_IN_A_CROWD: u64 = 4;
/// What takes longer than this came from a disk, not from memory: then others shall not wait for it.
const FROM_A_DISK: Duration = Duration::from_micros(100);
/// Pages that go to the pool after one that came from a disk, before one is tried here again.
const ELSEWHERE: u32 = 64;

/// Content for faults. A lone fault is decoded here and now; when several wait, all but the last go to the pool, if frames are large or come
/// from a disk.
pub(super) struct Supply {
    reader: Box<dyn PageReader>,
    block: Block,
    /// So many pages go to the pool when several wait.
    elsewhere: u32,
    /// Pages that cost as much to decode as one of them.
    pub(super) granularity: u64,
    pub(super) pool: Pool,
    /// What was touched last time is on its way.
    pub(super) replay: Option<Replay>,
}

impl Supply {
    pub(super) fn new(source: &dyn PageSource, pool: Pool) -> Self {
        Self {
            reader: source.reader(),
            block: Block::default(),
            elsewhere: 0,
            granularity: source.granularity(),
            pool,
            replay: None,
        }
    }
}

impl Supplier for Supply {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        if let Some(found) = self
            .replay
            .as_mut()
            .and_then(|replay| replay.fetch(request))
        {
            return found;
        }
        let pages = self.granularity.max(request.needed);
        let elsewhere = if request.crowded && pages <= INLINE_PAGES {
            pages > INLINE_IN_A_CROWD || self.elsewhere > 0
        } else {
            pages > INLINE_PAGES
        };
        if elsewhere && self.pool.ask(Work::Demand(request.clone())) {
            self.elsewhere = self.elsewhere.saturating_sub(1);
            return None;
        }
        let begun = request.crowded.then(Instant::now);
        pool::read(&mut *self.reader, request, &mut self.block);
        if begun.is_some_and(|begun| begun.elapsed() > FROM_A_DISK) {
            self.elsewhere = ELSEWHERE;
        }
        Some(&self.block)
    }
}
