//! What happens when not all can be served to the end. None of it makes zeros.

use std::time::{Duration, Instant};

use super::engine::{Engine, tell};
use crate::addr::AddrRange;
use crate::session::{OnFailure, SpaceId, Turn};

/// Poisoned pages that are named one by one; the rest are counted.
const NAMED: u64 = 10;
/// How long a change of an address space may hold up its poisoning before the target is killed instead.
const STUCK: Duration = Duration::from_secs(5);

impl Engine {
    /// Somebody asks us to end: first everything that is owed is installed, and a second time means now.
    pub(super) fn signalled(&mut self, now: Instant) {
        let signals = self.poller.signals();
        if signals == 0 {
            return;
        }
        let first = self.asked_to_end == 0;
        self.asked_to_end += signals;
        if first && self.asked_to_end == 1 {
            let owed = bytesize::ByteSize(self.session.owes()).display().iec();
            tell(
                &self.target,
                &format!(
                    "asked to end: installing the {owed} still owed first (a second signal gives up)"
                ),
            );
            self.deadline = now.checked_add(self.options.finish_within);
        } else {
            self.give_up("asked to end at once");
        }
    }

    pub(super) fn check_deadline(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.give_up("could not finish in time after it was asked to end");
        }
    }

    /// Stops serving all address spaces that are owed something.
    pub(super) fn give_up(&mut self, why: &str) {
        let spaces: Vec<SpaceId> = self.session.spaces().collect();
        if self.session.owes() > 0 {
            let owed = bytesize::ByteSize(self.session.owes()).display().iec();
            tell(&self.target, &format!("{why}: {owed} were not restored"));
        }
        for id in spaces {
            self.give_up_on(id, why);
        }
    }

    /// An address space cannot be served any more.
    pub(super) fn broken(&mut self, id: SpaceId, what: &str) {
        tell(&self.target, what);
        self.give_up_on(id, what);
    }

    fn give_up_on(&mut self, id: SpaceId, why: &str) {
        let owes = self.session.space(id).is_some_and(|space| space.owes() > 0);
        if !owes {
            self.gone(id);
            return;
        }
        self.failed = true;
        if self.options.on_failure == OnFailure::Poison && self.poison_all(id, why) {
            self.gone(id);
        } else {
            self.kill(id, 0, why);
        }
    }

    /// True when nothing is owed any more.
    fn poison_all(&mut self, id: SpaceId, why: &str) -> bool {
        let until = Instant::now() + STUCK;
        loop {
            match self.session.abandon(id, why, Instant::now()) {
                Turn::Idle | Turn::Gone => return true,
                Turn::Soon if Instant::now() > until => return false,
                Turn::Soon => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    pub(super) fn poisoned(&mut self, range: AddrRange, why: &str) {
        self.complaints.pages += 1;
        if self.complaints.pages <= NAMED {
            let pages = range.len() / snapshot_format::PAGE_BYTES;
            tell(
                &self.target,
                &format!("{pages} page(s) at {} poisoned: {why}", range.start),
            );
        } else if self.complaints.pages == NAMED + 1 {
            tell(
                &self.target,
                "more pages poisoned; the total is told at the end",
            );
        }
    }

    /// Kills the process that an address space belongs to, and waits until its memory is gone: the descriptor must not be
    /// closed while a thread could still run and read zeros.
    pub(super) fn kill(&mut self, id: SpaceId, thread: u32, why: &str) {
        self.failed = true;
        let child = (id != self.root)
            .then(|| self.target.process_of(thread))
            .flatten();
        let (victim, others) = match &child {
            Some(child) => (child, ""),
            // Which child it is cannot be told: all that were forked from the target are its responsibility.
            None if id != self.root => (&self.target, " (the child that needs it is not known)"),
            None => (&self.target, ""),
        };
        tell(victim, &format!("killed{others}: {why}"));
        if let Err(errno) = victim.kill() {
            // Its threads wait for ever, which is better than going on with zeros; somebody has to end it.
            tell(
                victim,
                &format!("cannot be killed: {errno}: kill it, its memory is incomplete"),
            );
        }
    }

    /// The kernel has no descriptor left for a forked child, and the target stands still until it has.
    pub(super) fn no_descriptor(&mut self, id: SpaceId) {
        if !self.complaints.descriptors {
            self.complaints.descriptors = true;
            tell(
                &self.target,
                "there are no more descriptors for forked children; it waits until some have ended \
                 (raise RLIMIT_NOFILE of uffd-restore)",
            );
        }
        if self.reserve.take().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.soon.insert(id);
    }

    /// After everything was given up: those that were killed need a moment, and their memory must not be let go of before.
    pub(super) fn await_deaths(&mut self) {
        let until = Instant::now() + STUCK;
        while self.session.spaces().next().is_some() && Instant::now() < until {
            self.look_for_the_dead();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub(super) fn no_memory(&mut self) {
        if !self.complaints.memory {
            self.complaints.memory = true;
            tell(
                &self.target,
                "there is no memory for its pages (its memory cgroup is at the limit?); its threads wait",
            );
        }
    }
}
