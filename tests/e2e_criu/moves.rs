//! A process whose threads move their memory about with mremap(2) while it is filled.

use std::path::Path;

use super::board::Board;
use super::case::Case;
use super::memory::{Memory, PAGE, WORDS, key, mix};

pub(crate) const THREADS: u64 = 4;
const STEPS: u64 = 250;
/// Pieces of each thread, in twice as many places.
const PIECES: usize = 32;
const PIECE: u64 = 64 * PAGE;
/// Pages that are looked at in the end.
pub(crate) const PAGES: u64 = THREADS * 2 * PIECES as u64 * PIECE / PAGE;

/// What is where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A piece, and where it was filled: its pages' keys are those of the pages there. Behind it are zeros.
    Piece {
        home: u64,
        len: u64,
    },
    Zeros,
}

/// The memory of a thread.
struct Ground {
    board: Board,
    all: Memory,
    places: Vec<Place>,
    chance: u64,
    /// Where pieces go that leave for a while; none: where the kernel wants, which may be where another thread's just were.
    outside: Option<u64>,
}

impl Ground {
    fn new(board: Board, thread: u64, crossing: bool) -> Self {
        let places = 2 * PIECES;
        // And room, so that the last cannot grow where it is.
        let all = Memory::new((places as u64 + 8) * PIECE);
        let mut ground = Self {
            board,
            all,
            places: vec![Place::Zeros; places],
            chance: mix(thread),
            outside: (!crossing).then(|| all.start + (places as u64 + 2) * PIECE),
        };
        for index in (0..places).step_by(2) {
            let piece = ground.memory(index);
            for number in 0..piece.pages() {
                let page = piece.page(number);
                page.fill(page.key(0), 0..WORDS);
            }
            ground.places[index] = Place::Piece {
                home: piece.start,
                len: PIECE,
            };
        }
        ground
    }

    fn memory(&self, index: usize) -> Memory {
        Memory {
            start: self.all.start + index as u64 * PIECE,
            len: PIECE,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.chance = mix(self.chance);
        usize::try_from(self.chance % below as u64).expect("below a usize")
    }

    /// An index of a piece.
    fn piece(&mut self) -> usize {
        loop {
            let index = self.random(self.places.len());
            if matches!(self.places[index], Place::Piece { .. }) {
                return index;
            }
        }
    }

    /// An index of a place without a piece.
    fn free(&mut self) -> usize {
        loop {
            let index = self.random(self.places.len());
            if !matches!(self.places[index], Place::Piece { .. }) {
                return index;
            }
        }
    }

    fn look(&self, index: usize, number: u64) {
        look(self.board, self.memory(index), self.places[index], number);
    }

    fn look_at_some(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let number = self.random(64) as u64;
            self.look(index, number);
        }
    }

    fn step(&mut self) {
        let from = self.piece();
        match self.random(6) {
            0 | 1 => self.shift(from),
            2 => self.leave_a_mapping(from),
            3 => self.there_and_back(from),
            4 => self.shrink(from),
            _ => self.look_at_some(from, 8),
        }
    }

    /// The mapping of a piece.
    fn held(&self, index: usize) -> Memory {
        match self.places[index] {
            Place::Piece { len, .. } => Memory {
                len,
                ..self.memory(index)
            },
            Place::Zeros => self.memory(index),
        }
    }

    /// To another place, over whatever is there.
    fn shift(&mut self, from: usize) {
        let (piece, to) = (self.held(from), self.free());
        piece.remap(piece.len, 0, Some(self.memory(to).start));
        // Too small for what other threads want of the kernel meanwhile.
        piece.renew();
        self.places.swap(from, to);
        self.look_at_some(from, 1);
        self.look_at_some(to, 2);
    }

    /// The same, but its old place stays mapped, without content.
    fn leave_a_mapping(&mut self, from: usize) {
        let (piece, to) = (self.held(from), self.free());
        let target = self.memory(to).start;
        piece.remap(piece.len, libc::MREMAP_DONTUNMAP, Some(target));
        self.places.swap(from, to);
        self.look_at_some(from, 1);
        self.look_at_some(to, 2);
    }

    /// To a place outside, longer than before, and back.
    fn there_and_back(&mut self, from: usize) {
        let piece = self.held(from);
        let away = piece.remap(4 * PIECE, 0, self.outside);
        piece.renew();
        for _ in 0..3 {
            let number = self.random(64) as u64;
            look(self.board, away, self.places[from], number);
            self.board.note(away.page(64 + number).is_zero(0..WORDS));
        }
        away.remap(piece.len, 0, Some(piece.start));
        self.look_at_some(from, 2);
    }

    /// The second half of it ends, and something new is there.
    fn shrink(&mut self, from: usize) {
        let piece = self.held(from);
        if let Place::Piece { len, .. } = &mut self.places[from]
            && *len == PIECE
        {
            *len = PIECE / 2;
            let half = piece.remap(PIECE / 2, 0, None);
            let rest = Memory {
                start: half.start + half.len,
                ..half
            };
            rest.renew();
        }
        self.look_at_some(from, 4);
    }

    fn look_at_all(&self) {
        for index in 0..self.places.len() {
            for number in 0..PIECE / PAGE {
                self.look(index, number);
            }
        }
    }
}

fn look(board: Board, memory: Memory, place: Place, number: u64) {
    let page = memory.page(number);
    board.note(match place {
        Place::Piece { home, len } if number * PAGE < len => {
            page.holds(key(home + number * PAGE, 0), 0..WORDS)
        }
        _ => page.is_zero(0..WORDS),
    });
}

/// The words: the board, and whether the threads' pieces meet anywhere.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let crossing = words[1] == "crossing";
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let mut ground = Ground::new(board, thread, crossing);
            scope.spawn(move || {
                board.wait_for_go();
                for _ in 0..STEPS {
                    ground.step();
                }
                ground.look_at_all();
                board.done();
            });
        }
        board.announce();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
}

/// Lets the threads move about, and counts.
fn move_about(how: &str) {
    let Some(mut case) = Case::start("moves", how, 1) else {
        return;
    };
    case.in_all_ways(|run| {
        run.go(THREADS);
        run.board().assert_right(PAGES);
        let done = run.complete();
        done.require("/events/remap", run.fill.certain(THREADS * STEPS / 3));
        done.require("/events/unmap", run.fill.certain(THREADS * STEPS / 3));
    });
}

#[test]
fn threads_that_move_their_memory_about_find_it_where_they_moved_it() {
    move_about("apart");
}

/// An address that one thread has just left may be where the kernel puts what another moves.
#[test]
fn threads_that_move_their_memory_to_where_that_of_others_was_find_it_there() {
    move_about("crossing");
}
