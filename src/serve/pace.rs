//! How fast pages are installed that nobody waits for: pure.
//!
//! As fast as it goes while the target asks for nothing. While it asks, little by little: a fault that comes in the middle of an install waits for
//! its end, and threads that decode take processors from the target. And never faster than somebody said.

use std::time::{Duration, Instant};

/// A target that has asked for something within this time is about to ask again.
const QUIET: Duration = Duration::from_millis(10);
/// While it asks, one install in this time: of a hundred faults of 20 µs one or two come in the middle of it.
const GAP: Duration = Duration::from_millis(2);
/// Pages of such an install: about 10 µs.
const FEW: u64 = 8;
/// The same for who is in a hurry to have all: a fifth of the loop's time. A fault waits for such an install now and then, which is what decoding
/// a frame takes.
const SHORT_GAP: Duration = Duration::from_micros(250);
const MORE: u64 = 32;
/// What was not used of a rate is forgotten after so long: it is not for a burst.
const ARREARS: Duration = Duration::from_millis(20);

/// When to go on.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Bytes a second.
    rate: Option<u64>,
    /// Having all soon is worth something.
    urgent: bool,
    /// At that rate, all that was installed would have been by then.
    paid_until: Option<Instant>,
    fault: Option<Instant>,
    install: Option<Instant>,
    faults: u64,
}

impl Pace {
    pub(super) fn new(rate: Option<u64>, urgent: bool) -> Self {
        Self {
            rate,
            urgent,
            ..Self::default()
        }
    }

    /// So many faults have been read so far.
    pub(super) fn note_faults(&mut self, faults: u64, now: Instant) {
        if faults != self.faults {
            self.faults = faults;
            self.fault = Some(now);
        }
    }

    /// True while the target asks.
    pub(super) fn is_asked(&self, now: Instant) -> bool {
        self.fault
            .is_some_and(|fault| now.saturating_duration_since(fault) < QUIET)
    }

    /// How many pages to fetch with one request, if they are not to be more than `most`.
    pub(super) fn pages(&self, most: u64, now: Instant) -> u64 {
        if self.is_asked(now) {
            most.min(if self.urgent { MORE } else { FEW })
        } else {
            most
        }
    }

    /// How long to wait with the next install.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        let rated = self
            .paid_until
            .map_or(Duration::ZERO, |until| until.saturating_duration_since(now));
        let polite = self
            .install
            .filter(|_| self.is_asked(now))
            .map_or(Duration::ZERO, |last| {
                let gap = if self.urgent { SHORT_GAP } else { GAP };
                (last + gap).saturating_duration_since(now)
            });
        rated.max(polite)
    }

    /// So many bytes were installed.
    pub(super) fn took(&mut self, bytes: u64, now: Instant) {
        self.install = Some(now);
        let Some(rate) = self.rate.filter(|rate| *rate > 0) else {
            return;
        };
        let earliest = now.checked_sub(ARREARS).unwrap_or(now);
        let from = self.paid_until.map_or(now, |until| until.max(earliest));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        self.paid_until = from.checked_add(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn who_asks_comes_first() {
        let start = Instant::now();
        let mut pace = Pace::new(None, false);
        assert_eq!(
            (pace.wait(start), pace.pages(32, start)),
            (Duration::ZERO, 32)
        );
        pace.took(1 << 17, start);
        assert_eq!(pace.wait(start), Duration::ZERO, "nobody asks");
        pace.note_faults(1, start);
        assert_eq!((pace.wait(start), pace.pages(32, start)), (GAP, FEW));
        let later = start + QUIET - MILLISECOND;
        assert_eq!(
            (pace.wait(later), pace.pages(32, later)),
            (Duration::ZERO, FEW)
        );
        pace.note_faults(1, start + QUIET);
        assert_eq!(pace.pages(32, start + QUIET), 32, "nobody has asked since");
    }

    #[test]
    fn who_is_in_a_hurry_gives_way_for_a_shorter_time() {
        let start = Instant::now();
        let mut pace = Pace::new(None, true);
        pace.note_faults(1, start);
        pace.took(1 << 17, start);
        assert_eq!((pace.wait(start), pace.pages(64, start)), (SHORT_GAP, MORE));
        assert!(pace.wait(start + SHORT_GAP).is_zero());
    }

    #[test]
    fn no_faster_than_somebody_said() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100 << 20), false);
        let (mut now, mut bytes) = (start, 0_u64);
        while now < start + Duration::from_secs(1) {
            let wait = pace.wait(now);
            if wait.is_zero() {
                pace.took(1 << 17, now);
                bytes += 1 << 17;
            }
            // Whoever waits is woken late.
            now += wait + MILLISECOND;
        }
        assert!(bytes.abs_diff(100 << 20) < 2 << 20, "{bytes}");
        // What was not used for a second is not made up for.
        let later = now + Duration::from_secs(1);
        let mut burst = 0;
        while pace.wait(later).is_zero() {
            pace.took(1 << 17, later);
            burst += 1;
        }
        assert!(burst < 20, "{burst}");
    }
}
