//! mremap(X to Y) against mremap(Z onto X), by two threads, and which of them came first is known by the layout alone.

use std::sync::Barrier;

use crate::memory::{Memory, PAGE, check, is_mapped, move_to};
use crate::moves::arena;
use crate::scene::{Captured, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("racers", racers)];

const ROUNDS: usize = 600;
const LEN: usize = 4;

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
