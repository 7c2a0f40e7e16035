//! The process that serves is killed, again and again, while somebody works.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uffd_restore::session::Journal;
use uffd_restore::uffd::Event;

use super::service::worker_of;
use super::{state, wait_until};

/// How long workers live at most, as long as somebody gets forward.
const LIFE: Duration = Duration::from_millis(8);
/// And how long at most when nobody does: on a busy machine a life of milliseconds may be over before anything was done in it.
const LONG_LIFE: Duration = Duration::from_secs(2);
/// Lives after which is looked whether somebody got forward: by so many faults.
const LIVES: u32 = 8;
const FORWARD: u64 = 64;

/// For how long: more of it by the environment.
pub fn how_long(unless_told: Duration) -> Duration {
    let given = std::env::var("UFFD_RESTORE_KILLED_MS").ok();
    let given = given.and_then(|ms| ms.parse().ok());
    given.map_or(unless_told, Duration::from_millis)
}

/// What was done to workers.
#[derive(Debug, Default, Clone, Copy)]
pub struct Kills {
    pub kills: u32,
    /// Those that had read events and not applied them.
    pub unfinished: u32,
}

/// Kills the workers of a keeper at random, every 0 to 8 ms, while `work` works at the targets. The time between kills grows while the
/// targets do not get forward.
pub fn killing<T>(keeper: i32, targets: &[i32], seed: u64, work: impl FnOnce() -> T) -> (T, Kills) {
    let over = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let killer = scope.spawn(move || {
            let mut killer = Killer {
                keeper,
                random: seed | 1,
                kills: Kills::default(),
            };
            killer.kill_until(over, targets);
            killer.kills
        });
        // Also when it panics: the scope waits for the killer.
        let over = Over(over);
        let outcome = work();
        drop(over);
        (outcome, killer.join().expect("the killer"))
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Killer {
    keeper: i32,
    random: u64,
    kills: Kills,
}

impl Killer {
    fn kill_until(&mut self, over: &AtomicBool, targets: &[i32]) {
        let (mut life, mut before) = (LIFE, faults(targets));
        while !over.load(Ordering::Relaxed) {
            let most = u64::try_from(life.as_micros()).expect("seconds");
            let pause = Duration::from_micros(self.below(most));
            std::thread::sleep(pause);
            if !self.kill_one() || !self.kills.kills.is_multiple_of(LIVES) {
                continue;
            }
            let now = faults(targets);
            life = if now.saturating_sub(before) < FORWARD {
                (life * 2).min(LONG_LIFE)
            } else {
                (life / 2).max(LIFE)
            };
            before = now;
        }
    }

    /// Kills the worker, if there is one, and looks what it has left before another one can take over.
    fn kill_one(&mut self) -> bool {
        let Some(worker) = worker_of(self.keeper) else {
            return false;
        };
        let keeper = Pid::from_raw(self.keeper);
        if kill(keeper, Signal::SIGSTOP).is_err() {
            return false;
        }
        let ended = |pid| matches!(state(pid), 'Z' | 'X' | '?');
        wait_until_soon("the keeper stands still", || {
            state(self.keeper) == 'T' || ended(self.keeper)
        });
        let killed = !ended(worker) && kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok();
        if killed {
            wait_until_soon("the worker is dead", || ended(worker));
            self.kills.kills += 1;
            self.kills.unfinished += u32::from(!unfinished(self.keeper).is_empty());
        }
        // It may have ended.
        let _ = kill(keeper, Signal::SIGCONT);
        killed
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound.max(1)
    }
}

/// As [`wait_until`], for what takes microseconds.
pub fn wait_until_soon(what: &str, mut holds: impl FnMut() -> bool) {
    let soon = (0..100).any(|_| {
        std::thread::sleep(Duration::from_micros(20));
        holds()
    });
    if !soon {
        wait_until(what, holds);
    }
}

/// True when there is a session that somebody can go on with.
pub fn has_session(keeper: i32) -> bool {
    journals(keeper)
        .into_iter()
        .any(|path| open(path).is_some())
}

/// Events that lie in the inboxes of journals. For a keeper whose worker does nothing just now.
pub fn unfinished(keeper: i32) -> Vec<Event> {
    let journals = journals(keeper).into_iter();
    let journals = journals.filter_map(|path| open(path)?.unfinished().ok());
    journals.flatten().collect()
}

/// A session that was just ending, or beginning, has none.
fn open(journal: PathBuf) -> Option<Journal> {
    let file = File::options().read(true).write(true).open(journal).ok()?;
    Journal::open(file.into()).ok()
}

fn journals(keeper: i32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{keeper}/fd"));
    let entries = entries.into_iter().flatten().flatten();
    let is_one = |path: &PathBuf| {
        let link = fs::read_link(path);
        link.is_ok_and(|link| link.to_string_lossy().contains("uffd-restore-journal"))
    };
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

/// Page faults that targets have had, and that are over.
fn faults(targets: &[i32]) -> u64 {
    let of = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        let field = |index| fields.split(' ').nth(index)?.parse::<u64>().ok();
        // proc_pid_stat(5): minflt and majflt, counted from the state on.
        field(7).unwrap_or(0) + field(9).unwrap_or(0)
    };
    targets.iter().map(of).sum()
}
