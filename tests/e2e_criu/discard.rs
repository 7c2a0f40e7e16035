//! A process that drops 3 GiB, and unmaps 3 GiB, with pages here and there in them, while its memory is filled. CRIU's own daemon
//! loses that, and goes on for ever.

use std::path::Path;

use super::board::{Board, Slot};
use super::case::Case;
use super::memory::{GIB, MIB, Memory, PAGE, WORDS, mix};

/// Too much for a number of 31 bits, and for one of 32.
const DISCARDED: u64 = 3 * GIB;
/// What stays, behind it.
const TAIL: u64 = 16 * MIB;
const OTHER: u64 = 64 * MIB;
const OLD: u64 = 1;
const NEW: u64 = 2;
pub(crate) const THREADS: u64 = 3;

/// The pages that are there, of the part that will be dropped: four in each MiB.
fn sparse() -> impl Iterator<Item = u64> {
    (0..DISCARDED / MIB).flat_map(|mib| {
        let first = mib * (MIB / PAGE) + mix(mib) % 200;
        first..first + 4
    })
}

fn tail() -> std::ops::Range<u64> {
    DISCARDED / PAGE..(DISCARDED + TAIL) / PAGE
}

fn fill(memory: Memory, pages: impl Iterator<Item = u64>, tag: u64) {
    for number in pages {
        let page = memory.page(number);
        page.fill(page.key(tag), 0..WORDS);
    }
}

fn look(board: Board, memory: Memory, pages: impl Iterator<Item = u64>, tag: u64) {
    for number in pages {
        let page = memory.page(number);
        board.note(page.holds(page.key(tag), 0..WORDS));
    }
}

fn look_for_zeros(board: Board, memory: Memory, pages: impl Iterator<Item = u64>) {
    for number in pages {
        board.note(memory.page(number).is_zero(0..WORDS));
    }
}

/// The words: the board.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let [dropped, unmapped] = [(); 2].map(|()| {
        let memory = Memory::new(DISCARDED + TAIL);
        fill(memory, sparse().chain(tail()), OLD);
        memory
    });
    let other = Memory::new(OTHER);
    fill(other, 0..other.pages(), OLD);
    std::thread::scope(|scope| {
        scope.spawn(move || drop_it(board, dropped));
        scope.spawn(move || unmap_it(board, unmapped));
        scope.spawn(move || look_elsewhere(board, other));
        board.announce();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
}

fn drop_it(board: Board, memory: Memory) {
    board.wait_for_go();
    look(board, memory, sparse().take(8), OLD);
    memory.advise(0, DISCARDED, libc::MADV_DONTNEED);
    board.add(Slot::Step, 1);
    look_for_zeros(board, memory, sparse());
    let some = || sparse().step_by(3);
    fill(memory, some(), NEW);
    look(board, memory, some(), NEW);
    look(board, memory, tail(), OLD);
    board.done();
}

fn unmap_it(board: Board, memory: Memory) {
    board.wait_for_go();
    look(board, memory, sparse().take(8), OLD);
    memory.unmap(0, DISCARDED);
    board.add(Slot::Step, 1);
    let place = Memory {
        len: DISCARDED,
        ..memory
    };
    place.renew();
    look_for_zeros(board, place, sparse());
    look(board, memory, tail(), OLD);
    board.done();
}

fn look_elsewhere(board: Board, memory: Memory) {
    board.wait_for_go();
    let order = |round: u64| (round * 7919) % memory.pages();
    look(board, memory, (0..memory.pages()).map(order), OLD);
    board.done();
}

/// Pages that are looked at, at least.
pub(crate) fn looks() -> u64 {
    2 * sparse().count() as u64 + 2 * TAIL / PAGE + OTHER / PAGE
}

#[test]
fn three_gigabytes_are_dropped_and_as_much_is_unmapped_during_the_fill() {
    let Some(mut case) = Case::start("discard", "", 1) else {
        return;
    };
    case.in_all_ways(|run| {
        run.go(THREADS);
        run.board().assert_right(looks());
        let done = run.complete();
        done.require("/events/remove", run.fill.certain(1));
        done.require("/events/unmap", run.fill.certain(1));
        done.require(
            "/pages/removed",
            run.fill.certain(2 * (sparse().count() as u64 - 100)),
        );
    });
}
