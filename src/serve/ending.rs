//! What happens when not all can be served to the end. None of it makes zeros.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::engine::{Engine, tell};
use super::letting_go::poison_all;
use crate::addr::{Addr, AddrRange};
use crate::session::{OnFailure, SpaceId};

/// Signals that come within this time are one request: the keeper passes on one after the other.
const TOGETHER: Duration = Duration::from_millis(20);
/// Poisoned pages that are named one by one; the rest are counted.
const NAMED: u64 = 10;

impl Engine {
    /// Somebody asks us to end: first everything that is owed is installed, and a second time means now. Signals that come
    /// together are one request, and a terminal or a service manager may say SIGHUP as often as it likes.
    pub(super) fn signalled(&mut self, now: Instant) {
        let signals = self.poller.signals();
        if signals.is_empty() {
            return;
        }
        if !self.asked_to_end {
            self.asked_to_end = true;
            self.asked_at = Some(now);
            let owed = bytesize::ByteSize(self.session.owes()).display().iec();
            let within = humantime::format_duration(self.options.finish_within);
            tell(
                &self.target,
                &format!(
                    "asked to end: installing the {owed} still owed first, for at most {within} (a second signal gives up)"
                ),
            );
            self.deadline = now.checked_add(self.options.finish_within);
        } else if self
            .asked_at
            .is_some_and(|at| now.duration_since(at) > TOGETHER)
            && signals.iter().any(|&signal| signal != Signal::SIGHUP)
        {
            self.give_up("asked to end at once");
        }
    }

    pub(super) fn check_deadline(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.give_up("could not finish in time after it was asked to end (--finish-within)");
        }
    }

    /// Stops serving all address spaces that are owed something. Once for each.
    fn give_up(&mut self, why: &str) {
        if self.expected.is_some() {
            return self.restore_failed(why);
        }
        let given_up = &self.given_up;
        let spaces: Vec<SpaceId> = self
            .session
            .spaces()
            .filter(|id| !given_up.contains(id))
            .collect();
        if !spaces.is_empty() && self.session.owes() > 0 {
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

    /// Gives up, and does not return before nothing is owed to anybody: what is let go of becomes zeros.
    pub(super) fn end_at_once(&mut self, why: &str) {
        self.filling.leases.close(&mut self.session);
        while self.session.spaces().next().is_some() {
            // Whatever made this program fail may do so again.
            let done = catch_unwind(AssertUnwindSafe(|| {
                self.give_up(why);
                self.act_on_notices();
                self.look_for_the_dead();
            }));
            if done.is_err() {
                self.failed = true;
                // They are gone, or their threads wait until somebody ends them.
                let _ = self.target.kill();
                for target in self.roots.targets() {
                    let _ = target.kill();
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn give_up_on(&mut self, id: SpaceId, why: &str) {
        self.given_up.insert(id);
        let owes = self.session.space(id).is_some_and(|space| space.owes() > 0);
        if !owes {
            self.gone(id);
            return;
        }
        self.failed = true;
        if self.options.on_failure == OnFailure::Poison && poison_all(&mut self.session, id, why) {
            self.gone(id);
        } else {
            self.kill(id, None, why);
        }
    }

    pub(super) fn poisoned(&mut self, range: AddrRange, why: &str) {
        self.complaints.pages += 1;
        if self.complaints.pages <= NAMED {
            let what = match range.len() / snapshot_format::PAGE_BYTES {
                1 => format!("the page at {} is poisoned", range.start),
                pages => format!("{pages} pages from {} on are poisoned", range.start),
            };
            tell(&self.target, &format!("{what}: {why}"));
        } else if self.complaints.pages == NAMED + 1 {
            tell(
                &self.target,
                "more pages are poisoned; the number is told at the end",
            );
        }
    }

    /// Kills the process that an address space belongs to, because of a thread that waits for an address, if there is one. Its
    /// descriptor stays open until its memory is gone: a thread that still runs must not read zeros.
    pub(super) fn kill(&mut self, id: SpaceId, waits: Option<(u32, Addr)>, why: &str) {
        self.failed = true;
        let Some(root) = self.roots.target_of(id).cloned() else {
            let what = format!("{why}; it is not known which process that is: poisoned instead");
            tell(&self.target, &what);
            return self.poison_instead(id, waits);
        };
        let is_root = self.roots.has(id);
        let child = waits
            .filter(|_| !is_root)
            .and_then(|(thread, at)| root.process_of(thread, at));
        let (victim, others) = match &child {
            Some(child) => (child, ""),
            // Which child it is cannot be told: all that were forked from the target are its responsibility.
            None if !is_root => (&*root, " (the child that needs it is not known)"),
            None => (&*root, ""),
        };
        self.session.note_unserved();
        match victim.kill() {
            Ok(()) => {
                tell(victim, &format!("killed{others}: {why}"));
                if child.is_none() {
                    self.killed.insert(id);
                }
            }
            Err(errno) => {
                tell(
                    victim,
                    &format!(
                        "{why}; it cannot be killed: {errno}: poisoned instead (run uffd-restore with CAP_KILL)"
                    ),
                );
                self.poison_instead(id, waits);
            }
        }
    }

    /// The process that was killed for an address space has ended, and the address space has not: it is that of another one, which
    /// shares it, or handed over by way of the one that ended.
    pub(super) fn outlived(&mut self, id: SpaceId) {
        let what = "its memory belongs to another process, for which it is poisoned";
        tell(&self.target, what);
        if poison_all(&mut self.session, id, what) {
            self.gone(id);
        }
    }

    fn poison_instead(&mut self, id: SpaceId, waits: Option<(u32, Addr)>) {
        if let Some((_, at)) = waits {
            self.session.poison_instead(id, at);
            self.soon.insert(id);
        } else if poison_all(&mut self.session, id, "its process cannot be killed") {
            self.gone(id);
        } else {
            // Its threads wait for ever, which is better than going on with zeros.
            tell(
                &self.target,
                "cannot be poisoned either: kill it, its memory is incomplete",
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

    pub(super) fn no_memory(&mut self) {
        // Whoever has the memory needs time to give it back.
        std::thread::sleep(Duration::from_millis(1));
        if !self.complaints.memory {
            self.complaints.memory = true;
            tell(
                &self.target,
                "there is no memory for its pages: its memory cgroup is at the limit, or there are no huge pages left \
                 (raise vm.nr_hugepages); its threads wait",
            );
        }
    }
}
