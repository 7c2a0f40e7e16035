//! Processes that are handed over one after the other, by somebody who restores them all.
//!
//! Each is served from the moment it comes: it may touch its memory before the others are there. But until all have come nothing is installed
//! that nobody asks for: memory may not be registered yet, and that could not be told from memory that is unmapped.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::sys::eventfd::EventFd;

use super::engine::{Engine, tell};
use super::guard::kill_family;
use super::{ServeError, Target, Watched, bell};
use crate::addr::AddrRange;
use crate::session::SpaceId;
use crate::space::AddressSpace;
use crate::terminal::mention;
use crate::uffd::Userfaultfd;

/// What becomes known.
#[derive(Debug)]
pub enum Arrival {
    /// A process has come.
    Process(Box<Newcomer>),
    /// All have come, and are about to run.
    Complete,
    /// No more will come, and those that have must not run: why.
    Failed(String),
    /// None has come and none will: why. Whoever was to hand them over has not begun, and may be anybody.
    Left(String),
}

/// A process that is handed over.
#[derive(Debug)]
pub struct Newcomer {
    /// Which process it is; `None` if it cannot be seen from here.
    pub target: Option<Arc<Target>>,
    /// It must not outlive this program.
    pub watched: Option<Watched>,
    /// Its userfaultfd, agreed on.
    pub userfaultfd: Userfaultfd,
    /// What is, or is about to be, registered and owed.
    pub space: AddressSpace,
    /// What is to be there first, because others look at it in ways that do not fault.
    pub first: Vec<AddrRange>,
}

/// Where they come in.
#[derive(Debug)]
pub struct Arrivals {
    coming: Receiver<Arrival>,
    bell: Arc<EventFd>,
}

/// Who announces them.
#[derive(Debug, Clone)]
pub struct Herald {
    coming: Sender<Arrival>,
    bell: Arc<EventFd>,
}

/// A way for processes to come in.
///
/// # Errors
/// [`ServeError::Kernel`].
pub fn arrivals() -> Result<(Herald, Arrivals), ServeError> {
    let (sender, coming) = unbounded();
    let bell = Arc::new(bell()?);
    let herald = Herald {
        coming: sender,
        bell: Arc::clone(&bell),
    };
    Ok((herald, Arrivals { coming, bell }))
}

impl Herald {
    /// Announces something. Given back if nobody serves any more: a userfaultfd in it must stay open as long as its process may run.
    ///
    /// # Errors
    /// What was not taken.
    pub fn announce(&self, arrival: Arrival) -> Result<(), Arrival> {
        self.coming
            .send(arrival)
            .map_err(|refused| refused.into_inner())?;
        // It can only be rung too often.
        let _ = self.bell.write(1);
        Ok(())
    }
}

/// What is waited for.
pub(super) struct Expected {
    arrivals: Arrivals,
    /// Those that have come.
    come: Vec<SpaceId>,
    complete: Box<dyn FnOnce(u64)>,
}

impl Engine {
    /// From now on processes come in.
    pub(super) fn expect(
        &mut self,
        arrivals: Arrivals,
        complete: Box<dyn FnOnce(u64)>,
    ) -> nix::Result<()> {
        let watched = self.poller.add_arrivals(&*arrivals.bell);
        self.session.answer_only(true);
        self.expected = Some(Expected {
            arrivals,
            come: Vec::new(),
            complete,
        });
        watched
    }

    pub(super) fn take_arrivals(&mut self, now: Instant) {
        while let Some(expected) = &self.expected {
            // There may be nothing to silence.
            let _ = expected.arrivals.bell.read();
            let Ok(arrival) = expected.arrivals.coming.try_recv() else {
                return;
            };
            match arrival {
                Arrival::Process(newcomer) => self.take_in(*newcomer),
                Arrival::Complete => self.all_have_come(now),
                Arrival::Failed(why) => self.restore_failed(&why),
                Arrival::Left(why) => {
                    self.end_expecting(&why);
                }
            }
        }
    }

    /// The address space of a process that has come.
    fn adopt(&mut self, newcomer: Newcomer) -> SpaceId {
        let id = self
            .session
            .add(Arc::new(newcomer.userfaultfd), newcomer.space);
        if let Some(target) = &newcomer.target {
            // Without it the end is noticed a little later.
            let _ = self.poller.add_target(&**target);
        }
        self.roots.add(id, newcomer.target, Vec::new());
        self.roots.watched(id, newcomer.watched);
        self.roots.needs_first(id, newcomer.first);
        id
    }

    fn take_in(&mut self, newcomer: Newcomer) {
        let id = self.adopt(newcomer);
        if let Some(expected) = &mut self.expected {
            expected.come.push(id);
        }
        // It may have touched something already.
        self.soon.insert(id);
        if let Err(errno) = self.watch(id) {
            self.restore_failed(&format!("cannot watch a userfaultfd: {errno}"));
        }
    }

    fn all_have_come(&mut self, now: Instant) {
        let Some(expected) = self.expected.take() else {
            return;
        };
        self.poller.remove(&*expected.arrivals.bell);
        // Whoever takes over has nothing to receive any more.
        self.remember();
        self.note_only_threads();
        self.session.answer_only(false);
        self.begin_filling(now);
        self.begin_replay();
        self.begin_recording(now);
        self.fetch_first();
        self.soon.extend(&expected.come);
        (expected.complete)(self.session.owes());
    }

    fn end_expecting(&mut self, why: &str) -> Option<Expected> {
        let expected = self.expected.take()?;
        self.failed = true;
        self.poller.remove(&*expected.arrivals.bell);
        mention(&format!("uffd-restore: {why}"));
        Some(expected)
    }

    /// They must not run, with what they have. Whoever restored them may have ended them already.
    pub(super) fn restore_failed(&mut self, why: &str) {
        let Some(mut expected) = self.end_expecting(why) else {
            return;
        };
        kill_family(&self.target);
        while let Ok(arrival) = expected.arrivals.coming.try_recv() {
            if let Arrival::Process(newcomer) = arrival {
                expected.come.push(self.adopt(*newcomer));
            }
        }
        for id in expected.come {
            self.end_restored(id);
        }
    }

    /// Lets go of its descriptor when it is dead. What descends from it goes as well: it has no memory that could be missing, or has not
    /// handed over yet, and waits for a restore that nobody goes on with.
    fn end_restored(&mut self, id: SpaceId) {
        self.given_up.insert(id);
        let Some(target) = self.roots.target_of(id).cloned() else {
            let what = "a process that cannot be seen from here has been handed over, and must not run: its threads wait until \
                        somebody ends it";
            return tell(&self.target, what);
        };
        kill_family(&target);
        if let Err(errno) = target.kill() {
            tell(&target, &format!("it cannot be killed: {errno}: end it"));
        }
        self.killed.insert(id);
    }
}
