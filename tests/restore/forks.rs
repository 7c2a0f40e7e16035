//! fork: children that see what their parent had, and go their own way.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::family::{self, Kid};
use crate::memory::{Content, Dice, Memory, check, is_mapped, look, move_to, touch, write};
use crate::scene::{Captured, REPLAY, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[
    ("tree", tree),
    ("survived", survived),
    ("prolific", prolific),
    ("forks-and-moves", forks_and_moves),
];

const PAGES: usize = 256;

/// What a process of the tree knows of its memory.
#[derive(Clone)]
struct Oracle {
    memory: Memory,
    contents: Vec<Content>,
    dice: Dice,
    me: u64,
    written: u64,
}

impl Oracle {
    fn work(&mut self) {
        for _ in 0..24 {
            let page = self.dice.below(PAGES);
            let address = self.memory.at(page);
            check(address, self.contents[page]);
            if self.dice.below(3) == 0 {
                self.written += 1;
                self.contents[page] = Content::Own((self.me << 32) | self.written);
                write(address, self.contents[page]);
            }
        }
    }

    fn check_all(&self) {
        for (page, &content) in self.contents.iter().enumerate() {
            check(self.memory.at(page), content);
        }
    }

    /// Two children, with work before and after each, and theirs to the given depth.
    fn live(mut self, depth: u32) {
        let mut kids = Vec::new();
        self.work();
        for number in 1..=2 {
            if depth > 0 {
                let mut child = self.clone();
                child.me = self.me * 4 + number;
                child.dice = Dice::new(child.me);
                kids.push(family::start(|| child.live(depth - 1)));
            }
            self.work();
        }
        self.check_all();
        kids.into_iter().for_each(Kid::join);
        self.check_all();
    }
}

fn tree(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    let oracle = Oracle {
        memory,
        contents: (0..PAGES).map(|page| memory.captured(page)).collect(),
        dice: Dice::new(1),
        me: 1,
        written: 0,
    };
    oracle.live(3);
    say("right");
    end();
}

#[test]
fn a_tree_of_processes_each_with_its_own_memory() {
    for words in [&[][..], &["--prefill", "all"], REPLAY] {
        let done = Captured::new("tree", "").restore(words).finish();
        assert!(done.installed() >= Memory::content_in(PAGES), "{done:?}");
        if words.is_empty() {
            assert_eq!(done.events("fork"), 2 + 4 + 8, "{done:?}");
            assert!(
                done.installed() > 2 * PAGES as u64,
                "children had faults of their own: {done:?}"
            );
        }
    }
}

/// The child looks at its memory when its parent has gone.
fn survived(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    (0..PAGES / 4).for_each(|page| memory.check(page));
    let parent = std::process::id();
    let child = family::start(|| {
        let parent_lives = || u32::try_from(nix::unistd::getppid().as_raw()) == Ok(parent);
        while parent_lives() {
            std::thread::yield_now();
        }
        memory.check_all();
        say("right");
    });
    assert!(child.pid() > 0);
    end();
}

#[test]
fn a_child_that_outlives_its_parent() {
    let mut scene = Captured::new("survived", "").restore(&[]);
    assert_eq!(scene.target.hear(), "right");
    let done = scene.restorer.finish();
    assert_eq!(done.outcome(), "target-ended", "it had not touched all");
    assert_eq!(done.events("fork"), 1, "{done:?}");
    assert!(done.all_pages() >= PAGES as u64, "{done:?}");
    scene.target.finish();
}

const CHILDREN: usize = 2000;

/// Children that live for a moment: each looks at a page or two that nobody has looked at.
fn prolific(_: &[&str]) {
    let memory = Memory::private(0, CHILDREN);
    be_rolled_back(&[memory]);
    for page in 0..CHILDREN {
        let child = family::start(|| {
            memory.check(page);
            memory.check((page * 7) % CHILDREN);
            memory.check(page / 2);
        });
        if page % 4 == 0 {
            memory.check(page / 4);
        }
        child.join();
    }
    memory.check_all();
    say("right");
    end();
}

#[test]
fn two_thousand_children_of_a_moment() {
    let done = Captured::new("prolific", "").restore(&[]).finish();
    assert_eq!(done.events("fork"), CHILDREN as u64, "{done:?}");
    assert!(done.pages("demand") > CHILDREN as u64 * 3 / 2, "{done:?}");
}

const MOVERS: usize = 3;
const TURNS: usize = 250;
const BLOCK: usize = 2;

/// The movers shall end.
const GIVEN_UP: usize = usize::MAX;

/// Does something when it is dropped, also when that is by a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Block 0 of each mover travels from block to block, each time onto registered memory, at the moment of a fork.
fn forks_and_moves(_: &[&str]) {
    let areas: Vec<Memory> = (0..MOVERS)
        .map(|mover| Memory::in_arena(mover, TURNS * BLOCK))
        .collect();
    be_rolled_back(&areas);
    let turn = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for memory in &areas {
            scope.spawn(|| {
                for block in 1..TURNS {
                    while turn.load(Ordering::Relaxed) < block {
                        std::hint::spin_loop();
                    }
                    if turn.load(Ordering::Relaxed) == GIVEN_UP {
                        return;
                    }
                    let at = |block: usize| memory.at(block * BLOCK);
                    move_to(at(block - 1), BLOCK, at(block));
                }
            });
        }
        let _given_up = OnDrop(|| turn.store(GIVEN_UP, Ordering::Relaxed));
        let mut kids = Vec::new();
        for block in 1..TURNS {
            turn.store(block, Ordering::Relaxed);
            kids.push(family::start(|| {
                areas
                    .iter()
                    .for_each(|memory| check_travellers(memory, block));
            }));
            if kids.len() == 8 {
                kids.drain(..).for_each(Kid::join);
            }
        }
        kids.drain(..).for_each(Kid::join);
        let all_moved = || {
            let last = |memory: &Memory| memory.at((TURNS - 1) * BLOCK - 1);
            areas.iter().all(|memory| !is_mapped(last(memory)))
        };
        while !all_moved() {
            std::thread::yield_now();
        }
    });
    for memory in &areas {
        let last = (TURNS - 1) * BLOCK;
        (0..BLOCK).for_each(|page| check(memory.at(last + page), memory.captured(page)));
    }
    say("right");
    end();
}

/// In a child: the traveller has reached exactly one block, somewhere at or before `turn`; blocks behind it are its own.
fn check_travellers(memory: &Memory, turn: usize) {
    let at = |block: usize, page: usize| memory.at(block * BLOCK + page);
    let mapped: Vec<usize> = (0..TURNS)
        .filter(|&block| is_mapped(at(block, 0)))
        .collect();
    let here = mapped[0];
    assert!(here <= turn);
    assert_eq!(mapped.len(), TURNS - here);
    for page in 0..BLOCK {
        check(at(here, page), memory.captured(page));
    }
    for block in (here + 1..TURNS).take(4) {
        for page in 0..BLOCK {
            let content = memory.captured(block * BLOCK + page);
            assert_eq!(look(at(block, page)), content, "block {block}, here {here}");
        }
    }
    touch(at(TURNS - 1, 0));
}

#[test]
fn forks_while_other_threads_move_memory() {
    for words in [&[][..], &["--prefill", "all"], REPLAY] {
        let mut scene = Captured::new("forks-and-moves", "").restore(words);
        assert_eq!(scene.target.hear(), "right");
        let done = scene.restorer.finish();
        if words.is_empty() {
            assert!(done.pages("removed") > 100, "{done:?}");
            assert_eq!(done.events("fork"), TURNS as u64 - 1, "{done:?}");
            let moves = MOVERS * (TURNS - 1);
            assert!(done.events("remap") >= moves as u64 / 2, "{done:?}");
        }
        scene.target.finish();
    }
}
