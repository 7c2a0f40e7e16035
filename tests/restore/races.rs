//! mremap(2) against mremap(2), by several threads.

use std::hint::black_box;
use std::sync::Barrier;

use crate::memory::{Content, Memory, PAGE, check, is_mapped, move_to, remap};
use crate::moves::arena;
use crate::scene::{Captured, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("racers", racers), ("crossers", crossers)];

const ROUNDS: usize = 600;
const LEN: usize = 4;

/// Threads of the second race, and what each of them moves about.
const CROSSERS: usize = 4;
const PIECES: usize = 200;
const PIECE: usize = 8;

/// mremap(X to Y) against mremap(Z onto X), and which of them came first is known by the layout alone.
fn racers(_: &[&str]) {
    let memory = Memory::in_arena(0, ROUNDS * 2 * LEN);
    be_rolled_back(&[memory]);
    let x = |round: usize| memory.at(round * 2 * LEN);
    let z = |round: usize| memory.at(round * 2 * LEN + LEN);
    let y = |round: usize| arena(0) + round * 64 * PAGE;
    // One thread would wait for the other for ever.
    std::panic::set_hook(Box::new(|what| {
        eprintln!("{what}");
        std::process::abort();
    }));
    let barrier = Barrier::new(2);
    let mut x_first = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                barrier.wait();
                move_to(z(round), LEN, x(round));
                barrier.wait();
            }
        });
        for round in 0..ROUNDS {
            barrier.wait();
            // The other thread has to be woken first, in every second round.
            if round % 2 == 0 {
                std::thread::yield_now();
            }
            move_to(x(round), LEN, y(round));
            barrier.wait();
            let of_x = |page: usize| memory.captured(round * 2 * LEN + page);
            let of_z = |page: usize| memory.captured(round * 2 * LEN + LEN + page);
            assert!(!is_mapped(z(round)));
            let moved_first = is_mapped(x(round));
            for page in 0..LEN {
                if moved_first {
                    check(y(round) + page * PAGE, of_x(page));
                    check(x(round) + page * PAGE, of_z(page));
                } else {
                    check(y(round) + page * PAGE, of_z(page));
                }
            }
            x_first += usize::from(moved_first);
        }
    });
    say(&x_first.to_string());
    say("right");
    end();
}

#[test]
fn two_threads_move_memory_through_the_same_place() {
    let mut scene = Captured::new("racers", "").restore(&[]);
    let x_first = scene.target.hear_numbers()[0];
    let done = scene.finish();
    eprintln!("X moved away first in {x_first} of {ROUNDS} rounds");
    assert_eq!(done.events("remap"), 2 * ROUNDS as u64, "{done:?}");
    assert!(done.pages("demand") > ROUNDS as u64, "{done:?}");
}

/// Each piece goes where the kernel wants, longer than before, and back to where it was, shorter than it was there: the rest of it ends with the
/// call that moves it. The kernel wants it where another thread has just left, whose call may not have told of its rest yet.
fn crossers(words: &[&str]) {
    let busy: usize = words[0].parse().expect("a number of threads");
    let areas: Vec<Memory> = (0..CROSSERS)
        .map(|area| Memory::in_arena(area, (PIECES + 1) * PIECE))
        .collect();
    be_rolled_back(&areas);
    // They end with the process.
    (0..busy).for_each(|_| drop(std::thread::spawn(|| while black_box(true) {})));
    std::thread::scope(|scope| {
        for memory in &areas {
            scope.spawn(|| (0..PIECES).for_each(|piece| there_and_back(memory, piece * PIECE)));
        }
    });
    for memory in &areas {
        for page in 0..memory.pages {
            if page % PIECE < kept(page / PIECE) {
                memory.check(page);
            }
        }
    }
    say("right");
    end();
}

/// How much of a piece comes back.
fn kept(piece: usize) -> usize {
    if piece.is_multiple_of(2) {
        PIECE
    } else {
        PIECE / 2
    }
}

fn there_and_back(memory: &Memory, first: usize) {
    let (home, kept) = (memory.at(first), kept(first / PIECE));
    let unmapped = PIECE - kept;
    if unmapped > 0 {
        crate::memory::unmap(memory.at(first + kept), unmapped);
    }
    let away = remap(home, kept, 4 * PIECE, libc::MREMAP_MAYMOVE, 0).expect("mremap");
    assert_ne!(away, home, "it has room where it is");
    for page in [first % kept, kept - 1] {
        check(away + page * PAGE, memory.captured(first + page));
    }
    check(away + (kept + 1) * PAGE, Content::Zero);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    remap(away, 4 * PIECE, kept, flags, home).expect("mremap");
    check(home + PAGE, memory.captured(first + 1));
}

fn cross(busy: usize, how: &[&str]) {
    let words = ["--codec", "lz4"].iter().chain(how).copied();
    let captured = Captured::with("crossers", &busy.to_string(), &words.collect::<Vec<_>>());
    let done = captured.restore(&[]).finish();
    let moves = (2 * CROSSERS * PIECES) as u64;
    assert_eq!(done.events("remap"), moves, "{done:?}");
    let waited_for = done.faults() + moves + done.events("unmap");
    let refused = done.events("refused");
    eprintln!("{refused} refusals for {waited_for} faults and events");
    assert!(refused < 4 * waited_for, "{done:?}");
}

#[test]
fn threads_move_memory_to_where_that_of_others_has_just_been() {
    cross(0, &["--frame-pages", "1"]);
}

/// The threads whose calls are to be finished do not get the processor at once. Frames are decoded by the pool.
#[test]
fn threads_move_memory_on_a_busy_machine() {
    cross(2, &["--frame-pages", "64"]);
}
