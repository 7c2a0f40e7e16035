//! Many threads at the same pages.

use std::sync::Barrier;

use crate::memory::{Dice, Memory};
use crate::scene::{Captured, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("together", together)];

const THREADS: usize = 32;
const PAGES: usize = 1024;

/// All threads look at the same page at the same moment, and all at all pages.
fn together(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    let order = Dice::new(1).shuffled(PAGES);
    let barrier = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for pages in order.chunks(16) {
                    barrier.wait();
                    pages.iter().for_each(|&page| memory.check(page));
                }
            });
        }
    });
    say("right");
    end();
}

#[test]
fn thirty_two_threads_at_the_same_pages() {
    let done = Captured::new("together", "").restore(&[]).finish();
    assert_eq!(done.all_pages(), PAGES as u64, "{done:?}");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
    assert!(
        done.faults() > PAGES as u64 * 3 / 2,
        "several threads waited for a page: {done:?}"
    );
}
