//! Nothing is allocated for a fault: a counting allocator around the rules, a snapshot on a disk and an address space that accepts everything.
//! A test binary of its own, with one test, for its allocator counts for all threads.
#![expect(unsafe_code, reason = "an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs::File;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use snapshot_format::{
    Codec, Compression, Metadata, PAGE_BYTES, PAGE_SIZE, PageNo, PageSize, Protection, Region,
    RegionKind, Snapshot, SnapshotId, Writer, WriterOptions,
};
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::session::{Block, Installer, OnFailure, Request, Session, Supplier};
use uffd_restore::source::{FrameCache, PageReader, PageSource, SnapshotSource};
use uffd_restore::space::{AddressSpace, Kind};
use uffd_restore::uffd::{Fault, Inbox, Message, Outcome, Put, ReadError, Receipt, Stop};

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Counting;

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: see above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: see above.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

const START: u64 = 0x7000_0000_0000;
const PAGES: u64 = 1 << 14;

/// A kernel in which every install succeeds, and which says what it is told to.
struct Obliging(Vec<Message>);

impl Installer for Obliging {
    fn read(&mut self, inbox: &Inbox) -> Result<usize, ReadError> {
        let messages = self.0.drain(..).enumerate();
        Ok(messages
            .map(|(cell, message)| inbox.put(cell, &message))
            .count())
    }

    fn number(&self) -> RawFd {
        0
    }

    fn install(&mut self, range: AddrRange, _: Put<'_>, _: &Receipt) -> Outcome {
        Outcome::complete(range.len())
    }

    fn wake(&mut self, _: AddrRange) {}

    fn probe(&mut self, _: Addr, _: u64) -> Option<Stop> {
        Some(Stop::Unmapped)
    }

    fn of_child(&mut self, _: RawFd) -> Self {
        Self(Vec::new())
    }
}

/// What the loop does with a lone fault.
struct Inline {
    reader: Box<dyn PageReader>,
    block: Block,
}

impl Supplier for Inline {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        let block = &mut self.block;
        self.reader
            .read(request.page, request.needed, &request.welcome, block);
        Some(block)
    }
}

fn snapshot(codec: Codec, frame_pages: u16) -> Arc<Snapshot<File>> {
    let options = WriterOptions {
        compression: Compression {
            codec,
            level: 3,
            frame_pages,
        },
        ..WriterOptions::default()
    };
    let file = tempfile::tempfile().expect("a file");
    let mut writer = Writer::new(file, options).expect("a writer");
    let protection = Protection {
        read: true,
        write: true,
        exec: false,
    };
    let region = Region {
        start: START,
        len: PAGES * PAGE_BYTES,
        offset: 0,
        protection,
        kind: RegionKind::Private,
        shared: false,
        page_size: PageSize::Small,
        name: String::new(),
    };
    writer.begin_region(region).expect("a region");
    for page in 0..PAGES {
        // Every eighth block is of zeros.
        if page / u64::from(frame_pages) % 8 == 6 {
            writer.zeros(1).expect("zeros");
            continue;
        }
        let room = writer.space().expect("room");
        for (at, byte) in room[..PAGE_SIZE].iter_mut().enumerate() {
            *byte = (at as u64 / 64 * (page + 1)).to_le_bytes()[0];
        }
        writer.commit(1).expect("a page");
    }
    let id = SnapshotId([7; 16]);
    let (file, _) = writer.finish(id, &Metadata::default()).expect("an end");
    Arc::new(Snapshot::open(file).expect("a snapshot"))
}

/// The allocations of faults in one half of the blocks, after those in the other; and how many they were.
fn allocations(source: &dyn PageSource, block: u64, at_once: u64) -> (u64, u64) {
    let mut space = AddressSpace::new();
    let all = AddrRange::at(Addr(START), PAGES * PAGE_BYTES);
    space.register(all, Kind::PRIVATE);
    // In as many pieces as there can be: where a whole is cut, the map of what is owed grows, a node for about six pieces.
    for first in (0..PAGES).step_by(2 * usize::try_from(block).expect("few")) {
        let piece = AddrRange::at(Addr(START + first * PAGE_BYTES), block * PAGE_BYTES);
        space.owe(piece, PageNo(first));
    }
    // Without read-ahead: what is fetched ahead of somebody is a request of its own.
    let mut session = Session::new(OnFailure::Poison);
    let id = session.add(Obliging(Vec::with_capacity(64)), space);
    let mut supply = Inline {
        reader: source.reader(),
        block: Block::default(),
    };
    let (mut before, mut faults) = (0, 0);
    // All over the memory: 1031 has no divisor in common with the number of pages.
    let blocks = PAGES / (2 * block);
    let mut pages = (0..blocks)
        .map(|number| number * 1031 % blocks * 2 * block)
        .peekable();
    let mut number = 0;
    while pages.peek().is_some() {
        if number >= blocks / 2 && before == 0 {
            (before, faults) = (ALLOCATIONS.load(Ordering::Relaxed), 0);
        }
        let kernel = session.installer_mut(id).expect("it exists");
        for page in pages.by_ref().take(usize::try_from(at_once).expect("few")) {
            kernel.0.push(Message::Fault(Fault {
                address: Addr(START + page * PAGE_BYTES),
                thread: 1,
                ..Fault::default()
            }));
            (number, faults) = (number + 1, faults + 1);
        }
        session.turn(id, &mut supply, Instant::now());
        session.notices();
        session.ahead();
    }
    (ALLOCATIONS.load(Ordering::Relaxed) - before, faults)
}

#[test]
fn a_fault_allocates_nothing() {
    for codec in [Codec::Lz4, Codec::Zstd, Codec::Stored] {
        for frame_pages in [1, 4, 16] {
            let snapshot = snapshot(codec, frame_pages);
            for at_once in [1, 8] {
                let source = SnapshotSource::new(Arc::clone(&snapshot));
                let (allocated, faults) = allocations(&source, frame_pages.into(), at_once);
                assert!(faults >= 64, "{faults}");
                // What is owed is a tree, and to cut a piece may take a new node of it, now and then.
                let nodes = if frame_pages == 1 { 0 } else { faults / 8 };
                assert!(
                    allocated <= nodes,
                    "{allocated} for {faults} faults, {at_once} at once: {codec}, {frame_pages} pages"
                );
            }
        }
    }
    // What a cache keeps is allocated once: for the second of two targets nothing is.
    let cache = Arc::new(FrameCache::new(1 << 30));
    let shared = SnapshotSource::with_cache(snapshot(Codec::Zstd, 1), cache);
    allocations(&shared, 1, 1);
    assert_eq!(allocations(&shared, 1, 1).0, 0, "from a cache");
}
