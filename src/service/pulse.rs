//! That the loops are alive, and how far they are, as the service manager is told.
//!
//! Every loop says of itself that it goes on, ten times a second; nobody else does it for it. So a loop that is stuck is noticed: as
//! long as there is one, the manager does not hear that this service is alive, and restarts it. The keeper, another process, counts its
//! turns where the loops see them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::poll::PollTimeout;

use super::board::{Board, Loop, News};
use super::notify::{Manager, Word, watchdog_from_environment};
use crate::serve::Observer;

/// Milliseconds after which a loop that has nothing to do says that it goes on.
const PATIENCE: u8 = 250;

/// What the service manager is told by this program. Nothing, if there is none.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Option<Arc<Told>>);

#[derive(Debug)]
struct Told {
    manager: Manager,
    board: Mutex<Board>,
}

/// A loop that has to go on.
#[derive(Debug)]
pub struct Beat {
    told: Arc<Told>,
    number: u64,
}

impl Pulse {
    /// For the service manager that the environment names, if there is one. For the process that it started.
    #[must_use]
    pub fn from_environment() -> Self {
        Self(Manager::from_environment().map(|manager| {
            Arc::new(Told {
                manager,
                board: Mutex::new(Board::new(watchdog_from_environment())),
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
            told.lock().has_said(status);
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
            told.lock().needs_keeper(Instant::now(), turns);
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
        let news = self.told.lock().go_on(self.number, owed, now);
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
        self.told.lock().end(self.number);
    }
}

impl Told {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    fn told() -> (Told, UnixDatagram) {
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
            board: Mutex::default(),
        };
        (told, listens)
    }

    #[test]
    fn what_a_loop_says_arrives() {
        let (told, listens) = told();
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
