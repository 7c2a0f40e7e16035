//! Clocks, cores, order and percentiles.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::unistd::Pid;
use std::time::Instant;

/// What a piece of work took.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds by the clock on the wall: what a user waits.
    pub wall: f64,
    /// Seconds of CPU time of all threads and of finished children: hardly disturbed by other programs.
    pub cpu: f64,
}

/// The cores this program may use.
pub struct Cores(Vec<usize>);

impl Cores {
    /// Those it was started with.
    pub fn all() -> Self {
        let set = sched_getaffinity(Pid::from_raw(0)).expect("the affinity");
        Self(
            (0..CpuSet::count())
                .filter(|&cpu| set.is_set(cpu) == Ok(true))
                .collect(),
        )
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Measure `work` on the last `cores` of them. Threads and processes that it starts stay there too: one job has one core for
    /// everything around the codec as well.
    pub fn cost<T>(&self, cores: usize, work: impl FnOnce() -> T) -> (T, Cost) {
        self.limit(cores);
        let (start, cpu) = (Instant::now(), cpu_seconds());
        let result = work();
        let cost = Cost {
            wall: start.elapsed().as_secs_f64(),
            cpu: cpu_seconds() - cpu,
        };
        self.limit(self.count());
        (result, cost)
    }

    /// Let this thread, and those it starts, run on the last `cores` cores only.
    pub fn limit(&self, cores: usize) {
        let mut set = CpuSet::new();
        for &cpu in self.0.iter().rev().take(cores) {
            set.set(cpu).expect("a core");
        }
        sched_setaffinity(Pid::from_raw(0), &set).expect("the affinity");
    }
}

/// CPU seconds of this process and of its children that have ended.
pub fn cpu_seconds() -> f64 {
    let seconds = |usage: Usage| {
        [usage.user_time(), usage.system_time()]
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .iter()
            .sum::<f64>()
    };
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .map(|who| seconds(getrusage(who).expect("getrusage")))
        .iter()
        .sum()
}

/// Wall nanoseconds that `work` took.
pub fn nanos(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

/// Values of the same thing, one of every round.
#[derive(Debug, Clone, Default)]
pub struct Series(Vec<f64>);

impl Series {
    /// Add a round's value.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// No value yet.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value in the middle; the lower one of two.
    pub fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The value that `percent` % of the values do not exceed.
    pub fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[(sorted.len() - 1) * percent / 100]
    }

    /// Smallest and largest.
    pub fn range(&self) -> (f64, f64) {
        (self.percentile(0), self.percentile(100))
    }

    /// How far the rounds are apart: half the values lie in so many % of the median.
    pub fn spread(&self) -> f64 {
        (self.percentile(75) - self.percentile(25)) * 100.0 / self.median()
    }
}

/// A small generator: the same order in every run.
pub struct Random(u64);

impl Random {
    /// One of many orders.
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end
    }
}
