//! So many VMMs are served at a time; others have handed over and wait for one of them to leave.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Places for those who are served, who gets one in the order in which they asked.
#[derive(Debug)]
pub(super) struct Places {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Who asks next gets this number.
    next: u64,
    /// Whose turn it is.
    turn: u64,
}

/// One of them, until this is dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Places);

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self {
            state: Mutex::new(State {
                free: count,
                next: 0,
                turn: 0,
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for one.
    pub(super) fn take(&self) -> Place<'_> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        let not_yet = |state: &mut State| state.free == 0 || state.turn != number;
        let mut state = self
            .changed
            .wait_while(state, not_yet)
            .unwrap_or_else(PoisonError::into_inner);
        state.free -= 1;
        state.turn += 1;
        self.changed.notify_all();
        Place(self)
    }

    /// Nobody waits any more: the program is to end, and who is there is served before.
    pub(super) fn open_to_all(&self) {
        self.lock().free = usize::MAX / 2;
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_than_there_are_at_a_time() {
        let (places, inside, most) = (Places::new(2), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _place = places.take();
                        let now = inside.fetch_add(1, Ordering::SeqCst) + 1;
                        most.fetch_max(now, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn in_the_end_nobody_waits() {
        let places = Places::new(1);
        let _first = places.take();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| drop(places.take()));
            places.open_to_all();
            waits.join().expect("let in");
        });
    }

    #[test]
    fn who_asks_first_is_first() {
        let places = Places::new(1);
        let order = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            let first = places.take();
            for number in 0..8 {
                let (places, order) = (&places, &order);
                scope.spawn(move || {
                    let _place = places.take();
                    order.lock().expect("nobody panics").push(number);
                });
                while places.lock().next < number + 2 {
                    std::thread::yield_now();
                }
            }
            drop(first);
        });
        let order = order.into_inner().expect("nobody panics");
        assert_eq!(order, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
