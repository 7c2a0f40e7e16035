//! What one restore touched, the next ones of the same images have before it is asked for.

use std::path::Path;
use std::time::Duration;

use super::board::{Board, Slot};
use super::case::{Case, Fill, Run, Source};
use super::daemon::{Done, Kind};
use super::memory::{MIB, Memory, PAGE, WORDS, mix};

const MEMORY: u64 = 64 * MIB;
/// Pages that it looks at, far from each other.
const TOUCHED: u64 = 600;

/// The words: the board. Looks at the same pages each time, in an order that nobody would guess, when the test wants it to: what is
/// installed before that is not asked for.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(MEMORY);
    for number in 0..memory.pages() {
        let page = memory.page(number);
        page.fill(page.key(0), 0..WORDS);
    }
    board.ready();
    let apart = memory.pages() / TOUCHED;
    for number in 0..TOUCHED {
        // 7 has no divisor in common with that many.
        let page = memory.page((mix(1) + number * 7) % TOUCHED * apart);
        board.note(page.holds(page.key(0), 0..WORDS));
    }
    board.set(Slot::Step, 1);
    while board.get(Slot::Step) < 2 {
        std::thread::sleep(Duration::from_micros(200));
    }
    // And it may look at any other.
    for number in (0..memory.pages()).step_by(97) {
        let page = memory.page(number);
        board.note(page.holds(page.key(0), 0..WORDS));
    }
    board.done();
}

/// Restores it with these words, and lets it look at its pages. Whatever is brought by itself has the time for that before.
fn restore(case: &mut Case, words: &[&str]) -> Done {
    case.board.reset();
    let daemon = case.bring_back(Kind::Ours, Source::Snapshot, words);
    std::thread::sleep(Duration::from_secs(1));
    let mut run = Run {
        case,
        daemon,
        fill: Fill::Never,
    };
    run.board().set(Slot::Go, 1);
    run.board().wait(Slot::Step, 1);
    run.board().assert_right(TOUCHED);
    // All the rest comes now.
    let done = run.complete();
    run.board().set(Slot::Step, 2);
    run.await_done(1);
    run.board().assert_right(TOUCHED + MEMORY / PAGE / 97);
    run.case.kill();
    done
}

#[test]
fn what_was_touched_once_is_there_the_next_time() {
    let Some(mut case) = Case::start("touched", "", 1) else {
        return;
    };
    case.dump("images");
    // With the pages still in the images, and without.
    for word in [None, Some("--strip")] {
        case.pack(word);
        let set = case.path(if word.is_some() { "stripped" } else { "whole" });
        let set = set.to_str().expect("a path");
        let without = restore(&mut case, &["--prefill", "none", "--working-set", "none"]);
        without.require("/faults", TOUCHED);
        let record = ["--record-working-set", set, "--record-idle", "300s"];
        restore(&mut case, &record).require("/faults", TOUCHED);
        let replay = ["--prefill", "working-set", "--working-set", set];
        let replayed = restore(&mut case, &replay);
        replayed.require("/pages/replayed", TOUCHED);
        let [faults, before] = [&replayed, &without].map(|done| done.count("/faults"));
        assert!(
            faults * 10 <= before,
            "{faults} faults, and {before} without: {replayed:?} {without:?}"
        );
        std::fs::remove_file(case.snapshot()).expect("a snapshot");
    }
}
