//! Threads of a target that touch memory at the same time, each its own part.

use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::area::Area;
use crate::measure::Random;
use crate::target::stamp;

/// What they do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crowd {
    /// How many.
    pub(crate) threads: usize,
    /// Pages that each of them touches, at random.
    pub(crate) touches: usize,
    /// Between two touches.
    pub(crate) pause: Duration,
    /// In the pause they sleep; otherwise they work.
    pub(crate) sleeps: bool,
    /// They stay on one core each, as threads of a virtual machine do that an operator has placed.
    pub(crate) pinned: bool,
}

impl Crowd {
    /// As an order.
    pub(crate) fn words(self) -> [u64; 6] {
        let pause = u64::try_from(self.pause.as_nanos()).expect("short");
        let how = u64::from(self.sleeps) | u64::from(self.pinned) << 1;
        [4, self.threads as u64, self.touches as u64, pause, how, 0]
    }

    /// From an order.
    pub(crate) fn of(words: [u64; 5]) -> Self {
        let [threads, touches, pause, how, _] = words;
        let size = |number: u64| usize::try_from(number).expect("64 bits");
        Self {
            threads: size(threads),
            touches: size(touches),
            pause: Duration::from_nanos(pause),
            sleeps: how & 1 != 0,
            pinned: how & 2 != 0,
        }
    }

    /// Does it, and leaves in `times` how long each touch took. Returns what the reply has.
    pub(crate) fn touch(self, area: &Area, times: &Area) -> [u64; 6] {
        let begun = Instant::now();
        let wrong: u64 = thread::scope(|scope| {
            let threads: Vec<_> = (0..self.threads)
                .map(|number| scope.spawn(move || self.touch_part(number, area, times)))
                .collect();
            let wrong = threads
                .into_iter()
                .map(|thread| thread.join().expect("a thread"));
            wrong.sum()
        });
        let all = u64::try_from(begun.elapsed().as_nanos()).expect("short");
        let touches = (self.threads * self.touches) as u64;
        [touches, touches, all, wrong, 0, 0]
    }

    fn touch_part(self, number: usize, area: &Area, times: &Area) -> u64 {
        if self.pinned {
            let mut one = CpuSet::new();
            let cores = thread::available_parallelism().map_or(1, usize::from);
            one.set(number % cores).expect("a core");
            sched_setaffinity(Pid::from_raw(0), &one).expect("the affinity");
        }
        let part = area.pages / self.threads;
        let mut pages: Vec<usize> = (number * part..(number + 1) * part).collect();
        Random::new(number as u64).shuffle(&mut pages);
        let mut wrong = 0;
        for (touch, &page) in pages.iter().take(self.touches).enumerate() {
            let start = Instant::now();
            let found = area.read(page, 0);
            let took = start.elapsed();
            wrong += u64::from(found != stamp(page));
            let at = number * self.touches + touch;
            times.write(
                at / 512,
                at % 512,
                u64::try_from(took.as_nanos()).expect("short"),
            );
            if self.sleeps {
                thread::sleep(self.pause);
            } else {
                while start.elapsed() < took + self.pause {
                    std::hint::spin_loop();
                }
            }
        }
        wrong
    }
}
