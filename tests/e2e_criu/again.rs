//! A process that is dumped and restored again and again, and changes a part of its memory in between.

use std::path::Path;

use super::board::{Board, Slot};
use super::case::{Case, Fill, Run, Source};
use super::daemon::Kind;
use super::memory::{MIB, Memory, PAGE, WORDS};

const MEMORY: u64 = 32 * MIB;

/// The last round in which a page was written, when some have passed: each writes a third of the pages, the first all.
fn written(number: u64, rounds: u64) -> u64 {
    (1..=rounds)
        .rev()
        .find(|round| number % 3 == round % 3)
        .unwrap_or(0)
}

/// The words: the board.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(MEMORY);
    let write = |round: u64, all: bool| {
        for number in (0..memory.pages()).filter(|number| all || number % 3 == round % 3) {
            let page = memory.page(number);
            page.fill(page.key(round), 0..WORDS);
        }
    };
    write(0, true);
    board.announce();
    for round in 1.. {
        while board.get(Slot::Wish) != round {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        for number in 0..memory.pages() {
            let page = memory.page(number * 7919 % memory.pages());
            let number = (page.address() - memory.start) / PAGE;
            board.note(page.holds(page.key(written(number, round - 1)), 0..WORDS));
        }
        write(round, false);
        board.add(Slot::Done, 1);
    }
}

#[test]
fn what_was_restored_can_be_dumped_and_restored_again() {
    let Some(mut case) = Case::start("again", "", 1) else {
        return;
    };
    let kind = Kind::chosen();
    let rounds = [
        (Source::Images, Fill::Late),
        (Source::Snapshot, Fill::Never),
        (Source::Images, Fill::AtOnce),
        (Source::Snapshot, Fill::AtOnce),
    ];
    let rounds = rounds
        .into_iter()
        .filter(|&(source, fill)| kind == Kind::Ours || (source, fill) == rounds[2]);
    for (round, (source, fill)) in (1..).zip(rounds) {
        case.dump(&format!("images{round}"));
        if source == Source::Snapshot {
            case.import();
        }
        let mut run = Run::start(&mut case, kind, source, fill);
        run.board().set(Slot::Wish, round);
        run.await_done(1);
        run.board().assert_right(MEMORY / PAGE);
        let done = run.complete();
        done.require("/faults", fill.certain(MEMORY / PAGE / 32));
    }
}
