//! What somebody else installs in memory that is lent to him, where whoever goes on finds it.

use snapshot_format::PAGE_BYTES;

use crate::addr::{Addr, AddrRange};
use crate::shared_memory::Room;
use crate::uffd::Receipt;

/// What was installed in memory that was lent, and the session has not taken note of yet.
///
/// The session does so before it reads or decides anything ([`crate::session::Session::was_made`]). If it is killed before, whoever takes over does.
#[derive(Debug)]
pub struct Loan {
    room: Room,
    receipt: Receipt,
}

// By number, behind the receipt.
const SPACE: usize = Receipt::WORDS;
const START: usize = SPACE + 1;
/// A bit for each page.
const PAGES: usize = START + 1;
const PAGE_WORDS: usize = (Loan::PAGES / 64) as usize;

impl Loan {
    /// Most pages.
    pub const PAGES: u64 = 2048;
    /// Words that it takes up.
    pub(super) const WORDS: usize = (PAGES + PAGE_WORDS).next_multiple_of(Receipt::WORDS);

    pub(super) fn new(room: Room) -> Self {
        Self {
            receipt: Receipt::new(room.clone()),
            room,
        }
    }

    /// Memory of this address space is lent from now on, which begins here. Nothing must be left that was not taken note of.
    pub(in crate::session) fn begin(&self, space: u64, start: Addr) {
        self.receipt.of(space);
        self.room.store(SPACE, space);
        self.room.store(START, start.0);
    }

    /// What is being installed.
    #[must_use]
    pub const fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// This has been installed. It lies in what was lent.
    pub fn was_made(&self, range: AddrRange) {
        let start = Addr(self.room.load(START));
        let first = range.start.since(start) / PAGE_BYTES;
        for page in first..first + range.len() / PAGE_BYTES {
            if let Some((word, bit)) = place_of(page) {
                self.room.store(word, self.room.load(word) | bit);
            }
        }
        self.receipt.clear();
    }

    /// The session has taken note of everything.
    pub fn clear(&self) {
        for word in PAGES..PAGES + PAGE_WORDS {
            self.room.store(word, 0);
        }
    }

    pub(in crate::session) fn space(&self) -> u64 {
        self.room.load(SPACE)
    }

    /// What was installed.
    pub(in crate::session) fn made(&self) -> Vec<AddrRange> {
        let start = Addr(self.room.load(START));
        let bits = |index: u64| {
            let word = place_of(index * 64).map_or(0, |(word, _)| self.room.load(word));
            // Most of them are empty.
            let all = if word == 0 { 0..0 } else { 0..64 };
            all.filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| index * 64 + bit)
        };
        let mut made: Vec<AddrRange> = Vec::new();
        for page in (0..Self::PAGES / 64).flat_map(bits) {
            let range = AddrRange::at(start.plus(page * PAGE_BYTES), PAGE_BYTES);
            match made.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => made.push(range),
            }
        }
        made
    }
}

impl Default for Loan {
    /// In this process's own memory, for who need not outlive it.
    fn default() -> Self {
        Self::new(Room::private(Self::WORDS))
    }
}

fn place_of(page: u64) -> Option<(usize, u64)> {
    let word = usize::try_from(page / 64).ok()?;
    (word < PAGE_WORDS).then_some((PAGES + word, 1 << (page % 64)))
}
