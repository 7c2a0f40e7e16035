//! mremap in every form, by several threads at once, each with its own memory and an oracle of it.

use crate::memory::{
    Content, Dice, Memory, PAGE, check, flag, is_mapped, map_at, move_to, remap, unmap, write,
};
use crate::scene::{Captured, Done, REPLAY, be_rolled_back};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("movers", movers)];

const THREADS: usize = 8;
const PAGES: usize = 128;
const BLOCK: usize = 8;
const OPERATIONS: usize = 500;

/// Where a thread may put memory: far below everything that the kernel gives by itself.
pub(crate) fn arena(thread: usize) -> usize {
    0x1000_0000_0000 + thread * 0x10_0000_0000
}

/// Pages in a row in one mapping, and what they are.
#[derive(Debug, Clone)]
pub(crate) struct Block {
    pub(crate) address: usize,
    pub(crate) contents: Vec<Content>,
}

impl Block {
    fn pages(&self) -> usize {
        self.contents.len()
    }

    fn check(&self) {
        for (page, &content) in self.contents.iter().enumerate() {
            check(self.address + page * PAGE, content);
        }
    }
}

/// A thread's memory.
pub(crate) struct Mover {
    pub(crate) blocks: Vec<Block>,
    pub(crate) dice: Dice,
    thread: usize,
    /// The next free place of the arena.
    next: usize,
    written: u64,
}

impl Mover {
    pub(crate) fn new(memory: Memory, thread: usize, seed: u64) -> Self {
        let block = |first: usize| Block {
            address: memory.at(first),
            contents: (first..first + BLOCK)
                .map(|page| memory.captured(page))
                .collect(),
        };
        Self {
            blocks: (0..memory.pages).step_by(BLOCK).map(block).collect(),
            dice: Dice::new(seed ^ (thread as u64) << 32),
            thread,
            next: arena(thread),
            written: 0,
        }
    }

    /// A free place. Between places stays a gap, so that nothing grows together.
    pub(crate) fn place(&mut self) -> usize {
        let place = self.next;
        self.next += 64 * PAGE;
        place
    }

    fn any(&mut self) -> usize {
        self.dice.below(self.blocks.len())
    }

    pub(crate) fn act(&mut self) {
        let at = self.any();
        match self.dice.below(12) {
            0 => self.grow(at),
            1 | 2 => self.go(at),
            3 => self.go_onto_another(at),
            4 => self.leave_behind(at),
            5 => self.split(at),
            6 => self.shrink(at),
            7 => self.swap(at),
            8 | 9 => self.write(at),
            10 => self.blocks[at].check(),
            _ => self.look(at),
        }
    }

    /// In place or elsewhere, as the kernel likes. What is new is zero.
    pub(crate) fn grow(&mut self, at: usize) {
        let block = &mut self.blocks[at];
        let pages = block.pages();
        if pages >= 32 {
            return;
        }
        block.address =
            remap(block.address, pages, pages + 2, libc::MREMAP_MAYMOVE, 0).expect("mremap");
        block.contents.extend([Content::Zero; 2]);
    }

    /// To a place where nothing is.
    pub(crate) fn go(&mut self, at: usize) {
        let place = self.place();
        let block = &mut self.blocks[at];
        move_to(block.address, block.pages(), place);
        block.address = place;
    }

    /// Onto another block, which is lost.
    pub(crate) fn go_onto_another(&mut self, at: usize) {
        let other = self.any();
        if other == at
            || self.blocks[other].pages() != self.blocks[at].pages()
            || self.blocks.len() < 6
        {
            return self.go(at);
        }
        let place = self.blocks[other].address;
        let block = &mut self.blocks[at];
        move_to(block.address, block.pages(), place);
        block.address = place;
        self.blocks.swap_remove(other);
    }

    /// The content goes, the mapping stays as well, as zeros.
    pub(crate) fn leave_behind(&mut self, at: usize) {
        let place = self.place();
        if self.blocks.len() > 60 {
            return;
        }
        let block = &mut self.blocks[at];
        let pages = block.pages();
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let moved = remap(block.address, pages, pages, flags, place).expect("mremap");
        assert_eq!(moved, place);
        let left = Block {
            address: block.address,
            contents: vec![Content::Zero; pages],
        };
        block.address = place;
        self.blocks.push(left);
    }

    /// A part goes elsewhere.
    pub(crate) fn split(&mut self, at: usize) {
        let pages = self.blocks[at].pages();
        if pages < 3 || self.blocks.len() > 60 {
            return;
        }
        let first = self.dice.below(pages - 1);
        let count = 1 + self.dice.below(pages - first - 1);
        let place = self.place();
        let block = self.blocks.swap_remove(at);
        move_to(block.address + first * PAGE, count, place);
        let part = |range: std::ops::Range<usize>, address| Block {
            address,
            contents: block.contents[range].to_vec(),
        };
        let parts = [
            part(0..first, block.address),
            part(first..first + count, place),
            part(first + count..pages, block.address + (first + count) * PAGE),
        ];
        self.blocks
            .extend(parts.into_iter().filter(|part| part.pages() > 0));
    }

    pub(crate) fn shrink(&mut self, at: usize) {
        let block = &mut self.blocks[at];
        let pages = block.pages();
        if pages > 4 {
            remap(block.address, pages, pages - 1, 0, 0).expect("mremap");
            block.contents.pop();
        }
    }

    /// X to a free place, Y to X, the free place to Y. In the arena only: elsewhere the kernel might give what is free for a
    /// moment to another thread.
    pub(crate) fn swap(&mut self, at: usize) {
        let other = self.any();
        let pages = self.blocks[at].pages();
        let given_by_the_kernel =
            |block: &Block| block.address < arena(0) || block.address > arena(1000);
        if other == at
            || self.blocks[other].pages() != pages
            || given_by_the_kernel(&self.blocks[at])
            || given_by_the_kernel(&self.blocks[other])
        {
            return;
        }
        let (x, y, free) = (
            self.blocks[at].address,
            self.blocks[other].address,
            self.place(),
        );
        for (from, to) in [(x, free), (y, x), (free, y)] {
            move_to(from, pages, to);
        }
        (self.blocks[at].address, self.blocks[other].address) = (y, x);
    }

    pub(crate) fn write(&mut self, at: usize) {
        self.written += 1;
        let content = Content::Own(((self.thread as u64) << 40) | self.written);
        let page = self.dice.below(self.blocks[at].pages());
        let block = &mut self.blocks[at];
        write(block.address + page * PAGE, content);
        block.contents[page] = content;
    }

    fn look(&mut self, at: usize) {
        let page = self.dice.below(self.blocks[at].pages());
        let block = &self.blocks[at];
        check(block.address + page * PAGE, block.contents[page]);
    }

    pub(crate) fn check_all(&self) {
        self.blocks.iter().for_each(Block::check);
    }
}

fn movers(words: &[&str]) {
    let seed = words[0].parse().expect("a seed");
    let areas: Vec<Memory> = (0..THREADS)
        .map(|thread| Memory::private(thread, PAGES))
        .collect();
    be_rolled_back(&areas);
    std::thread::scope(|scope| {
        for (thread, memory) in areas.iter().enumerate() {
            scope.spawn(move || {
                let mut mover = Mover::new(*memory, thread, seed);
                (0..OPERATIONS).for_each(|_| mover.act());
                mover.check_all();
            });
        }
    });
    say("right");
    end();
}

fn storm(seed: u64, words: &[&str]) -> Done {
    eprintln!("seed {seed}");
    let captured = Captured::with("movers", &seed.to_string(), &["--frame-pages", "4"]);
    let done = captured.restore(words).finish();
    // When all is in place, nothing is told any more.
    let least = if words.is_empty() { 1000 } else { 20 };
    assert!(done.events("remap") > least, "{done:?}");
    assert!(done.events("unmap") > least, "{done:?}");
    done
}

#[test]
fn memory_that_moves() {
    for seed in 1..=3 {
        let done = storm(seed, &[]);
        assert!(done.pages("demand") > 50, "{done:?}");
        assert!(done.pages("removed") > 10, "{done:?}");
    }
}

#[test]
fn memory_that_moves_while_all_is_being_installed() {
    storm(4, &["--prefill", "all"]);
}

#[test]
fn memory_that_moves_while_a_working_set_is_being_installed() {
    storm(4, REPLAY);
}

/// The helpers do what the tests believe.
#[test]
fn the_helpers() {
    let place = arena(400);
    map_at(place, 4, 0);
    assert!(is_mapped(place));
    write(place, Content::Own(7));
    move_to(place, 4, place + 64 * PAGE);
    assert!(!is_mapped(place));
    check(place + 64 * PAGE, Content::Own(7));
    unmap(place + 64 * PAGE, 4);
    assert_eq!(flag(1), 1);
}
