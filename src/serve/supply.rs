//! Where a fault's content comes from: this thread, or the others.

use std::time::{Duration, Instant};

use super::pool::{self, Pool, Work};
use super::replay::Replay;
use crate::session::{Block, Request, Supplier, What};
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
    /// Pages that come with a wanted one for nothing.
    pub(super) around: u64,
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
            around: source.around(),
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
        if has(&self.block, request) {
            return Some(&self.block);
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

/// True if what is wanted was decoded last: the kernel has refused it, and it is not to be decoded again for each try.
fn has(block: &Block, request: &Request) -> bool {
    block.piece_of(request.page).is_some_and(|piece| {
        let good = !matches!(piece.what, What::Bad(_));
        good && request.page.0 + request.needed <= piece.pages.end
    })
}

#[cfg(test)]
mod tests {
    use std::ops::Range;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use snapshot_format::{PAGE_SIZE, PageNo};

    use super::super::pool::Workers;
    use super::*;
    use crate::addr::Addr;
    use crate::session::{Purpose, SpaceId};

    /// Counts how often it is read. Pages from 100 on are bad.
    struct Counting(Arc<AtomicUsize>);

    impl PageSource for Counting {
        fn reader(&self) -> Box<dyn PageReader> {
            Box::new(Self(Arc::clone(&self.0)))
        }
        fn granularity(&self) -> u64 {
            1
        }
    }

    impl PageReader for Counting {
        fn read(&mut self, page: PageNo, _: u64, _: &Range<u64>, block: &mut Block) {
            self.0.fetch_add(1, Ordering::Relaxed);
            block.clear();
            block.bytes.resize(PAGE_SIZE, 1);
            let what = match page.0 {
                0..100 => What::Bytes(0),
                _ => What::Bad("bad".into()),
            };
            block.push(page.0, what);
        }
        fn read_all(&mut self, _: &Range<u64>, _: &mut Block) {}
    }

    fn request(page: u64) -> Request {
        Request {
            space: SpaceId(0),
            at: Addr(page * 4096),
            page: PageNo(page),
            needed: 1,
            welcome: page..page + 1,
            crowded: true,
            purpose: Purpose::Neighbours,
        }
    }

    #[test]
    fn what_was_refused_is_not_decoded_again() {
        let reads = Arc::new(AtomicUsize::new(0));
        let source = Counting(Arc::clone(&reads));
        let workers = Workers::start(&source, 0).expect("no threads");
        let pool = Pool::of(workers).expect("a bell");
        let mut supply = Supply::new(&source, pool);
        let mut reads_for = |page| {
            let before = reads.load(Ordering::Relaxed);
            for _ in 0..3 {
                let found = supply.fetch(&request(page)).expect("at once");
                assert!(found.piece_of(PageNo(page)).is_some());
            }
            reads.load(Ordering::Relaxed) - before
        };
        assert_eq!(reads_for(7), 1);
        assert_eq!(reads_for(8), 1);
        assert_eq!(reads_for(100), 3, "what is bad may be better the next time");
    }
}
