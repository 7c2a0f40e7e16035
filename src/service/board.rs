//! What the loops have said, and whether all of them go on.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

/// How often the manager is told how it goes, at most.
const EVERY: Duration = Duration::from_secs(1);
/// A loop that has said nothing for so long is called stuck, when the manager has not said how long is too long.
const LONG: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loop {
    /// Takes connections.
    Hall,
    /// Serves.
    Session,
}

#[derive(Debug, Clone, Copy)]
struct State {
    what: Loop,
    last: Instant,
    owed: u64,
}

/// Another process that has to go on.
struct Keeper {
    turns: Box<dyn Fn() -> u64 + Send>,
    /// What it had counted when it was looked at, and when that was another number than before.
    seen: u64,
    last: Instant,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").finish_non_exhaustive()
    }
}

/// What all loops have said.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// How often the manager wants to hear something, if it does.
    watchdog: Option<Duration>,
    loops: BTreeMap<u64, State>,
    keeper: Option<Keeper>,
    next: u64,
    /// When the manager was told last.
    said: Option<Instant>,
    status: String,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct News {
    pub(super) alive: bool,
    /// If it is another than before.
    pub(super) status: Option<String>,
}

impl Keeper {
    /// For how long it has not gone on, as far as that was looked at.
    fn silent(&mut self, now: Instant) -> Duration {
        let turns = (self.turns)();
        if turns != self.seen {
            (self.seen, self.last) = (turns, now);
        }
        now.saturating_duration_since(self.last)
    }
}

impl Board {
    /// `watchdog` is how often the manager wants to hear something, if it does.
    pub(super) fn new(watchdog: Option<Duration>) -> Self {
        Self {
            watchdog,
            ..Self::default()
        }
    }

    /// A loop begins. Returns its number.
    pub(super) fn begin(&mut self, what: Loop, now: Instant) -> u64 {
        let number = self.next;
        self.next += 1;
        let state = State {
            what,
            last: now,
            owed: 0,
        };
        self.loops.insert(number, state);
        number
    }

    /// A loop has ended.
    pub(super) fn end(&mut self, number: u64) {
        self.loops.remove(&number);
    }

    /// Another process has to go on as well, which counts its turns.
    pub(super) fn needs_keeper(&mut self, now: Instant, turns: impl Fn() -> u64 + Send + 'static) {
        self.keeper = Some(Keeper {
            seen: turns(),
            last: now,
            turns: Box::new(turns),
        });
    }

    /// The manager has been told this.
    pub(super) fn has_said(&mut self, status: &str) {
        status.clone_into(&mut self.status);
    }

    /// How often to tell.
    fn every(&self) -> Duration {
        self.watchdog
            .map_or(EVERY, |watchdog| EVERY.min(watchdog / 4))
    }

    /// When a loop is stuck: in time for the manager to be told so before it acts.
    fn long(&self) -> Duration {
        self.watchdog.map_or(LONG, |watchdog| watchdog / 2)
    }

    /// A loop goes on. `None` when there is nothing to be said just now.
    pub(super) fn go_on(&mut self, number: u64, owed: u64, now: Instant) -> Option<News> {
        let state = self.loops.get_mut(&number)?;
        (state.last, state.owed) = (now, owed);
        let due = self
            .said
            .is_none_or(|said| now.duration_since(said) >= self.every());
        if !due {
            return None;
        }
        self.said = Some(now);
        Some(self.news(now))
    }

    fn news(&mut self, now: Instant) -> News {
        let long = self.long();
        let silent = |state: &State| now.saturating_duration_since(state.last);
        let stuck = self.loops.values().map(silent).max();
        let keeper = self.keeper.as_mut().map(|keeper| keeper.silent(now));
        let [stuck, keeper] = [stuck, keeper].map(|silent| silent.filter(|&silent| silent > long));
        let how = self.how_it_goes();
        let status = match (stuck, keeper) {
            (Some(silent), _) => {
                let seconds = silent.as_secs();
                format!("{how}, of which one has not gone on for {seconds} s")
            }
            (None, Some(silent)) => {
                let seconds = silent.as_secs();
                format!("{how}, but the keeper has not gone on for {seconds} s")
            }
            (None, None) => how,
        };
        let changed = status != self.status;
        News {
            alive: stuck.is_none() && keeper.is_none(),
            status: changed.then(|| {
                self.status.clone_from(&status);
                status
            }),
        }
    }

    fn how_it_goes(&self) -> String {
        let sessions = self.loops.values();
        let sessions = sessions.filter(|state| state.what == Loop::Session);
        let (count, owed) = sessions.fold((0, 0_u64), |(count, owed), state| {
            (count + 1, owed.saturating_add(state.owed))
        });
        match count {
            0 => "nobody is being served".to_owned(),
            1 => format!("serving 1 target, {} owed", ByteSize(owed).display().iec()),
            count => format!(
                "serving {count} targets, {} owed",
                ByteSize(owed).display().iec()
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    const WATCHDOG: Duration = Duration::from_secs(8);

    #[test]
    fn one_loop_that_is_stuck_silences_all() {
        let start = Instant::now();
        let mut board = Board::new(Some(WATCHDOG));
        let loops = [Loop::Hall, Loop::Session, Loop::Session].map(|what| board.begin(what, start));
        let later = |seconds| start + Duration::from_secs(seconds);
        for second in 1..=4 {
            for number in loops {
                board.go_on(number, 1 << 30, later(second));
            }
        }
        // The second one says nothing more.
        for second in 5..=8 {
            let news = board.go_on(loops[0], 0, later(second));
            assert!(news.expect("due").alive, "not long enough: {second}");
            board.go_on(loops[2], 1 << 30, later(second));
        }
        let news = board.go_on(loops[2], 1 << 30, later(9));
        let news = news.expect("due");
        assert!(!news.alive);
        let status = news.status.expect("it is said");
        assert_eq!(
            status,
            "serving 2 targets, 2.0 GiB owed, of which one has not gone on for 5 s"
        );
        // It goes on, or ends: both are well.
        board.go_on(loops[1], 0, later(10));
        let news = board.go_on(loops[2], 0, later(11));
        assert!(news.expect("due").alive);
    }

    #[test]
    fn a_keeper_that_is_stuck_silences_all() {
        let start = Instant::now();
        let mut board = Board::new(Some(WATCHDOG));
        let turns = Arc::new(AtomicU64::new(1));
        let counted = Arc::clone(&turns);
        board.needs_keeper(start, move || counted.load(Ordering::Relaxed));
        let number = board.begin(Loop::Session, start);
        let mut at = |second| {
            let now = start + Duration::from_secs(second);
            board.go_on(number, 4096, now).expect("due")
        };
        for second in 1..=4 {
            assert!(at(second).alive, "not long enough: {second}");
        }
        let news = at(5);
        assert!(!news.alive);
        assert_eq!(
            news.status.expect("it is said"),
            "serving 1 target, 4.0 KiB owed, but the keeper has not gone on for 5 s"
        );
        turns.store(2, Ordering::Relaxed);
        assert!(at(6).alive);
    }

    #[test]
    fn not_more_often_than_once_a_second_and_only_what_is_new() {
        let start = Instant::now();
        let mut board = Board::default();
        let number = board.begin(Loop::Session, start);
        let at = |millis| start + Duration::from_millis(millis);
        let said: Vec<_> = (0..=30)
            .filter_map(|tenth| board.go_on(number, 4096, at(tenth * 100)))
            .collect();
        assert_eq!(said.len(), 4);
        let texts: Vec<_> = said.iter().filter_map(|news| news.status.clone()).collect();
        assert_eq!(texts, ["serving 1 target, 4.0 KiB owed"]);
        assert!(said.iter().all(|news| news.alive));
    }

    #[test]
    fn a_short_watchdog_is_answered_in_time() {
        let board = Board::new(Some(Duration::from_millis(400)));
        assert_eq!(board.every(), Duration::from_millis(100));
        assert!(board.long() < Duration::from_millis(400));
    }
}
