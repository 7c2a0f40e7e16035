//! Clocks, order and percentiles.

use std::time::Instant;

/// Seconds of CPU time this thread has used: other processes do not count.
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: clock_gettime writes one timespec to the pointer, which is a live local.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Wall nanoseconds that `work` took.
pub fn nanos(work: impl FnOnce()) -> u32 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos().try_into().unwrap_or(u32::MAX)
}

pub fn percentile(times: &mut [u32], percent: usize) -> u32 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

pub fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A small generator: the same order in every run.
pub struct Random(u64);

impl Random {
    pub fn new() -> Self {
        Random(0x9e37_79b9_7f4a_7c15)
    }
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}
