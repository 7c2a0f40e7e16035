//! Units of work on several threads, their results consumed in order, in bounded memory.

use crossbeam_channel::{bounded, unbounded};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError};
use std::thread;

/// What the threads do.
pub(crate) trait Work: Sync {
    /// A piece of the work.
    type Unit;
    /// A thread's own state.
    type State;
    /// Room for the result of a unit, used again and again.
    type Room: Send;

    fn state(&self) -> Self::State;
    fn room(&self) -> Self::Room;
    fn unit(&self, state: &mut Self::State, unit: Self::Unit, room: &mut Self::Room);
}

/// Do all of `units` on `threads` threads and hand the results to `consume` in order, on the calling thread, until it
/// fails.
pub(crate) fn in_order<W: Work, E>(
    work: &W,
    threads: usize,
    units: impl Iterator<Item = W::Unit> + Send,
    mut consume: impl FnMut(&mut W::Room) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.max(1);
    // So many that the threads need not stop when the consumer is not scheduled for a moment.
    let rooms = 4 * threads + 2;
    let units = Mutex::new(units.enumerate());
    thread::scope(|scope| {
        let (free, free_out) = bounded(rooms);
        let (done, done_out) = unbounded();
        for _ in 0..rooms {
            let _ = free.send(work.room());
        }
        for _ in 0..threads {
            let (free_out, done, units) = (free_out.clone(), done.clone(), &units);
            scope.spawn(move || {
                let mut state = work.state();
                // Room first, then the unit: so the oldest unit has room, and the consumer gets on.
                while let Ok(mut room) = free_out.recv() {
                    let next = units.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((number, unit)) = next else { return };
                    let worked =
                        catch_unwind(AssertUnwindSafe(|| work.unit(&mut state, unit, &mut room)));
                    if done.send((number, worked.map(|()| room))).is_err() {
                        return;
                    }
                }
            });
        }
        // What is left are the threads' own: when all have ended, so does the loop.
        drop((free_out, done));
        // Moved in, so that an early return drops them and the threads end.
        let (free, done_out) = (free, done_out);
        let mut early = BTreeMap::new();
        let mut expected = 0;
        for (number, worked) in &done_out {
            early.insert(number, worked.unwrap_or_else(|panic| resume_unwind(panic)));
            while let Some(mut room) = early.remove(&expected) {
                consume(&mut room)?;
                expected += 1;
                // The threads may have ended already.
                let _ = free.send(room);
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Squares;

    impl Work for Squares {
        type Unit = u64;
        type State = ();
        type Room = u64;
        fn state(&self) {}
        fn room(&self) -> u64 {
            0
        }
        fn unit(&self, (): &mut (), unit: u64, room: &mut u64) {
            assert!(unit != 5000, "unit 5000 panics");
            *room = unit * unit;
        }
    }

    #[test]
    fn results_come_in_order_and_all_of_them() {
        for threads in [1, 2, 7] {
            for units in [0, 1, 1000] {
                let mut seen = Vec::new();
                let ok: Result<(), ()> = in_order(&Squares, threads, 0..units, |square| {
                    seen.push(*square);
                    Ok(())
                });
                assert_eq!(ok, Ok(()));
                assert_eq!(seen, (0..units).map(|unit| unit * unit).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_consumer_that_fails_ends_it() {
        let mut left = 10;
        let end = in_order(&Squares, 3, 0..1000, |_| {
            left -= 1;
            if left == 0 { Err("enough") } else { Ok(()) }
        });
        assert_eq!(end, Err("enough"));
    }

    #[test]
    fn a_worker_that_panics_panics_the_caller_and_does_not_hang() {
        let outcome = catch_unwind(|| in_order(&Squares, 3, 0..10_000, |_| Ok::<(), ()>(())));
        assert!(outcome.is_err());
    }
}
