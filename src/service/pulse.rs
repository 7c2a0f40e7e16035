//! That the loops are alive, and how far they are, as the service manager is told.
//!
//! Every loop says of itself that it goes on, ten times a second; nobody else does it for it. So a loop that is stuck is noticed: as
//! long as there is one, the manager does not hear that this service is alive, and restarts it. The keeper, another process, counts its
//! turns where the loops see them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use nix::poll::PollTimeout;

use super::notify::{Manager, Word, watchdog_from_environment};
use crate::serve::Observer;

/// How often the manager is told how it goes, at most.
const EVERY: Duration = Duration::from_secs(1);
/// A loop that has said nothing for so long is called stuck, when the manager has not said how long is too long.
const LONG: Duration = Duration::from_secs(10);

/// Milliseconds after which a loop that has nothing to do says that it goes on.
const PATIENCE: u8 = 250;

/// What the service manager is told by this program. Nothing, if there is none.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<Arc<Told>>);

#[derive(Debug)]
struct Told {
    manager: Manager,
    watchdog: Option<Duration>,
    board: Mutex<Board>,
}

/// A loop that has to go on.
#[derive(Debug)]
pub struct Beat {
    told: Arc<Told>,
    number: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loop {
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
struct Board {
    loops: BTreeMap<u64, State>,
    keeper: Option<Keeper>,
    next: u64,
    /// When the manager was told last.
    said: Option<Instant>,
    status: String,
}

/// What is to be said.
#[derive(Debug, PartialEq, Eq)]
struct News {
    alive: bool,
    /// If it is another than before.
    status: Option<String>,
}

impl Pulse {
    /// For the service manager that the environment names, if there is one. For the process that it started.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Manager::from_environment().map(|manager| {
            Arc::new(Told {
                manager,
                watchdog: watchdog_from_environment(),
                board: Mutex::default(),
            })
        }))
    }

    /// The manager, to give descriptors to.
    #[must_use]
    pub fn manager(&self) -> Option<&Manager> {
        self.0.as_ref().map(|told| &told.manager)
    }

    /// The service can be used, and this is how it goes.
    pub fn ready(&self, status: &str) {
        if let Some(told) = &self.0 {
            let words = [Word::Ready, Word::Watchdog, Word::Status(status)];
            told.manager.say(&words);
            told.lock().status = status.to_owned();
        }
    }

    /// How it goes.
    pub fn tell(&self, status: &str) {
        if let Some(told) = &self.0 {
            told.manager.say(&[Word::Status(status)]);
        }
    }

    /// It is about to end; what is left to do is not watched over.
    pub fn stopping(&self, status: &str) {
        if let Some(told) = &self.0 {
            told.manager.say(&[Word::Stopping, Word::Status(status)]);
        }
    }

    /// This process is not alive either when another one does not go on, which counts its turns.
    pub fn needs_keeper(&self, turns: impl Fn() -> u64 + Send + 'static) {
        if let Some(told) = &self.0 {
            told.lock().keeper = Some(Keeper {
                seen: turns(),
                last: Instant::now(),
                turns: Box::new(turns),
            });
        }
    }

    /// A loop that serves begins. What it is to tell how it goes, ten times a second.
    #[must_use]
    pub fn observer(&self) -> Option<Observer> {
        let beat = self.begin(Loop::Session)?;
        Some(Observer(Box::new(move |so_far| beat.go_on(so_far.owed))))
    }

    /// The loop begins that takes connections. It waits no longer than [`Pulse::patience`].
    #[must_use]
    pub fn hall(&self) -> Option<Beat> {
        self.begin(Loop::Hall)
    }

    /// How long a loop may wait that has nothing to do: as long as it likes if there is no manager.
    #[must_use]
    pub fn patience(&self) -> PollTimeout {
        match &self.0 {
            Some(_) => PollTimeout::from(PATIENCE),
            None => PollTimeout::NONE,
        }
    }

    fn begin(&self, what: Loop) -> Option<Beat> {
        let told = Arc::clone(self.0.as_ref()?);
        let number = told.lock().begin(what, Instant::now());
        Some(Beat { told, number })
    }
}

impl Beat {
    /// The loop goes on, and owes so much. Must be called by the loop itself.
    pub fn go_on(&self, owed: u64) {
        let now = Instant::now();
        let news = self.told.lock().go_on(self.number, owed, now, &self.told);
        if let Some(News { alive, status }) = news {
            let status = status.as_deref().map(Word::Status);
            let alive = alive.then_some(Word::Watchdog);
            let words: Vec<_> = alive.into_iter().chain(status).collect();
            if !words.is_empty() {
                self.told.manager.say(&words);
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.told.lock().loops.remove(&self.number);
    }
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
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
    fn begin(&mut self, what: Loop, now: Instant) -> u64 {
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

    fn go_on(&mut self, number: u64, owed: u64, now: Instant, told: &Told) -> Option<News> {
        let state = self.loops.get_mut(&number)?;
        (state.last, state.owed) = (now, owed);
        let due = self
            .said
            .is_none_or(|said| now.duration_since(said) >= told.every());
        if !due {
            return None;
        }
        self.said = Some(now);
        Some(self.news(now, told.long()))
    }

    fn news(&mut self, now: Instant, long: Duration) -> News {
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
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::sync::atomic::{AtomicU64, Ordering};

    const WATCHDOG: Duration = Duration::from_secs(8);

    fn told(watchdog: Option<Duration>) -> (Told, UnixDatagram) {
        let name = format!(
            "pulse-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        );
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let listens = UnixDatagram::bind_addr(&address).expect("bind");
        let manager = Manager::at(OsStr::new(&format!("@{name}"))).expect("an address");
        let told = Told {
            manager,
            watchdog,
            board: Mutex::default(),
        };
        (told, listens)
    }

    #[test]
    fn one_loop_that_is_stuck_silences_all() {
        let (told, _listens) = told(Some(WATCHDOG));
        let start = Instant::now();
        let mut board = Board::default();
        let loops = [Loop::Hall, Loop::Session, Loop::Session].map(|what| board.begin(what, start));
        let later = |seconds| start + Duration::from_secs(seconds);
        for second in 1..=4 {
            for number in loops {
                board.go_on(number, 1 << 30, later(second), &told);
            }
        }
        // The second one says nothing more.
        for second in 5..=8 {
            let news = board.go_on(loops[0], 0, later(second), &told);
            assert!(news.expect("due").alive, "not long enough: {second}");
            board.go_on(loops[2], 1 << 30, later(second), &told);
        }
        let news = board.go_on(loops[2], 1 << 30, later(9), &told);
        let news = news.expect("due");
        assert!(!news.alive);
        let status = news.status.expect("it is said");
        assert_eq!(
            status,
            "serving 2 targets, 2.0 GiB owed, of which one has not gone on for 5 s"
        );
        // It goes on, or ends: both are well.
        board.go_on(loops[1], 0, later(10), &told);
        let news = board.go_on(loops[2], 0, later(11), &told);
        assert!(news.expect("due").alive);
    }

    #[test]
    fn a_keeper_that_is_stuck_silences_all() {
        let (told, _listens) = told(Some(WATCHDOG));
        let start = Instant::now();
        let mut board = Board::default();
        let turns = Arc::new(AtomicU64::new(1));
        let counted = Arc::clone(&turns);
        board.keeper = Some(Keeper {
            turns: Box::new(move || counted.load(Ordering::Relaxed)),
            seen: 0,
            last: start,
        });
        let number = board.begin(Loop::Session, start);
        let mut at = |second| {
            let now = start + Duration::from_secs(second);
            board.go_on(number, 4096, now, &told).expect("due")
        };
        for second in 1..=5 {
            assert!(at(second).alive, "not long enough: {second}");
        }
        let news = at(6);
        assert!(!news.alive);
        assert_eq!(
            news.status.expect("it is said"),
            "serving 1 target, 4.0 KiB owed, but the keeper has not gone on for 5 s"
        );
        turns.store(2, Ordering::Relaxed);
        assert!(at(7).alive);
    }

    #[test]
    fn not_more_often_than_once_a_second_and_only_what_is_new() {
        let (told, _listens) = told(None);
        let start = Instant::now();
        let mut board = Board::default();
        let number = board.begin(Loop::Session, start);
        let at = |millis| start + Duration::from_millis(millis);
        let said: Vec<_> = (0..=30)
            .filter_map(|tenth| board.go_on(number, 4096, at(tenth * 100), &told))
            .collect();
        assert_eq!(said.len(), 4);
        let texts: Vec<_> = said.iter().filter_map(|news| news.status.clone()).collect();
        assert_eq!(texts, ["serving 1 target, 4.0 KiB owed"]);
        assert!(said.iter().all(|news| news.alive));
    }

    #[test]
    fn a_short_watchdog_is_answered_in_time() {
        let (told, _listens) = told(Some(Duration::from_millis(400)));
        assert_eq!(told.every(), Duration::from_millis(100));
        assert!(told.long() < Duration::from_millis(400));
    }

    #[test]
    fn what_a_loop_says_arrives() {
        let (told, listens) = told(Some(WATCHDOG));
        let pulse = Pulse(Some(Arc::new(told)));
        pulse.ready("listening");
        let beat = pulse.hall().expect("a manager");
        beat.go_on(0);
        pulse.stopping("over");
        let mut bytes = [0; 256];
        let mut hear = || {
            let length = listens.recv(&mut bytes).expect("a message");
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        assert_eq!(hear(), "READY=1\nWATCHDOG=1\nSTATUS=listening\n");
        assert_eq!(hear(), "WATCHDOG=1\nSTATUS=nobody is being served\n");
        assert_eq!(hear(), "STOPPING=1\nSTATUS=over\n");
    }

    #[test]
    fn without_a_manager_nobody_is_told() {
        let pulse = Pulse::default();
        pulse.ready("x");
        pulse.stopping("x");
        assert!(pulse.observer().is_none() && pulse.hall().is_none() && pulse.manager().is_none());
    }
}
