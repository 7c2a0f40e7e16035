//! A balloon and the guest's processors at once.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::memory::Guest;

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).expect("31 bits") % end
    }
}

/// The balloon goes once through memory, and leaves some out. Around the place where it is, processors touch pages: they
/// see what was there until the page is removed, and zeros from then on.
pub fn run(guest: &Guest, seed: u64, processors: usize) -> Result<(), String> {
    let place = AtomicUsize::new(0);
    let over: Vec<AtomicBool> = (0..guest.pages()).map(|_| AtomicBool::new(false)).collect();
    let done = AtomicBool::new(false);
    let wrong = Mutex::new(None);
    let complain = |what: String| {
        *wrong.lock().expect("no panics") = Some(what);
        done.store(true, Ordering::SeqCst);
    };
    let look = |page: usize| {
        let over = over[page].load(Ordering::SeqCst);
        if let Err(what) = guest.check_removed(page, over) {
            complain(format!("seed {seed}: {what}"));
        }
    };
    thread::scope(|scope| {
        for processor in 0..processors {
            let mut dice = Dice::new(seed * 100 + processor as u64);
            let (place, done, look) = (&place, &done, &look);
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    let page = place.load(Ordering::SeqCst) + dice.below(24);
                    look(page.saturating_sub(6).min(guest.pages() - 1));
                }
            });
        }
        let mut dice = Dice::new(seed);
        while !done.load(Ordering::SeqCst) {
            let first = place.load(Ordering::SeqCst);
            let pages = (1 + dice.below(12)).min(guest.pages() - first);
            if dice.below(4) > 0 {
                if let Err(errno) = guest.remove(first, pages) {
                    complain(format!("madvise: {errno}"));
                }
                let removed = first..first + pages;
                over[removed.clone()]
                    .iter()
                    .for_each(|page| page.store(true, Ordering::SeqCst));
                removed.for_each(look);
            }
            let next = first + pages;
            if next == guest.pages() {
                done.store(true, Ordering::SeqCst);
            } else {
                place.store(next, Ordering::SeqCst);
            }
        }
    });
    wrong.into_inner().expect("no panics").map_or(Ok(()), Err)
}

/// One processor touches all of memory from the start, and the balloon removes it page by page from the end, until
/// everything has been touched; so one of them has the last page that is owed.
pub fn sweep(guest: &Guest) -> Result<(), String> {
    let touched = AtomicBool::new(false);
    thread::scope(|scope| {
        let balloon = scope.spawn(|| -> Result<(), String> {
            let mut page = guest.pages();
            while page > 0 && (!touched.load(Ordering::SeqCst) || !page.is_multiple_of(8)) {
                page -= 1;
                guest
                    .remove(page, 1)
                    .map_err(|errno| format!("madvise: {errno}"))?;
                guest.check_removed(page, true)?;
            }
            Ok(())
        });
        for page in 0..guest.pages() {
            guest.check_removed(page, false)?;
        }
        touched.store(true, Ordering::SeqCst);
        balloon.join().expect("a thread")
    })
}
