//! Who reads in order, and what comes next.
//!
//! The number of faults decides how long a restore takes, not the cost of one. A fault where the last one's pages ended is taken for one
//! of somebody who goes through memory in order, as a file is read or a heap walked, and what comes next is fetched in a window that
//! grows with every such fault. Nothing waits for it: it is installed as pages are that nobody waits for.

use snapshot_format::PAGE_BYTES;

use super::{Installer, Purpose, Request, Session};
use crate::addr::{Addr, AddrRange};

/// Most that one address space is followed in at a time: as many processors may go through different memory.
const STREAMS: usize = 8;
/// Pages of the first window.
const FIRST: u64 = 16;
/// Pages of one request: several threads can decode a window, and each takes room for so many.
const PIECE: u64 = 32;

/// Those who go through an address space in order, the one followed last in front.
#[derive(Debug, Default)]
pub(super) struct Streams(Vec<Stream>);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stream {
    /// Fetched, or being fetched, up to the place where the next fault is expected.
    window: AddrRange,
}

impl Streams {
    /// A fault at `page` has been answered, and with it all was installed that is not owed before `next`. Returns what to fetch, of
    /// `most` pages at most.
    fn follow(&mut self, page: Addr, next: Addr, most: u64) -> Option<AddrRange> {
        // A page of a window that has yet to come says nothing new, one right behind it does.
        let known = self
            .0
            .iter()
            .position(|stream| stream.window.contains(page) || stream.window.end == page);
        let Some(index) = known else {
            self.0.truncate(STREAMS - 1);
            let window = AddrRange::at(next, 0);
            self.0.insert(0, Stream { window });
            return None;
        };
        let stream = self.0.remove(index);
        if stream.window.contains(page) {
            self.0.insert(0, stream);
            return None;
        }
        let pages = (2 * stream.window.len() / PAGE_BYTES).max(FIRST).min(most);
        let window = AddrRange::at(next, pages * PAGE_BYTES);
        self.0.insert(0, Stream { window });
        Some(window)
    }
}

impl<I: Installer> Session<I> {
    /// A fault has been answered: notes what is to be fetched because of it.
    pub(super) fn look_ahead(&mut self, answered: &Request) {
        let most = self.read_ahead;
        // Huge pages come one by one.
        if answered.needed > 1 || most == 0 {
            return;
        }
        let Some(member) = self.members.get_mut(&answered.space) else {
            return;
        };
        let behind = AddrRange {
            start: answered.at,
            end: Addr(u64::MAX),
        };
        let next = member
            .space
            .next_run(behind)
            .map_or(answered.at.plus(PAGE_BYTES), |(run, _)| run.start);
        if let Some(window) = member.streams.follow(answered.at, next, most) {
            let mut rest = window;
            while let Some((run, first)) = member.space.next_run(rest) {
                let piece = AddrRange::at(run.start, run.len().min(PIECE * PAGE_BYTES));
                rest.start = piece.end;
                self.ahead.push(Request {
                    at: piece.start,
                    page: first,
                    welcome: first.0..first.0 + piece.len() / PAGE_BYTES,
                    needed: 1,
                    crowded: false,
                    purpose: Purpose::Ahead,
                    space: answered.space,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn page(number: u64) -> Addr {
        Addr(0x10_0000 + number * PAGE_BYTES)
    }

    /// What is fetched, in pages, when the pages up to `next` came with the fault.
    fn follow(streams: &mut Streams, fault: u64, next: u64) -> Option<(u64, u64)> {
        streams.follow(page(fault), page(next), 256).map(|window| {
            let start = window.start.since(page(0)) / PAGE_BYTES;
            (start, start + window.len() / PAGE_BYTES)
        })
    }

    #[test]
    fn the_window_grows_with_every_fault_right_behind_it() {
        let mut streams = Streams::default();
        assert_eq!(follow(&mut streams, 0, 4), None);
        assert_eq!(follow(&mut streams, 4, 8), Some((8, 24)));
        assert_eq!(follow(&mut streams, 10, 12), None, "on its way already");
        assert_eq!(follow(&mut streams, 24, 28), Some((28, 60)));
        assert_eq!(follow(&mut streams, 60, 64), Some((64, 128)));
        assert_eq!(follow(&mut streams, 128, 132), Some((132, 260)));
        assert_eq!(follow(&mut streams, 260, 264), Some((264, 520)));
        assert_eq!(follow(&mut streams, 520, 524), Some((524, 780)), "no more");
    }

    #[test]
    fn faults_here_and_there_fetch_nothing() {
        let mut streams = Streams::default();
        for fault in [100, 7, 900, 300, 50, 1200, 640, 33, 2000, 5000, 100] {
            assert_eq!(follow(&mut streams, fault, fault + 4), None);
        }
        assert_eq!(streams.0.len(), STREAMS);
    }

    #[test]
    fn several_are_followed() {
        let mut streams = Streams::default();
        for start in [0, 1000, 2000] {
            assert_eq!(follow(&mut streams, start, start + 4), None);
        }
        for start in [2000, 0, 1000] {
            let window = Some((start + 8, start + 24));
            assert_eq!(follow(&mut streams, start + 4, start + 8), window);
        }
    }
}
