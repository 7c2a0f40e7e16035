//! The faults of one address space that have been read and not answered.
//!
//! Not a queue of work to be done later: an entry lives from the message until the page is installed or its waiters are
//! woken, and whatever is forgotten here the kernel asks again after a wake.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;

use crate::addr::Addr;
use crate::uffd::Fault;

/// A page that threads wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Waiter {
    /// When its first message was read.
    pub(super) since: Instant,
    /// The thread of the first message, as it is numbered in its own pid namespace; 0 if the kernel does not say.
    pub(super) thread: u32,
    /// Messages for it. A thread that spins, or many threads.
    messages: u32,
    /// Its content has been asked for.
    requested: bool,
}

/// Pages by address, in the order to answer them: those with several messages first, then in order of arrival. A
/// kernel-mode fault of a thread with a signal pending floods us with messages until its page is there.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    waiters: HashMap<Addr, Waiter, BuildHasherDefault<PageHasher>>,
    hot: VecDeque<Addr>,
    order: VecDeque<Addr>,
    /// How many of them have been asked for.
    requested: usize,
}

/// For addresses of pages. A target that chose them to collide would slow down nobody but itself, and it has no more of them than threads.
#[derive(Debug, Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // Fibonacci hashing, with the good bits at both ends, where the table takes them from.
        let product = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}

impl Waiting {
    /// A message was read.
    pub(super) fn note(&mut self, page: Addr, fault: &Fault, now: Instant) {
        if let Some(waiter) = self.waiters.get_mut(&page) {
            waiter.messages = waiter.messages.saturating_add(1);
            if waiter.messages == 2 && !waiter.requested {
                self.hot.push_back(page);
            }
            return;
        }
        let waiter = Waiter {
            since: now,
            thread: fault.thread,
            messages: 1,
            requested: false,
        };
        self.waiters.insert(page, waiter);
        self.order.push_back(page);
    }

    /// The next page to answer. It stays known until [`Waiting::answered`].
    pub(super) fn next(&mut self) -> Option<Addr> {
        loop {
            let page = self.hot.pop_front().or_else(|| self.order.pop_front())?;
            // A page that was hot stands in both queues, and one that was answered may still stand in one.
            if self
                .waiters
                .get(&page)
                .is_some_and(|waiter| !waiter.requested)
            {
                return Some(page);
            }
        }
    }

    /// Puts back a page that cannot be answered yet, behind the others.
    pub(super) fn put_back(&mut self, page: Addr) {
        self.order.push_back(page);
    }

    /// Puts back a page that is to be the next again.
    pub(super) fn put_first(&mut self, page: Addr) {
        self.hot.push_front(page);
    }

    /// The content of a page has been asked for: [`Waiting::next`] does not name it any more.
    pub(super) fn requested(&mut self, page: Addr) {
        if let Some(waiter) = self.waiters.get_mut(&page)
            && !waiter.requested
        {
            waiter.requested = true;
            self.requested += 1;
        }
    }

    /// The content did not fit any more when it came: the page is to be answered anew.
    pub(super) fn ask_again(&mut self, page: Addr) {
        if let Some(waiter) = self.waiters.get_mut(&page) {
            self.requested -= usize::from(waiter.requested);
            waiter.requested = false;
            self.order.push_back(page);
        }
    }

    /// The page was installed, or its waiters woken.
    pub(super) fn answered(&mut self, page: Addr) -> Option<Waiter> {
        let waiter = self.waiters.remove(&page);
        self.requested -= usize::from(waiter.is_some_and(|waiter| waiter.requested));
        if self.waiters.is_empty() {
            self.hot.clear();
            self.order.clear();
        }
        waiter
    }

    /// What is known of a page.
    pub(super) fn waiter(&self, page: Addr) -> Option<&Waiter> {
        self.waiters.get(&page)
    }

    /// Pages that can be answered now.
    pub(super) fn unrequested(&self) -> usize {
        self.waiters.len() - self.requested
    }

    /// Pages of all kinds.
    pub(super) fn len(&self) -> usize {
        self.waiters.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(waiting: &mut Waiting, page: u64) {
        waiting.note(Addr(page), &Fault::default(), Instant::now());
    }

    #[test]
    fn pages_that_many_wait_for_come_first() {
        let mut waiting = Waiting::default();
        for page in [1, 2, 3, 2, 3, 2] {
            note(&mut waiting, page);
        }
        let mut order = Vec::new();
        while let Some(page) = waiting.next() {
            order.push(page.0);
            waiting.answered(page);
        }
        assert_eq!(order, [2, 3, 1]);
        assert_eq!(waiting.len(), 0);
    }

    #[test]
    fn a_requested_page_is_not_named_twice() {
        let mut waiting = Waiting::default();
        note(&mut waiting, 1);
        assert_eq!(waiting.next(), Some(Addr(1)));
        waiting.requested(Addr(1));
        note(&mut waiting, 1);
        assert_eq!(waiting.next(), None);
        assert_eq!((waiting.unrequested(), waiting.len()), (0, 1));
        waiting.ask_again(Addr(1));
        assert_eq!(waiting.next(), Some(Addr(1)));
    }

    #[test]
    fn what_is_put_back_comes_last() {
        let mut waiting = Waiting::default();
        note(&mut waiting, 1);
        note(&mut waiting, 2);
        let first = waiting.next().expect("two wait");
        waiting.put_back(first);
        assert_eq!(waiting.next(), Some(Addr(2)));
        assert_eq!(waiting.next(), Some(Addr(1)));
        waiting.put_back(Addr(2));
        waiting.put_first(Addr(1));
        assert_eq!(waiting.next(), Some(Addr(1)));
    }
}
