//! While the kernel refuses to install anything: what has been fetched is kept, and the thread gets the processor that must go on.
//!
//! The kernel refuses from the moment at which a call begins to change an address space until the thread whose last event was read has
//! gone on. Nothing tells of that. So a few times it is tried again at once; then the loop waits for whatever comes next, and no longer
//! than it may take.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use nix::sched::sched_yield;

use super::engine::Engine;
use crate::session::{Block, Request, Turn};

/// Tries in a row for which nothing but others that want to run is waited for.
const AT_ONCE: u32 = 16;
/// Tries before the loop waits twice as long.
const STEP: u32 = 4;
/// The first wait, and how often it is doubled: from 0.1 ms to nearly 1 ms.
const SHORT: Duration = Duration::from_micros(100);
const DOUBLED: u32 = 3;

/// What could not be installed.
#[derive(Debug, Default)]
pub(super) struct Stalling {
    /// Pages that somebody waits for, from the pool.
    refused: VecDeque<(Request, Block)>,
    /// Rounds of the loop in a row that brought nothing forward, although there was something to do.
    rounds: u32,
    /// Pages that had been dealt with before.
    settled: u64,
}

/// How long to wait before the next try. `None`: only for those that want to run.
fn pause(rounds: u32) -> Option<Duration> {
    let later = rounds.checked_sub(AT_ONCE)?;
    Some(SHORT * 2_u32.pow((later / STEP).min(DOUBLED)))
}

impl Engine {
    /// Content has come that somebody waits for.
    pub(super) fn deliver(&mut self, request: Request, block: Block, now: Instant) {
        let space = request.space;
        let mut refused = self.stalling.refused.iter();
        let turn = if refused.any(|(other, _)| other.space == space) {
            Turn::Later
        } else {
            self.session.deliver(&request, &block, now)
        };
        self.after_delivery(&request, turn);
        if turn == Turn::Later {
            self.stalling.refused.push_back((request, block));
        } else {
            self.supply.pool.give_back(block);
        }
    }

    /// What was refused is delivered again, as it is. Where the first is refused, the others would be as well.
    pub(super) fn deliver_again(&mut self, now: Instant) {
        for (request, block) in std::mem::take(&mut self.stalling.refused) {
            self.deliver(request, block, now);
        }
    }

    /// Takes note of whether a round of the loop has brought anything forward.
    pub(super) fn note_stall(&mut self) {
        let settled = self.session.counts().settled();
        let stalls = settled == self.stalling.settled && !self.soon.is_empty();
        self.stalling.settled = settled;
        self.stalling.rounds = if stalls {
            self.stalling.rounds.saturating_add(1)
        } else {
            0
        };
    }

    /// How long to wait for the next thing to happen, at most.
    pub(super) fn patience(&mut self, now: Instant) -> Option<Duration> {
        if self.soon.is_empty() {
            if self.has_to_replay() {
                return Some(Duration::ZERO);
            }
            return self.filling.patience(now, self.asked_to_end);
        }
        match pause(self.stalling.rounds) {
            None => {
                // It cannot fail on Linux.
                let _ = sched_yield();
            }
            Some(most) => self.poller.pause(most),
        }
        Some(Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_waits_longer_and_longer() {
        let waits: Vec<_> = (0..100).map(pause).collect();
        assert_eq!(waits[15], None);
        assert_eq!(waits[16], Some(Duration::from_micros(100)));
        assert!(waits.is_sorted());
        assert_eq!(waits[99], Some(Duration::from_micros(800)));
    }
}
