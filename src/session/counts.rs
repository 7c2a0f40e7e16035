//! What happened, for people.

use std::time::Duration;

/// Numbers of pages of 4 KiB, and of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Fault messages read.
    pub faults: u64,
    /// Pages with content installed because a thread waited for them.
    pub demand: u64,
    /// Pages with content installed beside those, because they came with them.
    pub neighbours: u64,
    /// Pages with content installed before anybody asked.
    pub prefill: u64,
    /// Pages with content installed because they were touched last time.
    pub replayed: u64,
    /// Pages of zeros: installed, or left to the kernel.
    pub zero: u64,
    /// Owed pages that the target dropped, unmapped or moved something onto.
    pub removed: u64,
    /// Pages that were there already when they were to be installed.
    pub present: u64,
    /// Owed pages in memory that turned out not to be registered.
    pub untracked: u64,
    /// Pages that could not be served.
    pub poisoned: u64,
    /// Address spaces forked.
    pub forks: u64,
    /// REMOVE, UNMAP and REMAP events.
    pub removes: u64,
    /// See above.
    pub unmaps: u64,
    /// See above.
    pub remaps: u64,
    /// Installs that the kernel refused because the address space was changing.
    pub refused: u64,
    /// Processes that were ended because they could not be served.
    pub unserved: u64,
    /// Processes that were handed over, and ended before everything was in place.
    pub ended_owing: u64,
}

impl Counts {
    /// Pages of which something has become, for as long as somebody could have asked for them.
    #[must_use]
    pub fn settled(&self) -> u64 {
        let installed = self.demand + self.neighbours + self.prefill + self.replayed + self.zero;
        installed + self.present + self.untracked + self.poisoned
    }

    /// Numbers in it.
    const COUNT: usize = size_of::<Self>() / size_of::<u64>();

    /// Each number, in an order that does not change.
    fn each(&mut self) -> [&mut u64; Self::COUNT] {
        [
            &mut self.faults,
            &mut self.demand,
            &mut self.neighbours,
            &mut self.prefill,
            &mut self.replayed,
            &mut self.zero,
            &mut self.removed,
            &mut self.present,
            &mut self.untracked,
            &mut self.poisoned,
            &mut self.forks,
            &mut self.removes,
            &mut self.unmaps,
            &mut self.remaps,
            &mut self.refused,
            &mut self.unserved,
            &mut self.ended_owing,
        ]
    }

    /// All numbers.
    pub(super) fn words(mut self) -> [u64; Self::COUNT] {
        self.each().map(|number| *number)
    }

    /// The same the other way round.
    pub(super) fn of_words(words: [u64; Self::COUNT]) -> Self {
        let mut counts = Self::default();
        for (number, word) in counts.each().into_iter().zip(words) {
            *number = word;
        }
        counts
    }
}

/// A histogram of times: 16 steps for each power of two of nanoseconds, so that a quantile is right to 6 %.
#[derive(Debug, Clone)]
pub struct Latency {
    steps: Vec<u64>,
    count: u64,
}

const STEPS: u32 = 16;
const STEP_BITS: u32 = STEPS.trailing_zeros();

impl Default for Latency {
    fn default() -> Self {
        Self {
            steps: vec![0; 64 * STEPS as usize],
            count: 0,
        }
    }
}

impl Latency {
    /// Adds a time.
    pub fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Some(step) = self.steps.get_mut(step_of(nanoseconds)) {
            *step += 1;
        }
        self.count += 1;
    }

    /// Times added.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The time that this part of all (0.5 for the median) was not above; `None` when there is none.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count of faults, for people"
        )]
        let wanted = ((self.count as f64) * part).ceil() as u64;
        let mut seen = 0;
        for (step, &count) in self.steps.iter().enumerate() {
            seen += count;
            if count > 0 && seen >= wanted.max(1) {
                return Some(Duration::from_nanos(end_of(step)));
            }
        }
        None
    }
}

/// Values below 16 have a step each; above, the four bits after the leading one choose it.
fn step_of(value: u64) -> usize {
    let magnitude = (value | 1).ilog2().max(STEP_BITS);
    let position = value >> (magnitude - STEP_BITS);
    usize::try_from(u64::from(magnitude - STEP_BITS) * u64::from(STEPS) + position)
        .unwrap_or(usize::MAX)
}

/// The highest value of a step.
fn end_of(step: usize) -> u64 {
    let step = step as u64;
    let steps = u64::from(STEPS);
    if step < 2 * steps {
        return step;
    }
    let shift = u32::try_from(step / steps - 1).unwrap_or(0).min(59);
    (((step % steps + steps + 1) << shift).wrapping_sub(1)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_step() {
        for value in (0..100).chain([1000, 12_345, 1 << 20, (1 << 40) + 7, u64::MAX / 3]) {
            let end = end_of(step_of(value));
            assert!(end >= value, "{value}: {end}");
            assert!(end - value <= value / 16, "{value}: {end}");
        }
    }

    #[test]
    fn quantiles() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        for microseconds in 1..=100 {
            latency.add(Duration::from_micros(microseconds));
        }
        let near = |part, microseconds: u64| {
            let found = latency.quantile(part).expect("there are some");
            let wanted = Duration::from_micros(microseconds);
            found >= wanted && found <= wanted + wanted / 15
        };
        assert!(near(0.5, 50) && near(0.99, 99) && near(1.0, 100));
    }
}
