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
    /// For so long, a year at most: no clock goes on for ever.
    pub(super) fn lasting(time: Duration) -> Self {
        const LONG_ENOUGH: Duration = Duration::from_secs(365 * 24 * 3600);
        Self {
            deadline: Instant::now() + time.min(LONG_ENOUGH),
            looks: 0,
        }
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
