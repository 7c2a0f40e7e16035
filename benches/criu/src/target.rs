//! The process that is dumped and restored: this program in another role. It fills its memory, waits, is dumped while it
//! waits, and goes on in another life.

use std::path::{Path, PathBuf};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use snapshot_format::PAGE_SIZE;

use crate::FIRST;
use crate::area::Area;
use crate::board::{Column, Mapped, State, Word};
use crate::clock::now;
use crate::content::Content;

/// Which word of a page is looked at when it is touched.
fn word_of(page: usize) -> usize {
    page * 37 % (PAGE_SIZE / 8)
}

/// All of its life.
pub(crate) fn live(board: &Path, pages: usize, images: &[PathBuf]) {
    let board = Mapped::open(board, pages);
    let area = fill(&board, pages, images);
    board.set(Word::State, State::Filled as u64);
    // Not asleep: a sleep that is interrupted by the dump would go on after the restore.
    while board.get(Word::Go) == 0 {
        std::thread::yield_now();
    }
    touch(&board, &area);
    while board.get(Word::Stop) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let wrong = (0..pages).filter(|&page| area.sum(page) != board.column(Column::Sum, page));
    let wrong = wrong.count() as u64;
    board.set(Word::Wrong, board.get(Word::Wrong) + wrong);
    fence(Ordering::SeqCst);
    board.set(Word::State, State::Checked as u64);
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn fill(board: &Mapped, pages: usize, images: &[PathBuf]) -> Area {
    let content = Content::open(images);
    let area = Area::map(pages, None);
    for (page, place) in content.places(pages).into_iter().enumerate() {
        area.fill(page, &content.read(place));
        board.set_column(Column::Expected, page, area.read(page, word_of(page)));
        board.set_column(Column::Sum, page, area.sum(page));
    }
    area
}

/// Touches pages in the order of the board, until it is enough or the fill is over, but the first in any case.
fn touch(board: &Mapped, area: &Area) {
    let [most, work] = [Word::Most, Word::Work].map(|word| board.get(word));
    let most = usize::try_from(most).expect("64 bits");
    let (mut wrong, mut touched) = (0, 0);
    while touched < most && (touched < FIRST || board.get(Word::Stop) == 0) {
        let page = board.column(Column::Order, touched);
        let page = usize::try_from(page).expect("64 bits");
        let begun = now();
        let found = area.read(page, word_of(page));
        let done = now();
        board.set_column(Column::Took, touched, done - begun);
        wrong += u64::from(found != board.column(Column::Expected, page));
        touched += 1;
        if touched == FIRST {
            board.set(Word::FirstDone, done);
        }
        while touched > FIRST && now() < done + work {
            std::hint::spin_loop();
        }
    }
    board.set(Word::Touched, touched as u64);
    board.set(Word::Wrong, wrong);
}
