//! Percentiles, medians of rounds, an order that is the same in every run, and how busy the machine was.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs;

use nix::sys::resource::{Usage, UsageWho, getrusage};

/// Values of the same thing: one of every round, or of every fault.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series(Vec<f64>);

impl Series {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub(crate) fn median(&self) -> f64 {
        self.percentile(50)
    }

    /// The value that `percent` % of the values do not exceed.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        sorted[(sorted.len() - 1) * percent / 100]
    }

    /// Those that are larger than so much.
    pub(crate) fn above(&self, least: f64) -> Self {
        self.0
            .iter()
            .copied()
            .filter(|value| *value > least)
            .collect()
    }

    /// All of them, as they came.
    pub(crate) fn values(&self) -> Vec<f64> {
        self.0.clone()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The largest, if there is one.
    pub(crate) fn largest(&self) -> Option<f64> {
        self.0.iter().copied().max_by(f64::total_cmp)
    }

    /// One value of so many, beginning with this one.
    pub(crate) fn one_of(&self, many: usize, first: usize) -> Self {
        self.0.iter().copied().skip(first).step_by(many).collect()
    }

    /// Round by round, as ratios.
    pub(crate) fn over(&self, than: &Self) -> Self {
        let both = self.0.iter().zip(&than.0);
        Self(both.map(|(this, that)| this / that).collect())
    }

    /// "1.23 (1.20 - 1.31)": the median, the smallest and the largest.
    pub(crate) fn ratio(&self) -> String {
        format!(
            "**{:.2}** ({:.2} - {:.2})",
            self.median(),
            self.percentile(0),
            self.percentile(100)
        )
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<T: IntoIterator<Item = f64>>(values: T) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A small generator: the same order in every run.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ (seed + 1).wrapping_mul(0xd134_2543_de82_ef95))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = usize::try_from(self.next()).expect("64 bits") % (last + 1);
            items.swap(last, other);
        }
    }
}

/// Seconds of CPU time: of the whole machine, and of this program with its children that have ended.
#[derive(Debug)]
pub(crate) struct Noise {
    machine: Vec<f64>,
    own: f64,
}

impl Noise {
    pub(crate) fn now() -> Self {
        let text = fs::read_to_string("/proc/stat").expect("/proc/stat");
        let line = text.lines().next().unwrap_or_default();
        // A hundred ticks are a second on every Linux.
        let machine = line
            .split_whitespace()
            .skip(1)
            .map(|ticks| ticks.parse::<f64>().unwrap_or(0.0) / 100.0)
            .collect();
        let seconds = |usage: Usage| {
            [usage.user_time(), usage.system_time()]
                .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
                .iter()
                .sum::<f64>()
        };
        let own = [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
            .map(|who| seconds(getrusage(who).expect("getrusage")))
            .iter()
            .sum();
        Self { machine, own }
    }

    /// Since `before`, in percent: what other programs used, and what the hypervisor took.
    pub(crate) fn since(&self, before: &Self) -> (f64, f64) {
        let passed: Vec<f64> = self
            .machine
            .iter()
            .zip(&before.machine)
            .map(|(now, then)| now - then)
            .take(8)
            .collect();
        // user nice system idle iowait irq softirq steal
        let [user, nice, system, _, _, irq, softirq, steal] = passed[..] else {
            return (0.0, 0.0);
        };
        let all: f64 = passed.iter().sum();
        let others = user + nice + system + irq + softirq - (self.own - before.own);
        (others.max(0.0) * 100.0 / all, steal * 100.0 / all)
    }
}
