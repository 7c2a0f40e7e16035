//! An allocator that counts. What C libraries allocate (zstd) is not seen.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(len: usize) {
    CALLS.fetch_add(1, Relaxed);
    let now = NOW.fetch_add(len, Relaxed) + len;
    PEAK.fetch_max(now, Relaxed);
}

#[expect(
    unsafe_code,
    reason = "an allocator is the one way to count allocations"
)]
// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller's promise is the one that is asked for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `pointer` came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What was allocated while something ran.
#[derive(Debug)]
pub(crate) struct Allocated {
    pub(crate) calls: usize,
    /// Most bytes at a time, beyond those at the start.
    pub(crate) peak: usize,
}

/// One measurement at a time: the counters are the process's.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Run, and say what was allocated on all threads meanwhile. Call it while [`alone`].
pub(crate) fn allocated<T>(run: impl FnOnce() -> T) -> (T, Allocated) {
    let (calls, start) = (CALLS.load(Relaxed), NOW.load(Relaxed));
    PEAK.store(start, Relaxed);
    let result = run();
    let allocated = Allocated {
        calls: CALLS.load(Relaxed) - calls,
        peak: PEAK.load(Relaxed).saturating_sub(start),
    };
    (result, allocated)
}
