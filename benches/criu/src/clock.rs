//! A clock that two processes can compare.

use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of the time of day: CRIU lets what it restores live in a time namespace, where the monotonic clock goes on from
/// the dump.
pub(crate) fn now() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_REALTIME).expect("a clock");
    let part = |number: i64| u64::try_from(number).expect("a time after 1970");
    part(time.tv_sec()) * 1_000_000_000 + part(time.tv_nsec())
}

/// Milliseconds between two times.
pub(crate) fn millis(from: u64, to: u64) -> f64 {
    assert!(from <= to, "the clock was set meanwhile");
    (to - from) as f64 / 1e6
}
