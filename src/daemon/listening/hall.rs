//! Who is there: connections are taken, signals passed on, the end awaited.

use std::collections::{BTreeMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;

use super::session::{self, Common};
use super::socket::Entrance;
use crate::daemon::limits::SPARE;
use crate::readable::readable_within;
use crate::serve::{EndingSignals, Orphaned, Outcome, ServeError, bell};

/// VMMs that may be in the hall without being served: they are about to hand over, or have and wait for a place.
const HANDING_OVER: usize = 64;

/// A VMM that has connected hands over in less, when nobody waits for it.
const AT_ONCE: Duration = Duration::from_millis(250);
/// How soon to look again whether there is room.
const AGAIN: u8 = 50;

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
    /// From a process that was killed.
    taken_over: u64,
    failed: bool,
    asked_to_end: bool,
    /// Those for whom there was no thread or no descriptor yet.
    waiting: VecDeque<UnixStream>,
    /// Most that there are descriptors for.
    most: usize,
    complained: bool,
}

struct Session {
    thread: JoinHandle<()>,
    /// Asks it to end.
    told: Arc<EventFd>,
    /// None if another process took its connection.
    stream: Option<Arc<UnixStream>>,
    began: Instant,
    /// It has handed over.
    received: Arc<AtomicBool>,
}

impl Session {
    fn is_handing_over(&self) -> bool {
        !self.received.load(Ordering::Relaxed)
    }

    /// Its thread finds that nothing more comes.
    fn disconnect(&self) {
        if let Some(stream) = &self.stream {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
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

/// A session has twelve descriptors, and for moments one or two more; others are for the program itself.
fn most_by_descriptors() -> usize {
    const EACH: u64 = 14;
    const OWN: u64 = 32 + SPARE;
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft.saturating_sub(OWN) / EACH)
        .unwrap_or(usize::MAX)
        .max(1)
}

impl Hall {
    pub(super) fn new(
        common: Common,
        signals: EndingSignals,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let (sender, over) = unbounded();
        Ok(Self {
            common: Arc::new(common),
            signals,
            limits,
            sessions: BTreeMap::new(),
            over,
            leaving: Leaving {
                over: sender,
                bell: Arc::new(bell()?),
            },
            next: 1,
            served: 0,
            taken_over: 0,
            failed: false,
            asked_to_end: false,
            waiting: VecDeque::new(),
            most: most_by_descriptors(),
            complained: false,
        })
    }

    /// How many were served.
    pub(super) fn served(&self) -> u64 {
        self.served
    }

    /// Takes connections until it is asked to end, or, with `--once`, one was served, and then waits for those who are there.
    /// True if that went well: not if anybody's memory could not be restored, or the only one there was could not be served.
    pub(super) fn run(&mut self, mut entrance: Option<&Entrance>) -> bool {
        let beat = self.common.pulse.hall();
        loop {
            if let Some(beat) = &beat {
                beat.go_on(0);
            }
            let enough = self.limits.once && (self.served > 0 || self.taken_over > 0);
            if (self.asked_to_end || enough)
                && let Some(entrance) = entrance.take()
            {
                self.close(entrance);
            }
            if entrance.is_none() && self.sessions.is_empty() && self.waiting.is_empty() {
                break;
            }
            self.wait(entrance);
            self.pass_on_signals();
            self.see_off();
            self.try_again();
            if let Some(entrance) = entrance {
                self.let_in(entrance);
            }
        }
        !self.failed && (self.served > 0 || self.asked_to_end)
    }

    /// Who cannot be let in stays in the socket's queue. Who has handed over nothing yet takes nobody's place.
    fn has_room(&self) -> bool {
        let most = (self.limits.sessions + HANDING_OVER).min(self.most);
        self.waiting.is_empty() && self.sessions.len() < most
    }

    /// When there is no room, who takes his time to hand over has to make some: a VMM hands over at once. True if it may help to
    /// look again soon.
    fn make_room(&self) -> bool {
        let slow = self
            .sessions
            .values()
            .find(|session| session.is_handing_over());
        let Some(slow) = slow else { return false };
        if slow.began.elapsed() > AT_ONCE {
            slow.disconnect();
        }
        true
    }

    fn wait(&self, entrance: Option<&Entrance>) {
        let mut waited = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.leaving.bell.as_fd(), PollFlags::POLLIN),
        ];
        let mut most = self.common.pulse.patience();
        if let Some(entrance) = entrance {
            // Who comes when there is no room wants some to be made.
            if self.has_room() || !readable_within(entrance, Duration::ZERO) {
                waited.push(PollFd::new(entrance.as_fd(), PollFlags::POLLIN));
            } else if self.make_room() {
                most = PollTimeout::from(AGAIN);
            }
        }
        if !self.waiting.is_empty() {
            most = PollTimeout::from(AGAIN);
        }
        // Interrupted or not, what there is to do is looked at afterwards.
        let _ = poll(&mut waited, most);
    }

    fn let_in(&mut self, entrance: &Entrance) {
        while self.has_room() && !self.asked_to_end {
            match entrance.accept() {
                Ok(Some(stream)) => self.admit(stream),
                Ok(None) => return,
                Err(error) => {
                    // No descriptors, no memory: others may give some back.
                    self.complain(&format!("cannot take a connection: {error}"));
                    thread::sleep(Duration::from_millis(100));
                    return;
                }
            }
        }
    }

    /// Takes nobody in any more. Who has connected already may have sent its userfaultfd, which the kernel would close: that
    /// would be zeros for who has no other. So its name goes first, and then all who are in the queue are let in.
    fn close(&mut self, entrance: &Entrance) {
        if !entrance.close() {
            return;
        }
        while let Ok(Some(stream)) = entrance.accept() {
            self.admit(stream);
        }
    }

    /// Begins a session, or does so when there are a thread and descriptors for it.
    pub(super) fn admit(&mut self, stream: UnixStream) {
        let stream = Arc::new(stream);
        if let Err(why) = self.begin(&stream) {
            self.complain(&format!("{why}; a VMM has to wait"));
            // Nothing else holds it.
            self.waiting.extend(Arc::into_inner(stream));
        }
    }

    fn try_again(&mut self) {
        if let Some(stream) = self.waiting.pop_front() {
            self.admit(stream);
        }
    }

    fn begin(&mut self, stream: &Arc<UnixStream>) -> Result<(), String> {
        let received = Arc::new(AtomicBool::new(false));
        let (its_stream, its_state) = (Arc::clone(stream), Arc::clone(&received));
        let run = move |common: &Common, number, told| {
            session::run(common, number, &its_stream, told, || {
                its_state.store(true, Ordering::Relaxed);
            })
        };
        self.start(Some(Arc::clone(stream)), received, run)
    }

    /// Goes on with a session of a process that was killed. Whatever that takes is waited for: nobody else can.
    pub(super) fn take_over(&mut self, orphaned: Orphaned, hopeless: bool) {
        self.taken_over += 1;
        let orphaned = Arc::new(Mutex::new(Some(orphaned)));
        loop {
            let its = Arc::clone(&orphaned);
            let run = move |common: &Common, number, told| {
                let orphaned = its.lock().unwrap_or_else(PoisonError::into_inner).take()?;
                session::go_on(common, number, orphaned, told, hopeless)
            };
            let Err(why) = self.start(None, Arc::new(AtomicBool::new(true)), run) else {
                return;
            };
            self.complain(&format!("{why}; a VMM has to wait"));
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Starts a session's thread.
    fn start(
        &mut self,
        stream: Option<Arc<UnixStream>>,
        received: Arc<AtomicBool>,
        run: impl FnOnce(&Common, u64, Arc<EventFd>) -> Option<Outcome> + Send + 'static,
    ) -> Result<(), String> {
        let number = self.next;
        let told = Arc::new(bell().map_err(|error| error.to_string())?);
        let common = Arc::clone(&self.common);
        let farewell = Farewell {
            leaving: self.leaving.clone(),
            number,
            outcome: None,
        };
        let its_bell = Arc::clone(&told);
        let thread = thread::Builder::new()
            .name(format!("vmm-{number}"))
            .spawn(move || {
                // As a whole: it is dropped, and so sent, when the thread ends.
                let mut farewell = farewell;
                farewell.outcome = run(&common, number, its_bell);
            });
        let thread = thread.map_err(|error| format!("cannot start a thread: {error}"))?;
        self.next += 1;
        let session = Session {
            thread,
            told,
            stream,
            began: Instant::now(),
            received,
        };
        self.sessions.insert(number, session);
        Ok(())
    }

    /// Once: it may be so for long.
    fn complain(&mut self, what: &str) {
        if !self.complained {
            self.complained = true;
            self.common.log.text(what);
        }
    }

    /// The first signal asks everybody to finish, another one to give up.
    fn pass_on_signals(&mut self) {
        for signal in self.signals.come() {
            if self.asked_to_end && signal == Signal::SIGHUP {
                continue;
            }
            if self.asked_to_end {
                for session in self.sessions.values() {
                    if session.is_handing_over() {
                        session.disconnect();
                    }
                }
            } else if !self.common.log.is_quiet() {
                let count = self.sessions.len() as u64;
                self.common.log.text(&format!(
                    "asked to end: no more connections are taken, {} left",
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
