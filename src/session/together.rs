//! A small frame in one go: the page that somebody waits for, and its neighbours.

use snapshot_format::PAGE_BYTES;

use super::block::{Block, Piece};
use super::fill::place_of;
use super::{Installer, Request, Session};
use crate::addr::AddrRange;
use crate::space::Found;
use crate::uffd::Put;

/// Most pages that are installed before the thread is woken that waits for one of them: a second system call, and a turn of the scheduler between
/// the two, cost more than copying so many.
const TOGETHER: u64 = 4;

impl<I: Installer> Session<I> {
    /// Installs all of a small piece that has the wanted page. False if that page is still owed then: it is to be installed alone, which finds out
    /// why.
    pub(super) fn put_together(&mut self, request: &Request, block: &Block, piece: &Piece) -> bool {
        let pages = piece.pages.end - piece.pages.start;
        if request.needed != 1 || !(2..=TOGETHER).contains(&pages) {
            return false;
        }
        let Some(place) = place_of(request, &piece.pages) else {
            return false;
        };
        let whole = self
            .owed_part(request.space, place, place.start, piece.pages.start)
            .is_some_and(|(run, kind, owed)| {
                run == place && kind.page_bytes == PAGE_BYTES && owed.is_some()
            });
        let Some(bytes) = block.bytes_of(piece, &piece.pages).filter(|_| whole) else {
            return false;
        };
        let outcome = self.install(request.space, place, Put::Bytes(bytes));
        let installed = AddrRange::at(place.start, outcome.done);
        let done = installed.contains(request.at);
        self.counts.demand += u64::from(done);
        self.counts.neighbours += outcome.done / PAGE_BYTES - u64::from(done);
        done && self
            .space(request.space)
            .is_some_and(|space| !matches!(space.at(request.at), Found::Owed(_)))
    }
}
