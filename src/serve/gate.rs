//! When others may install beside the loop: never while it reads events, or decides what they mean.
//!
//! Whoever installs goes in for one slice at a time. The loop closes the gate before it reads anything, waits until nobody is inside, and opens it when
//! everything that was read has been applied. So for the rules all that others install happens between two turns, as if the loop had done it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The rest of the word is how many are inside.
const CLOSED: usize = 1 << (usize::BITS - 1);
/// How often to look before doing something else: some 50 µs, longer than a slice takes, or the answer to a fault. Being woken costs more, and a core that
/// is left idle meanwhile attracts whoever is answered.
const LOOKS: u32 = 2000;
/// How often to give way before sleeping: who is inside may wait for this core.
const YIELDS: u32 = 20;
const NAP: Duration = Duration::from_micros(50);

/// Most bytes of a slice: about 20 µs, and a fault waits for the end of it.
const SLICE: usize = 64 << 10;
/// The same while the target asks.
const SHORT_SLICE: usize = 16 << 10;

/// See above. Made closed.
#[derive(Debug)]
pub(super) struct Gate {
    state: AtomicUsize,
    /// Those that sleep until it is open.
    asleep: AtomicUsize,
    lock: Mutex<()>,
    opened: Condvar,
    /// The target asks.
    asked: AtomicBool,
    /// The core that is for the loop and whoever it answers, plus one; 0 if there is none.
    core: AtomicUsize,
}

/// Somebody is inside.
#[derive(Debug)]
pub(super) struct Inside<'a>(&'a Gate);

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicUsize::new(CLOSED),
            asleep: AtomicUsize::new(0),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            asked: AtomicBool::new(false),
            core: AtomicUsize::new(0),
        }
    }

    /// Goes in, as soon as it is open. There must be somebody who will open it.
    pub(super) fn enter(&self) -> Inside<'_> {
        let mut looks = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & CLOSED == 0 {
                let inside = self.state.compare_exchange_weak(
                    state,
                    state + 1,
                    Ordering::SeqCst,
                    Ordering::Relaxed,
                );
                if inside.is_ok() {
                    return Inside(self);
                }
            } else if looks < LOOKS {
                looks += 1;
                std::hint::spin_loop();
            } else {
                self.sleep();
            }
        }
    }

    fn sleep(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        while self.state.load(Ordering::SeqCst) & CLOSED != 0 {
            guard = self
                .opened
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        self.asleep.fetch_sub(1, Ordering::SeqCst);
    }

    /// Nobody is inside when this returns, and nobody goes in before it is open.
    pub(super) fn close(&self) {
        let mut inside = self.state.fetch_or(CLOSED, Ordering::SeqCst);
        let mut looks = 0;
        while inside & !CLOSED != 0 {
            match looks {
                0..LOOKS => std::hint::spin_loop(),
                LOOKS.. if looks < LOOKS + YIELDS => thread::yield_now(),
                _ => thread::sleep(NAP),
            }
            looks += 1;
            inside = self.state.load(Ordering::SeqCst);
        }
    }

    /// Lets others in.
    pub(super) fn open(&self) {
        self.state.fetch_and(!CLOSED, Ordering::SeqCst);
        // Who falls asleep after that sees that it is open.
        if self.asleep.load(Ordering::SeqCst) > 0 {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.opened.notify_all();
        }
    }

    /// Those who install are to run elsewhere.
    pub(super) fn keep_off(&self, core: Option<usize>) {
        self.core
            .store(core.map_or(0, |core| core + 1), Ordering::Relaxed);
    }

    /// Where not to run.
    pub(super) fn kept_off(&self) -> Option<usize> {
        self.core.load(Ordering::Relaxed).checked_sub(1)
    }

    /// From now on the target asks, or does so no longer.
    pub(super) fn set_asked(&self, asked: bool) {
        self.asked.store(asked, Ordering::Relaxed);
    }

    /// True while the target asks.
    pub(super) fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Most bytes of a slice now: as long as that takes, whoever closes the gate waits.
    pub(super) fn slice(&self) -> usize {
        if self.is_asked() { SHORT_SLICE } else { SLICE }
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn nobody_is_inside_while_it_is_closed() {
        let (gate, over) = (Gate::new(), AtomicBool::new(false));
        let (inside, entries) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        let within = gate.enter();
                        inside.fetch_add(1, Ordering::SeqCst);
                        entries.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(within);
                    }
                });
            }
            for round in 0..2000_u64 {
                gate.open();
                if round % 16 == 0 {
                    thread::sleep(Duration::from_micros(round % 128));
                }
                gate.close();
                assert_eq!(inside.load(Ordering::SeqCst), 0);
                let before = entries.load(Ordering::SeqCst);
                if round % 64 == 0 {
                    // Long enough for those who look to fall asleep.
                    thread::sleep(Duration::from_micros(200));
                }
                assert_eq!(entries.load(Ordering::SeqCst), before);
            }
            over.store(true, Ordering::SeqCst);
            gate.open();
        });
        assert!(entries.load(Ordering::SeqCst) > 100, "they did go in");
    }
}
