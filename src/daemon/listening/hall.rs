//! Who is there: connections are taken, signals passed on, the end awaited.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;

use super::session::{self, Common};
use super::socket::Entrance;
use crate::serve::{EndingSignals, Outcome, ServeError};
use crate::terminal::say;

/// VMMs that may be in the hall without being served: they are about to hand over, or have and wait for a place.
const HANDING_OVER: usize = 64;

/// How many, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Served at a time.
    pub(super) sessions: usize,
    /// End after the first.
    pub(super) once: bool,
}

/// The sessions, and what makes this thread go on.
pub(super) struct Hall {
    common: Arc<Common>,
    signals: EndingSignals,
    limits: Limits,
    sessions: BTreeMap<u64, Session>,
    /// Sessions that have ended, and how, if they were served.
    over: Receiver<(u64, Option<Outcome>)>,
    leaving: Leaving,
    next: u64,
    served: u64,
    failed: bool,
    asked_to_end: bool,
}

struct Session {
    thread: JoinHandle<()>,
    /// Asks it to end.
    told: Arc<EventFd>,
}

/// How a session says that it is over.
#[derive(Clone)]
struct Leaving {
    over: Sender<(u64, Option<Outcome>)>,
    bell: Arc<EventFd>,
}

/// Says so, however its thread ends.
struct Farewell {
    leaving: Leaving,
    number: u64,
    outcome: Option<Outcome>,
}

impl Drop for Farewell {
    fn drop(&mut self) {
        let _ = self.leaving.over.send((self.number, self.outcome));
        let _ = self.leaving.bell.write(1);
    }
}

fn bell() -> Result<EventFd, Errno> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
}

impl Hall {
    pub(super) fn new(
        common: Common,
        signals: EndingSignals,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let bell = bell().map_err(|errno| ServeError::Kernel {
            doing: "wait for events",
            errno,
        })?;
        let (sender, over) = unbounded();
        Ok(Self {
            common: Arc::new(common),
            signals,
            limits,
            sessions: BTreeMap::new(),
            over,
            leaving: Leaving {
                over: sender,
                bell: Arc::new(bell),
            },
            next: 1,
            served: 0,
            failed: false,
            asked_to_end: false,
        })
    }

    /// How many were served.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// Takes connections until it is asked to end, or, with `--once`, one was served, and then waits for those who are there.
    /// Tells how it went: badly if anybody's memory could not be restored; `None` if `--once` found nobody to serve.
    pub(super) fn run(&mut self, mut entrance: Option<Entrance>) -> Option<Outcome> {
        loop {
            let enough = self.limits.once && self.served > 0;
            if (self.asked_to_end || enough)
                && let Some(entrance) = entrance.take()
            {
                self.close(entrance);
            }
            if entrance.is_none() && self.sessions.is_empty() {
                break;
            }
            self.wait(entrance.as_ref());
            self.pass_on_signals();
            self.see_off();
            if let Some(entrance) = &entrance {
                self.let_in(entrance);
            }
        }
        if self.failed {
            Some(Outcome::Failed)
        } else if self.served > 0 || self.asked_to_end {
            Some(Outcome::Complete)
        } else {
            None
        }
    }

    /// Who cannot be let in stays in the socket's queue. Who has handed over nothing yet takes nobody's place.
    fn has_room(&self) -> bool {
        self.sessions.len() < self.limits.sessions + HANDING_OVER
    }

    fn wait(&self, entrance: Option<&Entrance>) {
        let mut waited = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.leaving.bell.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(entrance) = entrance.filter(|_| self.has_room()) {
            waited.push(PollFd::new(entrance.as_fd(), PollFlags::POLLIN));
        }
        // Interrupted or not, what there is to do is looked at afterwards.
        let _ = poll(&mut waited, PollTimeout::NONE);
    }

    fn let_in(&mut self, entrance: &Entrance) {
        while self.has_room() && !self.asked_to_end {
            match entrance.accept() {
                Ok(Some(stream)) => self.admit(stream),
                Ok(None) => return,
                Err(error) => {
                    // No descriptors, no memory: others may give some back.
                    say(&format!("uffd-restore: cannot take a connection: {error}"));
                    thread::sleep(Duration::from_millis(100));
                    return;
                }
            }
        }
    }

    /// Takes nobody in any more. Who has connected already may have sent its userfaultfd, which the kernel would close: that
    /// would be zeros for who has no other. So its name goes first, and then all who are in the queue are let in.
    fn close(&mut self, entrance: Entrance) {
        let Some(closing) = entrance.close() else {
            return;
        };
        while let Ok(Some(stream)) = closing.accept() {
            self.admit(stream);
        }
    }

    /// Begins a session.
    pub(super) fn admit(&mut self, stream: UnixStream) {
        let number = self.next;
        self.next += 1;
        let told = match bell() {
            Ok(told) => Arc::new(told),
            Err(errno) => {
                let why = format!("cannot wait for events: {errno}");
                return self.common.log.refused(None, &why);
            }
        };
        let common = Arc::clone(&self.common);
        let farewell = Farewell {
            leaving: self.leaving.clone(),
            number,
            outcome: None,
        };
        let its = Arc::clone(&told);
        let thread = thread::Builder::new()
            .name(format!("vmm-{number}"))
            .spawn(move || {
                // As a whole: it is dropped, and so sent, when the thread ends.
                let mut farewell = farewell;
                farewell.outcome = session::run(&common, number, &stream, its);
            });
        match thread {
            Ok(thread) => {
                self.sessions.insert(number, Session { thread, told });
            }
            Err(error) => {
                let why = format!("cannot start a thread: {error}");
                self.common.log.refused(None, &why);
            }
        }
    }

    /// The first signal asks everybody to finish, another one to give up.
    fn pass_on_signals(&mut self) {
        for signal in self.signals.come() {
            if self.asked_to_end && signal == Signal::SIGHUP {
                continue;
            }
            if !self.asked_to_end && !self.common.log.quiet {
                let count = self.sessions.len() as u64;
                say(&format!(
                    "uffd-restore: asked to end: no more connections are taken, {} left",
                    crate::tool::counted(count, "VMM")
                ));
            }
            self.asked_to_end = true;
            self.common.places.open_to_all();
            for session in self.sessions.values() {
                let _ = session.told.write(1);
            }
        }
    }

    fn see_off(&mut self) {
        let _ = self.leaving.bell.read();
        while let Ok((number, outcome)) = self.over.try_recv() {
            if let Some(session) = self.sessions.remove(&number)
                && session.thread.join().is_err()
            {
                self.failed = true;
            }
            if let Some(outcome) = outcome {
                self.served += 1;
                self.failed |= outcome == Outcome::Failed;
            }
        }
    }
}
