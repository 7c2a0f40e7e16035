//! The loop of one session. The only thread that reads its userfaultfds and installs its pages.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use snapshot_format::working_set::WorkingSet;

use super::arriving::Expected;
use super::filling::Filling;
use super::placement::Placement;
use super::poller::{Poller, Ready};
use super::pool::{Done, Work};
use super::report::Unsaid;
use super::roots::Roots;
use super::stalling::Stalling;
use super::supply::Supply;
use super::{
    Handover, Observer, Options, Outcome, Prefill, Recording, Report, Server, SoFar, Target,
};
use crate::progress::Progress;
use crate::session::{Journal, Notice, Request, Session, SpaceId, Turn};
use crate::takeover::{Deposit, Directory, Entry, Store};
use crate::terminal::mention;
use crate::uffd::Userfaultfd;

/// How often address spaces that say nothing are asked whether they still exist: no event tells of exit or exec.
pub(super) const LOOK_AROUND: Duration = Duration::from_millis(100);

/// A session and everything around it.
pub(super) struct Engine {
    pub(super) session: Session<Arc<Userfaultfd>>,
    pub(super) supply: Supply,
    pub(super) poller: Poller,
    /// The process that was handed over; or, where several are, whoever hands them over.
    pub(super) target: Arc<Target>,
    pub(super) roots: Roots,
    /// Processes that are yet to come.
    pub(super) expected: Option<Expected>,
    /// When pages may be installed that nobody asks for. `None` if it is not known yet.
    pub(super) fill_from: Option<Instant>,
    pub(super) options: Options,
    pub(super) filling: Filling,
    /// Address spaces that need another turn although they have said nothing.
    pub(super) soon: BTreeSet<SpaceId>,
    pub(super) stalling: Stalling,
    looked_around: Instant,
    /// A signal asked us to end.
    pub(super) asked_to_end: bool,
    pub(super) asked_at: Option<Instant>,
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
    /// What whoever goes on needs if this program is killed. Given up before the next line.
    pub(super) deposit: Option<Deposit>,
    /// Where it stands that this session is to be gone on with if this process is killed.
    pub(super) entry: Option<Entry>,
    /// Where that is to stand, and what is to be kept, from the first address space on.
    pub(super) keeping: Option<(Directory, Journal)>,
    pub(super) store: Option<Store>,
    /// Is told now and then how it goes.
    observer: Option<Observer>,
    progress: Option<Progress>,
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
    /// Without anything to serve yet.
    pub(super) fn new(server: Server, target: Arc<Target>) -> Self {
        let Server {
            supply,
            poller,
            reserve,
            options,
            set,
            recording,
            observer,
            keeping,
            store,
        } = server;
        Self {
            session: Session::new(options.on_failure).reading_ahead(options.read_ahead),
            supply,
            poller,
            target,
            roots: Roots::default(),
            expected: None,
            fill_from: None,
            options,
            filling: Filling::new(options.prefill_rate, options.prefill_urgent),
            soon: BTreeSet::new(),
            stalling: Stalling::default(),
            looked_around: Instant::now(),
            asked_to_end: false,
            asked_at: None,
            deadline: None,
            failed: false,
            given_up: BTreeSet::new(),
            killed: BTreeSet::new(),
            complaints: Complaints::default(),
            reserve,
            set,
            recording,
            replayed_in: None,
            deposit: None,
            entry: None,
            keeping,
            store,
            observer,
            progress: None,
            progressed: 0,
        }
    }

    /// A process that is handed over. If it is said to be the target, its end is noticed at once.
    pub(super) fn take_over(&mut self, handover: Handover) -> nix::Result<()> {
        let Handover {
            target,
            userfaultfd,
            space,
            kept_by_peer,
        } = handover;
        let root = self.session.add(Arc::new(userfaultfd), space);
        self.roots
            .add(root, Some(Arc::clone(&target)), kept_by_peer);
        self.remember();
        self.put_into_store();
        if let Some(deposit) = &mut self.deposit {
            deposit.settle();
        }
        // What there is to read already, and address spaces that are owed nothing.
        self.soon.insert(root);
        self.begin_filling(Instant::now());
        self.poller.add_target(&*target)?;
        self.watch(root)
    }

    /// From now on, or a little later, pages may be installed that nobody asks for.
    pub(super) fn begin_filling(&mut self, now: Instant) {
        self.fill_from = now.checked_add(self.options.prefill_delay);
        let quiet = self.options.quiet || self.options.prefill == Prefill::None;
        let owed = self.session.owes();
        self.progress = Some(Progress::new("restoring", Some(owed), quiet));
        self.progressed = owed;
    }

    pub(super) fn watch(&self, id: SpaceId) -> nix::Result<()> {
        match self.session.installer(id) {
            Some(userfaultfd) => self.poller.add(id, userfaultfd),
            None => Ok(()),
        }
    }

    pub(super) fn run(&mut self) {
        let mut now = Instant::now();
        if self.expected.is_none() {
            self.begin_recording(now);
        }
        let mut ready = Vec::new();
        let mut placement = Placement::of_this_thread(self.options.follow);
        while self.expected.is_some() || self.session.spaces().next().is_some() {
            let most = self.patience(now);
            self.let_others_install(now);
            let waited = self.poller.wait(most, &mut ready);
            self.filling.leases.close(&mut self.session);
            if let Err(errno) = waited {
                self.end_at_once(&format!("cannot wait for events: {errno}"));
                return;
            }
            now = Instant::now();
            let around = self.fills(now).then_some(self.supply.around);
            self.session.bring_along(around);
            let spaces = std::mem::take(&mut self.soon);
            for ready in ready.drain(..) {
                match ready {
                    Ready::Space(id) => self.turn(id, now),
                    Ready::Pool => self.take_from_pool(now),
                    Ready::TargetEnded => self.target_ended(),
                    Ready::Signal => self.signalled(now),
                    Ready::Arrival => self.take_arrivals(now),
                }
            }
            for id in spaces {
                self.turn(id, now);
            }
            self.deliver_again(now);
            self.replay(now);
            self.fetch_for_readers(now);
            self.install_ahead(now);
            self.fetch_ahead(now);
            let more_to_do = self.asked_to_end
                || self.supply.replay.is_some()
                || self.filling.is_busy(self.fills(now), now);
            let core = placement.answered(self.session.faulter(), more_to_do, &self.roots, now);
            self.filling.leases.keep_off(core);
            self.look_around(now);
            self.check_deadline(now);
            self.note_stall();
        }
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
                Work::Demand(request) => self.deliver(request, block, now),
                Work::Fill(request) => self.filling.fetched(request, block),
                Work::Rest(request) => self.filling.left_over(request, block),
                Work::Install(request, lease) => {
                    self.filling.installed(&request, &lease);
                    self.supply.pool.give_back(block);
                    self.soon_again(request.space);
                }
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
        self.look_after_journal();
        self.note_only_threads();
        self.check_recording(now);
        if self.reserve.is_none() {
            self.reserve = reserve();
        }
        let owed = self.session.owes();
        if let (Some(progress), Some(bytes)) = (&self.progress, self.progressed.checked_sub(owed)) {
            progress.add(bytes);
            self.progressed = owed;
        }
        if let Some(observer) = &mut self.observer {
            observer.0(SoFar {
                counts: self.session.counts(),
                latency: self.session.latency(),
                owed,
            });
        }
    }

    /// Where the kernel does not say which thread faults, but there is only one.
    pub(super) fn note_only_threads(&mut self) {
        for id in self.roots.spaces() {
            let only = self.roots.target_of(id).and_then(|of| of.only_thread());
            self.session.assume_thread(id, only.unwrap_or(0));
        }
    }

    pub(super) fn act_on_notices(&mut self) {
        for notice in self.session.notices() {
            match notice {
                Notice::Forked { parent, child } => {
                    self.roots.forked(parent, child);
                    let userfaultfd = self.session.installer(child);
                    if let (Some(deposit), Some(userfaultfd)) = (&mut self.deposit, userfaultfd) {
                        deposit.space(child, userfaultfd);
                    }
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
        let (counts, latency) = (*self.session.counts(), self.session.latency().clone());
        let outcome = if self.failed || counts.poisoned > 0 || counts.unserved > 0 {
            Outcome::Failed
        } else if counts.ended_owing > 0 {
            Outcome::TargetEnded
        } else {
            Outcome::Complete
        };
        let unsaid = self.entry.take().map(|entry| Unsaid {
            entry,
            session: self.session,
            target: self.target,
        });
        Report {
            outcome,
            counts,
            latency,
            replayed_in: self.replayed_in,
            time: started.elapsed(),
            unsaid: unsaid.map(Arc::new),
        }
    }

    /// True when all that is owed is to be installed, as there is time.
    pub(super) fn fills(&self, now: Instant) -> bool {
        let Some(from) = self.fill_from else {
            return false;
        };
        // What was touched last time comes before the rest.
        let recording = self.options.record_first && self.recording.is_some();
        let may = from <= now && self.supply.replay.is_none() && !recording;
        (self.options.prefill == Prefill::All && may) || self.asked_to_end
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
