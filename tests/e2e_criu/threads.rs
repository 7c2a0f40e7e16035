//! A process with threads and much memory. All of it is looked at, and written to meanwhile, in an order that nobody can foresee.

use std::path::Path;

use super::board::{Board, Slot};
use super::case::Case;
use super::memory::{MIB, Memory, Page, WORDS, mix};

pub(crate) const THREADS: u64 = 6;
pub(crate) const PAGES_OF_A_MIB: u64 = MIB / super::memory::PAGE;
/// Words of a page that stay as they were, and those that are written to by one of the threads.
const KEPT: std::ops::Range<usize> = 0..WORDS / 2;
const WRITTEN: std::ops::Range<usize> = WORDS / 2..WORDS;
const OLD: u64 = 0x01d;
const NEW: u64 = 0x2e3;

/// What is in a page before the dump.
#[derive(PartialEq, Eq)]
enum Page0 {
    /// Nothing was ever written there.
    Untouched,
    Zeros,
    Content,
}

fn before(number: u64) -> Page0 {
    match number % 16 {
        3 | 4 => Page0::Untouched,
        9 => Page0::Zeros,
        _ => Page0::Content,
    }
}

/// The words: the board, and how many MiB.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(words[1].parse::<u64>().expect("MiB") * MIB);
    for number in 0..memory.pages() {
        let page = memory.page(number);
        match before(number) {
            Page0::Untouched => {}
            Page0::Zeros => page.clear(),
            Page0::Content => page.fill(page.key(OLD), 0..WORDS),
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(board, memory, thread));
        }
        board.announce();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
}

fn work(board: Board, memory: Memory, thread: u64) {
    board.wait_for_go();
    let pages = memory.pages();
    // Each thread has an order of its own: as many pages as a power of two, and steps of an odd number of pages.
    let (first, step) = (mix(thread) % pages, (mix(thread + 100) % pages) | 1);
    let order = |round: u64| (first + round.wrapping_mul(step)) % pages;
    // Every page has its thread, and three others that look at it meanwhile.
    let looks = |number: u64| number % THREADS == thread || number % 2 == thread % 2;
    for number in (0..pages).map(order).filter(|&number| looks(number)) {
        visit(board, memory.page(number), number, thread);
    }
    board.add(Slot::Step, 1);
    while board.get(Slot::Step) < THREADS {
        std::thread::yield_now();
    }
    let looks = |number: u64| (number + 1) % THREADS == thread;
    for number in (0..pages).map(order).filter(|&number| looks(number)) {
        let page = memory.page(number);
        board.note(kept(page, number));
        board.note(page.holds(page.key(NEW), WRITTEN));
    }
    board.done();
}

fn kept(page: Page, number: u64) -> Result<(), super::board::Wrong> {
    match before(number) {
        Page0::Content => page.holds(page.key(OLD), KEPT),
        Page0::Untouched | Page0::Zeros => page.is_zero(KEPT),
    }
}

/// The first half of a page is looked at by several threads; the other by one only, which then writes to it.
fn visit(board: Board, page: Page, number: u64, thread: u64) {
    let mine = number % THREADS == thread;
    if mine && mix(number).is_multiple_of(2) {
        // To write may be the first thing that anybody does there.
        page.fill(page.key(NEW), WRITTEN);
    } else if mine {
        board.note(match before(number) {
            Page0::Content => page.holds(page.key(OLD), WRITTEN),
            Page0::Untouched | Page0::Zeros => page.is_zero(WRITTEN),
        });
        page.fill(page.key(NEW), WRITTEN);
    }
    board.note(kept(page, number));
}

#[test]
fn every_page_of_many_threads_is_right_and_can_be_written_to() {
    let mib = 256;
    let Some(mut case) = Case::start("threads", &mib.to_string(), 1) else {
        return;
    };
    let pages = mib * PAGES_OF_A_MIB;
    case.in_all_ways(|run| {
        run.go(THREADS);
        run.board().assert_right(THREADS / 2 * pages + 2 * pages);
        let done = run.complete();
        done.require("/faults", run.fill.certain(1000));
        done.require("/pages/demand", run.fill.certain(1000));
    });
}
