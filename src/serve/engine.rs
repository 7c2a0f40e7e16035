//! The loop of one session. The only thread that reads its userfaultfds and installs its pages.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sched::sched_yield;
use snapshot_format::PAGE_BYTES;
use snapshot_format::working_set::WorkingSet;

use super::filling::Filling;
use super::placement::Placement;
use super::poller::{Poller, Ready};
use super::pool::{Done, Work};
use super::supply::Supply;
use super::{Handover, Options, Outcome, Prefill, Recording, Report, Server, Target, letting_go};
use crate::addr::{Addr, AddrRange};
use crate::progress::Progress;
use crate::session::{Installer, Notice, Request, Session, SpaceId, Turn};
use crate::terminal::mention;
use crate::uffd::{Stop, Userfaultfd};

/// How often address spaces that say nothing are asked whether they still exist: no event tells of exit or exec.
pub(super) const LOOK_AROUND: Duration = Duration::from_millis(100);

/// A session and everything around it.
pub(super) struct Engine {
    pub(super) session: Session<Userfaultfd>,
    pub(super) supply: Supply,
    pub(super) poller: Poller,
    pub(super) target: Target,
    pub(super) root: SpaceId,
    /// What the target has registered with a userfaultfd of which it keeps a descriptor.
    kept_by_peer: Vec<AddrRange>,
    pub(super) options: Options,
    pub(super) filling: Filling,
    /// Address spaces that need another turn although they have said nothing.
    pub(super) soon: BTreeSet<SpaceId>,
    /// Turns in a row that brought nothing forward.
    stalls: u32,
    looked_around: Instant,
    /// A signal asked us to end.
    pub(super) asked_to_end: bool,
    /// When to give up finishing.
    pub(super) deadline: Option<Instant>,
    /// Something was not served.
    pub(super) failed: bool,
    /// Address spaces that have been given up, and are not gone yet.
    pub(super) given_up: BTreeSet<SpaceId>,
    /// Address spaces whose process was killed.
    pub(super) killed: BTreeSet<SpaceId>,
    pub(super) complaints: Complaints,
    /// A descriptor to give away when there are none left.
    pub(super) reserve: Option<OwnedFd>,
    /// What was touched last time, until it is used.
    pub(super) set: Option<Arc<WorkingSet<File>>>,
    /// What is touched is to be told to somebody.
    pub(super) recording: Option<Recording>,
    /// How long it took to install what was touched last time.
    pub(super) replayed_in: Option<Duration>,
    progress: Progress,
    progressed: u64,
}

/// What has been said already, so that a log stays readable.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    pub(super) pages: u64,
    pub(super) memory: bool,
    pub(super) descriptors: bool,
}

impl Engine {
    pub(super) fn new(server: Server, handover: Handover) -> Self {
        let Server {
            supply,
            poller,
            reserve,
            options,
            set,
            recording,
        } = server;
        let Handover {
            target,
            userfaultfd,
            space,
            kept_by_peer,
        } = handover;
        let mut session = Session::new(options.on_failure).reading_ahead(options.read_ahead);
        let owed = space.owes();
        let root = session.add(userfaultfd, space);
        Self {
            session,
            supply,
            poller,
            target,
            root,
            kept_by_peer,
            options,
            filling: Filling::new(options.prefill_rate),
            // What there is to read already, and address spaces that are owed nothing.
            soon: BTreeSet::from([root]),
            stalls: 0,
            looked_around: Instant::now(),
            asked_to_end: false,
            deadline: None,
            failed: false,
            given_up: BTreeSet::new(),
            killed: BTreeSet::new(),
            complaints: Complaints::default(),
            reserve,
            set,
            recording,
            replayed_in: None,
            progress: Progress::new(
                "restoring",
                Some(owed),
                options.quiet || options.prefill == Prefill::None,
            ),
            progressed: owed,
        }
    }

    pub(super) fn watch_all(&self) -> nix::Result<()> {
        self.poller.add_target(&self.target)?;
        self.watch(self.root)
    }

    fn watch(&self, id: SpaceId) -> nix::Result<()> {
        match self.session.installer(id) {
            Some(userfaultfd) => self.poller.add(id, userfaultfd),
            None => Ok(()),
        }
    }

    pub(super) fn run(&mut self) {
        let mut now = Instant::now();
        self.begin_recording(now);
        let mut ready = Vec::new();
        let mut placement = Placement::of_this_thread(self.options.follow);
        while self.session.spaces().next().is_some() {
            let most = self.patience(now);
            if let Err(errno) = self.poller.wait(most, &mut ready) {
                self.end_at_once(&format!("cannot wait for events: {errno}"));
                return;
            }
            now = Instant::now();
            let spaces = std::mem::take(&mut self.soon);
            let mut busy = false;
            for ready in ready.drain(..) {
                match ready {
                    Ready::Space(id) => {
                        busy = true;
                        self.turn(id, now);
                    }
                    Ready::Pool => {
                        busy = true;
                        self.take_from_pool(now);
                    }
                    Ready::TargetEnded => self.target_ended(),
                    Ready::Signal => self.signalled(now),
                }
            }
            for id in spaces {
                self.turn(id, now);
            }
            busy |= self.replay(now);
            self.fetch_for_readers();
            busy |= self.install_ahead(now);
            self.fetch_ahead(now);
            let more_to_do = self.asked_to_end
                || self.supply.replay.is_some()
                || self.filling.is_busy(self.fills(), now);
            let target = (&self.target, self.root);
            placement.answered(self.session.faulter(), more_to_do, target, now);
            self.look_around(now);
            self.check_deadline(now);
            self.stalls = if busy {
                0
            } else {
                self.stalls.saturating_add(1)
            };
        }
    }

    /// How long to wait for the next thing to happen, at most.
    fn patience(&mut self, now: Instant) -> Option<Duration> {
        if self.soon.is_empty() {
            if self.has_to_replay() {
                return Some(Duration::ZERO);
            }
            return self.filling.patience(now, self.asked_to_end);
        }
        // A thread that was told of something has to run before the kernel lets us go on: it needs the processor.
        match self.stalls {
            0..=50 => {
                // It cannot fail on Linux.
                let _ = sched_yield();
            }
            stalls => std::thread::sleep(Duration::from_micros(u64::from(stalls).min(1000))),
        }
        Some(Duration::ZERO)
    }

    /// A turn of one address space, and of those that it forks.
    fn turn(&mut self, id: SpaceId, now: Instant) {
        match self.session.turn(id, &mut self.supply, now) {
            Turn::Idle => {}
            Turn::Soon | Turn::Later => {
                self.soon.insert(id);
            }
            Turn::Gone => self.gone(id),
        }
        self.act_on_notices();
        self.end_if_finished(id);
    }

    pub(super) fn take_from_pool(&mut self, now: Instant) {
        self.supply.pool.silence();
        while let Some(Done {
            work,
            block,
            failed,
        }) = self.supply.pool.take()
        {
            match work {
                Work::Demand(request) => {
                    let turn = self.session.deliver(&request, &block, now);
                    self.supply.pool.give_back(block);
                    self.after_delivery(&request, turn);
                }
                Work::Fill(request) => self.filling.fetched(request, block),
                Work::Frame { plan, .. } => self.frame_came(plan, block, failed, now),
            }
        }
    }

    /// What becomes of an address space for which a fault was answered.
    pub(super) fn after_delivery(&mut self, request: &Request, turn: Turn) {
        match turn {
            Turn::Idle => {}
            Turn::Soon | Turn::Later => {
                self.soon.insert(request.space);
            }
            Turn::Gone => self.gone(request.space),
        }
        self.act_on_notices();
        self.end_if_finished(request.space);
    }

    /// Asks address spaces whether they still exist.
    fn look_around(&mut self, now: Instant) {
        if now.duration_since(self.looked_around) < LOOK_AROUND {
            return;
        }
        self.looked_around = now;
        self.look_for_the_dead();
        self.check_recording(now);
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        let owed = self.session.owes();
        if let Some(bytes) = self.progressed.checked_sub(owed) {
            self.progress.add(bytes);
            self.progressed = owed;
        }
    }

    pub(super) fn look_for_the_dead(&mut self) {
        let spaces: Vec<SpaceId> = self.session.spaces().collect();
        for id in spaces {
            let userfaultfd = self.session.installer_mut(id);
            let state = userfaultfd
                .and_then(|userfaultfd| Installer::probe(userfaultfd, Addr::NOWHERE, PAGE_BYTES));
            match state {
                Some(Stop::Gone) => self.gone(id),
                // Nothing can be done with it, and nobody is left who could need it.
                Some(Stop::Other(_)) if self.target.has_ended() => self.gone(id),
                // Killed for a page, and another process has the memory.
                _ if self.killed.contains(&id) && self.target.has_ended() => {
                    self.killed.remove(&id);
                    self.outlived(id);
                }
                _ => self.end_if_finished(id),
            }
        }
    }

    fn target_ended(&mut self) {
        self.poller.remove(&self.target);
        self.look_for_the_dead();
    }

    /// An address space has ceased to exist.
    pub(super) fn gone(&mut self, id: SpaceId) {
        if id == self.root && self.session.space(id).is_some_and(|space| space.owes() > 0) {
            self.filling.note_death_owing();
        }
        if id == self.root {
            match self.session.space(id) {
                Some(space) if space.owes() == 0 => self.end_replay(),
                _ => self.drop_replay(),
            }
        }
        self.filling.forget(id);
        self.soon.remove(&id);
        self.given_up.remove(&id);
        self.killed.remove(&id);
        let ended = self.session.end(id);
        if id == self.root
            && let Some(userfaultfd) = ended
        {
            letting_go::unregister(&userfaultfd, &self.kept_by_peer);
        }
    }

    /// Nothing is owed any more: closing the descriptor unregisters the memory and wakes whoever waits, for zeros.
    fn end_if_finished(&mut self, id: SpaceId) {
        if self.session.is_finished(id) {
            self.gone(id);
        }
    }

    pub(super) fn act_on_notices(&mut self) {
        for notice in self.session.notices() {
            match notice {
                Notice::Forked { child } => {
                    if let Err(errno) = self.watch(child) {
                        self.broken(
                            child,
                            &format!("cannot watch the userfaultfd of a forked child: {errno}"),
                        );
                    }
                    // Its turn comes before anything else is waited for.
                    self.soon.insert(child);
                }
                Notice::Gone(id) => self.gone(id),
                Notice::Poisoned { range, why, .. } => self.poisoned(range, &why),
                Notice::Kill {
                    space,
                    range,
                    thread,
                    why,
                } => {
                    let what = format!("the page at {} cannot be served: {why}", range.start);
                    self.kill(space, Some((thread, range.start)), &what);
                }
                Notice::Broken { space, what } => self.broken(space, &what),
                Notice::NoDescriptor(id) => self.no_descriptor(id),
                Notice::NoMemory(_) => self.no_memory(),
            }
        }
    }

    pub(super) fn report(mut self, started: Instant) -> Report {
        self.end_recording();
        let outcome = if self.failed || self.session.counts().poisoned > 0 {
            Outcome::Failed
        } else if self.filling.died_owing() {
            Outcome::TargetEnded
        } else {
            Outcome::Complete
        };
        Report {
            outcome,
            counts: *self.session.counts(),
            latency: self.session.latency().clone(),
            replayed_in: self.replayed_in,
            time: started.elapsed(),
        }
    }

    /// True when pages are to be installed ahead.
    pub(super) fn fills(&self) -> bool {
        // What was touched last time comes before the rest.
        (self.options.prefill == Prefill::All && self.supply.replay.is_none()) || self.asked_to_end
    }
}

/// An open descriptor, to be closed when the kernel has none left for a forked child.
pub(super) fn reserve() -> Option<OwnedFd> {
    std::fs::File::open("/dev/null").ok().map(OwnedFd::from)
}

/// Says one line about the target.
pub(super) fn tell(target: &Target, what: &str) {
    mention(&format!("uffd-restore: {}: {what}", target.describe()));
}
