//! Decoded frames, shared by all who read the same snapshot.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use snapshot_format::FrameRef;

/// Frames that are passed over at most before one goes that was used all the same: bounds how long the lock is held.
const CHANCES: usize = 64;

/// A frame's content, or why it cannot be had.
pub(super) type Decoded = Result<Arc<[u8]>, String>;

/// Decoded frames for many readers. A frame that several want at the same time is decoded by the first of them, and the others
/// wait for it; what has been decoded is kept while there is room. A failure is told to those who waited and then forgotten.
///
/// The limit is on the bytes of content that the cache keeps. It does not cover what readers are using at the moment, a frame
/// each at most, nor the cache's own records, about 200 bytes per frame.
#[derive(Debug)]
pub struct FrameCache {
    limit: u64,
    sources: AtomicU64,
    /// Held for a look-up or a change, never while a frame is decoded.
    state: Mutex<State>,
}

/// What a cache has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Frames that were decoded, or could not be: also beside the cache, while nobody wanted what is kept.
    pub decodes: u64,
    /// Times that a kept frame was used.
    pub hits: u64,
    /// Times that somebody waited for a frame that another was decoding.
    pub waits: u64,
    /// Frames that made room for others.
    pub evictions: u64,
    /// Frames that are kept now.
    pub frames: u64,
    /// Bytes of content that are kept now.
    pub bytes: u64,
}

/// A frame of one of the snapshots that use a cache. All of the reference belongs to it: a damaged index may have two for the
/// same offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FrameKey {
    pub(super) source: u64,
    pub(super) frame: FrameRef,
}

#[derive(Debug, Default)]
struct State {
    frames: HashMap<FrameKey, Slot>,
    /// The kept ones, the next to go in front. One that was used since it came here goes round once more.
    queue: VecDeque<FrameKey>,
    counts: CacheCounts,
}

#[derive(Debug)]
enum Slot {
    Decoding(Arc<Flight>),
    Kept { content: Arc<[u8]>, used: bool },
}

/// A frame that is being decoded, for those who wait.
#[derive(Debug, Default)]
struct Flight {
    landed: Mutex<Landing>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Landing {
    decoded: Option<Decoded>,
    /// Waking nobody costs a system call.
    waiting: bool,
}

impl FrameCache {
    /// A cache that keeps at most `limit` bytes of decoded frames. With 0 it keeps nothing, and a frame is still decoded once for
    /// all who want it at the same time.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            sources: AtomicU64::new(0),
            state: Mutex::default(),
        }
    }

    /// What it has done so far, and keeps now.
    pub fn counts(&self) -> CacheCounts {
        self.lock().counts
    }

    /// A number for a snapshot whose frames are to be kept here. Its id will not do: files with the same id may differ.
    pub(super) fn new_source(&self) -> u64 {
        self.sources.fetch_add(1, Ordering::Relaxed)
    }

    /// The content of a frame: kept, or by `decode`, or by somebody else who is just decoding it.
    pub(super) fn get(&self, key: FrameKey, decode: impl FnOnce() -> Decoded) -> Decoded {
        let flight = {
            let mut state = self.lock();
            let State { frames, counts, .. } = &mut *state;
            match frames.entry(key) {
                Entry::Occupied(mut slot) => match slot.get_mut() {
                    Slot::Kept { content, used } => {
                        counts.hits += 1;
                        *used = true;
                        return Ok(Arc::clone(content));
                    }
                    Slot::Decoding(flight) => {
                        counts.waits += 1;
                        let flight = Arc::clone(flight);
                        drop(state);
                        return flight.wait();
                    }
                },
                Entry::Vacant(slot) => {
                    counts.decodes += 1;
                    let flight = Arc::new(Flight::default());
                    slot.insert(Slot::Decoding(Arc::clone(&flight)));
                    flight
                }
            }
        };
        let mut duty = Duty {
            cache: self,
            key,
            flight,
            decoded: None,
        };
        let decoded = decode();
        duty.decoded = Some(decoded.clone());
        decoded
    }

    /// A frame was decoded, or could not be, that nobody else wants.
    pub(super) fn note_beside(&self) {
        self.lock().counts.decodes += 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// Keeps a frame that has been decoded, if it is to be kept, in place of others.
    fn keep(&mut self, key: FrameKey, content: &Arc<[u8]>, limit: u64) {
        let len = content.len() as u64;
        if len > limit {
            self.frames.remove(&key);
            return;
        }
        while self.counts.bytes + len > limit && self.evict() {}
        let content = Arc::clone(content);
        self.frames.insert(
            key,
            Slot::Kept {
                content,
                used: false,
            },
        );
        self.queue.push_back(key);
        self.counts.bytes += len;
        self.counts.frames += 1;
    }

    /// Lets a frame go that has not been used for long. False if there is none.
    fn evict(&mut self) -> bool {
        let mut chances = CHANCES;
        while let Some(key) = self.queue.pop_front() {
            match self.frames.get_mut(&key) {
                Some(Slot::Kept { used, .. }) if *used && chances > 0 => {
                    chances -= 1;
                    *used = false;
                    self.queue.push_back(key);
                }
                _ => {
                    if let Some(Slot::Kept { content, .. }) = self.frames.remove(&key) {
                        self.counts.bytes -= content.len() as u64;
                        self.counts.frames -= 1;
                        self.counts.evictions += 1;
                    }
                    return true;
                }
            }
        }
        false
    }
}

/// Whoever decodes a frame owes the result to those who wait, even when it ends by a panic.
struct Duty<'a> {
    cache: &'a FrameCache,
    key: FrameKey,
    flight: Arc<Flight>,
    decoded: Option<Decoded>,
}

impl Drop for Duty<'_> {
    fn drop(&mut self) {
        let decoded = self
            .decoded
            .take()
            .unwrap_or_else(|| Err("this program failed to decode it (please report it)".into()));
        // Told first: whatever happens below, nobody waits for ever. Who comes in between is told at once.
        let mut landed = lock(&self.flight.landed);
        landed.decoded = Some(decoded.clone());
        if landed.waiting {
            self.flight.bell.notify_all();
        }
        drop(landed);
        let mut state = self.cache.lock();
        match &decoded {
            Ok(content) => state.keep(self.key, content, self.cache.limit),
            // Not kept: it may have been the storage, and be better next time.
            Err(_) => {
                state.frames.remove(&self.key);
            }
        }
    }
}

impl Flight {
    fn wait(&self) -> Decoded {
        let mut landed = lock(&self.landed);
        loop {
            if let Some(decoded) = &landed.decoded {
                return decoded.clone();
            }
            landed.waiting = true;
            landed = self
                .bell
                .wait(landed)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Nothing panics while it holds one of the locks and has changed half of something.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
