//! Where a fault's content comes from: this thread, or the others.

use super::pool::{self, Pool, Purpose};
use crate::session::{Block, Request, Supplier};
use crate::source::{PageReader, PageSource};

/// Pages of a frame that are decoded at once rather than by another thread: waking it costs as much as 64 KiB of decoding.
const INLINE_PAGES: u64 = 16;

/// Content for faults. A lone fault is decoded here and now; when several wait, all but the last go to the pool.
pub(super) struct Supply {
    reader: Box<dyn PageReader>,
    block: Block,
    /// Pages that cost as much to decode as one of them.
    pub(super) granularity: u64,
    pub(super) pool: Pool,
}

impl Supply {
    pub(super) fn new(source: &dyn PageSource, pool: Pool) -> Self {
        Self {
            reader: source.reader(),
            block: Block::default(),
            granularity: source.granularity(),
            pool,
        }
    }
}

impl Supplier for Supply {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        let elsewhere = request.crowded || self.granularity.max(request.needed) > INLINE_PAGES;
        if elsewhere && self.pool.ask(request.clone(), Purpose::Demand) {
            return None;
        }
        pool::read(&mut *self.reader, request, Purpose::Demand, &mut self.block);
        Some(&self.block)
    }
}
