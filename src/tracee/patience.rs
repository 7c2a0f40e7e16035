//! Waiting for what no descriptor tells about.

use std::thread;
use std::time::{Duration, Instant};

/// Waits: first by giving the processor away, then by ever longer naps.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Instant,
    looks: u32,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, looks: 0 }
    }

    /// Waits a little. False when the time is over.
    pub(super) fn wait(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        match self.looks {
            0..=200 => thread::yield_now(),
            201..=1000 => thread::sleep(Duration::from_micros(20)),
            _ => thread::sleep(Duration::from_millis(1)),
        }
        Instant::now() < self.deadline
    }
}
