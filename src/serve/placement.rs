//! Where the loop's thread runs.
//!
//! The scheduler wakes a thread on a core that is idle, rather than where its waker is about to go to sleep. For a fault that is the wrong
//! choice twice: waking an idle core, the reader's and then the faulting thread's again, costs more than everything else
//! (in a virtual machine 14 µs each; the rest of a fault of one page is 6). So when one thread faults alone, the loop stays on the core
//! where that thread runs: while the one runs the other waits anyway. That alone becomes a hunt where another core is idle but awake, because the
//! scheduler moves whoever is woken there: so the loop is humble ([`humble`]) when nothing else runs, and never otherwise, for then it would
//! wait for milliseconds. When several threads fault, or there is more to do than to answer, it goes where the scheduler likes.
//! `scripts/bench restore --only placement` compares ways to do it, `benches/RESULTS.md` has the numbers.
//!
//! [`Policy`] decides, and knows nothing of the system; [`Placement`] looks and moves.

mod humble;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::Target;
use super::roots::Roots;
use crate::session::{Faulter, SpaceId};

/// Faults in a row that make a thread one that faults alone. By then it is worth a look, which costs as much as a fault.
const ALONE: u64 = 32;
/// Faults until the next look after a move, which is to be known soon: who is woken may be moved to the core that the loop just left.
const FIRST_LOOK: u64 = 8;
/// Most faults until the next look. Looks at one in 256 do not show in the 99th percentile.
const LAST_LOOK: u64 = 128;
/// A thread that was found elsewhere so many times in a row cannot be followed.
const CHASE: u32 = 8;
/// A humble loop looks at least so often, if it has anything to do: what runs now may keep it waiting.
const OFTEN: Duration = Duration::from_millis(5);
/// How long the loop may wait for its core, for each fault. Who shares it with a thread that computes waits 0.1 ms on average.
const PATIENCE: Duration = Duration::from_micros(500);
/// How nice the loop is on the core of whoever it answers: otherwise that one goes on at once, and what the loop was about to do, such as opening the gate
/// to those who install, has to wait until it faults again.
const FIRM: i32 = -10;
/// How long it is left to the scheduler after that did not work.
const REST: Duration = Duration::from_secs(2);

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing.
    Stay,
    /// See where the thread is, and how long the loop has waited for its core.
    Look,
    /// To this core, and no other; giving way to everybody, or not.
    Keep {
        /// The core.
        core: usize,
        /// Giving way.
        humble: bool,
    },
    /// Wherever the scheduler likes.
    LetGo,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    /// Where the thread ran last; `None` if that is not known, or no core for the loop.
    core: Option<usize>,
    /// How long the loop has waited for its core, ever.
    waited: Duration,
    /// Nothing runs but this and whoever was just answered.
    quiet: bool,
}

/// When to look, and where to be.
#[derive(Debug, Default)]
struct Policy {
    thread: Option<(SpaceId, u32)>,
    /// The core where the loop is kept.
    core: Option<usize>,
    humble: bool,
    /// At which length of the thread's run to look next.
    look_at: u64,
    /// Faults between the last look and the next.
    between: u64,
    waited: Duration,
    /// How often in a row the thread was not where the loop is.
    moves: u32,
    looked: Option<Instant>,
    /// Nothing is kept anywhere until then.
    rest_until: Option<Instant>,
    /// Nothing is humble until then.
    proud_until: Option<Instant>,
}

impl Policy {
    /// Faults have been answered. `busy`: there is more to do than that.
    fn next(&mut self, faulter: Faulter, busy: bool, now: Instant) -> Step {
        if busy || faulter.thread.is_none() || faulter.thread != self.thread {
            let from = if busy { faulter.run } else { 0 };
            self.thread = faulter.thread;
            self.look_at = from + ALONE;
            (self.between, self.moves) = (0, 0);
            return self.let_go();
        }
        let overdue = self.humble && self.looked.is_none_or(|looked| now > looked + OFTEN);
        if faulter.run < self.look_at && !overdue {
            return Step::Stay;
        }
        if self.rest_until.is_some_and(|until| now < until) {
            self.look_at = faulter.run + LAST_LOOK;
            return Step::Stay;
        }
        Step::Look
    }

    fn let_go(&mut self) -> Step {
        self.humble = false;
        match self.core.take() {
            Some(_) => Step::LetGo,
            None => Step::Stay,
        }
    }

    /// A look has found this.
    fn found(&mut self, seen: Seen, now: Instant) -> Step {
        let waited = seen.waited.saturating_sub(self.waited);
        self.waited = seen.waited;
        self.looked = Some(now);
        // Who is humble waits whenever the thread works that was answered.
        let too_long = self.core.is_some()
            && !self.humble
            && waited > PATIENCE.saturating_mul(u32::try_from(self.between).unwrap_or(u32::MAX));
        let moves = match seen.core == self.core {
            true => 0,
            false => self.moves + 1,
        };
        if seen.core.is_none() || too_long || moves > CHASE {
            self.rest_until = now.checked_add(REST);
            (self.between, self.moves) = (LAST_LOOK, 0);
            self.look_at += LAST_LOOK;
            return self.let_go();
        }
        let resting = self.proud_until.is_some_and(|until| now < until);
        if self.humble && !seen.quiet {
            self.proud_until = now.checked_add(REST);
        }
        let humble = seen.quiet && !resting;
        let same = moves == 0 && humble == self.humble;
        self.humble = humble;
        self.between = match moves {
            0 => (2 * self.between).min(LAST_LOOK),
            _ => FIRST_LOOK,
        };
        self.look_at += self.between;
        self.moves = moves;
        self.core = seen.core;
        match seen.core {
            Some(core) if !same => Step::Keep { core, humble },
            _ => Step::Stay,
        }
    }
}

/// The loop's thread, which must be the one that calls. When this is dropped, the thread may run where it might before.
#[derive(Debug)]
pub(super) struct Placement {
    policy: Policy,
    /// Where it may run; `None` if there is nothing to choose.
    allowed: Option<CpuSet>,
    /// The only core where it may run now, because of us.
    kept_on: Option<usize>,
    humble: bool,
    /// How nice it was before.
    nice: i32,
    can_be_humble: bool,
    /// `/proc/PID/task/TID/stat` of the thread that is followed.
    stat: Option<((SpaceId, u32), File)>,
    schedstat: Option<File>,
    loadavg: Option<File>,
}

impl Placement {
    /// For the thread that calls. `follow`: not only where the scheduler likes.
    pub(super) fn of_this_thread(follow: bool) -> Self {
        let allowed = follow.then(|| sched_getaffinity(Pid::from_raw(0)).ok());
        let allowed = allowed.flatten().filter(|cores| count(cores) > 1);
        let schedstat = allowed.and_then(|_| File::open("/proc/thread-self/schedstat").ok());
        Self {
            policy: Policy::default(),
            can_be_humble: allowed.is_some() && humble::is_possible(),
            loadavg: allowed.and_then(|_| File::open("/proc/loadavg").ok()),
            allowed,
            kept_on: None,
            humble: false,
            nice: humble::niceness(),
            stat: None,
            schedstat,
        }
    }

    /// Faults have been answered. `busy`: there is more to do than that, and the target had better not wait for its core meanwhile.
    /// Returns the core where the loop is kept.
    pub(super) fn answered(
        &mut self,
        faulter: Faulter,
        busy: bool,
        roots: &Roots,
        now: Instant,
    ) -> Option<usize> {
        self.allowed?;
        let mut step = self.policy.next(faulter, busy, now);
        if step == Step::Look {
            let seen = Seen {
                core: faulter
                    .thread
                    // The number of a forked child's thread may mean another one where this program looks.
                    .filter(|&(space, _)| roots.has(space))
                    .and_then(|thread| self.core_of(thread, roots.target_of(thread.0)?)),
                waited: self.waited(),
                quiet: self.can_be_humble && self.is_quiet(),
            };
            step = self.policy.found(seen, now);
        }
        match step {
            Step::Stay | Step::Look => {}
            Step::LetGo => self.let_go(),
            Step::Keep { core, humble } => {
                self.keep_on(core);
                self.be_humble(humble && self.kept_on.is_some());
            }
        }
        self.kept_on
    }

    /// Where a thread ran last, if the loop may run there.
    fn core_of(&mut self, thread: (SpaceId, u32), target: &Target) -> Option<usize> {
        if self.stat.as_ref().is_none_or(|(whose, _)| *whose != thread) {
            self.stat = target.stat_of_thread(thread.1).map(|file| (thread, file));
        }
        let (_, stat) = self.stat.as_ref()?;
        let mut room = [0; 1024];
        let len = stat.read_at(&mut room, 0).ok()?;
        let core = processor_in(room.get(..len)?)?;
        let allowed = self.allowed.as_ref()?;
        (allowed.is_set(core) == Ok(true)).then_some(core)
    }

    /// How long this thread has waited for a core.
    fn waited(&self) -> Duration {
        let mut room = [0; 128];
        self.schedstat
            .as_ref()
            .and_then(|file| file.read_at(&mut room, 0).ok())
            .and_then(|len| waited_in(room.get(..len)?))
            .unwrap_or_default()
    }

    /// Nothing runs but this thread and the one that was just answered.
    fn is_quiet(&self) -> bool {
        let mut room = [0; 128];
        let len = self
            .loadavg
            .as_ref()
            .and_then(|file| file.read_at(&mut room, 0).ok());
        let running = len.and_then(|len| running_in(room.get(..len)?));
        running.is_some_and(|running| running <= 2)
    }

    fn be_humble(&mut self, humble: bool) {
        if self.humble != humble {
            // Back always works, or it would not have been tried.
            self.humble = humble::become_humble(humble).is_ok() && humble;
        }
    }

    fn keep_on(&mut self, core: usize) {
        if self.kept_on == Some(core) {
            return;
        }
        let mut one = CpuSet::new();
        let kept = self.is_as_we_left_it()
            && one.set(core).is_ok()
            && sched_setaffinity(Pid::from_raw(0), &one).is_ok();
        if kept {
            self.kept_on = Some(core);
            humble::be_nice(self.nice.min(FIRM));
        } else {
            self.let_go();
            // The core is gone, or somebody else decides where this thread runs.
            self.allowed = None;
        }
    }

    fn let_go(&mut self) {
        if self.kept_on.is_some() {
            humble::be_nice(self.nice);
        }
        self.be_humble(false);
        if self.kept_on.is_some()
            && self.is_as_we_left_it()
            && let Some(allowed) = &self.allowed
        {
            // It fails when none of them is left. The kernel has moved the thread then.
            let _ = sched_setaffinity(Pid::from_raw(0), allowed);
        }
        self.kept_on = None;
    }

    /// Nobody else has changed where this thread may run.
    fn is_as_we_left_it(&self) -> bool {
        let Ok(now) = sched_getaffinity(Pid::from_raw(0)) else {
            return false;
        };
        match self.kept_on {
            Some(core) => count(&now) == 1 && now.is_set(core) == Ok(true),
            None => self.allowed == Some(now),
        }
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn count(cores: &CpuSet) -> usize {
    (0..CpuSet::count())
        .filter(|&core| cores.is_set(core) == Ok(true))
        .count()
}

/// Field 39 of `/proc/PID/task/TID/stat`: the core where the thread ran last.
fn processor_in(stat: &[u8]) -> Option<usize> {
    field_in(stat, 39)
}

/// A field of `/proc/PID/stat`, counted from 1, behind the second one, which may have anything in it, parentheses too.
fn field_in<T: std::str::FromStr>(stat: &[u8], number: usize) -> Option<T> {
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let fields = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    let field = fields
        .split_ascii_whitespace()
        .nth(number.checked_sub(3)?)?;
    field.parse().ok()
}

/// The second number of `/proc/PID/schedstat`: nanoseconds spent waiting for a core.
fn waited_in(schedstat: &[u8]) -> Option<Duration> {
    let fields = std::str::from_utf8(schedstat).ok()?;
    let nanos = fields.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(nanos))
}

/// The number before the slash in `/proc/loadavg`: threads that run or wait for a core.
fn running_in(loadavg: &[u8]) -> Option<u64> {
    let fields = std::str::from_utf8(loadavg).ok()?;
    let field = fields.split_ascii_whitespace().nth(3)?;
    field.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests;
