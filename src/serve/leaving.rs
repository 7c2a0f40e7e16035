//! Address spaces that end: finished, or gone.

use snapshot_format::PAGE_BYTES;

use super::engine::Engine;
use super::letting_go;
use crate::addr::Addr;
use crate::session::{Installer, SpaceId};
use crate::uffd::Stop;

impl Engine {
    pub(super) fn look_for_the_dead(&mut self) {
        let spaces: Vec<SpaceId> = self.session.spaces().collect();
        for id in spaces {
            let userfaultfd = self.session.installer_mut(id);
            let state = userfaultfd
                .and_then(|userfaultfd| Installer::probe(userfaultfd, Addr::NOWHERE, PAGE_BYTES));
            match state {
                Some(Stop::Gone) => self.gone(id),
                // Nothing can be done with it, and nobody is left who could need it.
                Some(Stop::Other(_)) if self.has_ended(id) => self.gone(id),
                // Killed for a page, and another process has the memory.
                _ if self.killed.contains(&id) && self.has_ended(id) => {
                    self.killed.remove(&id);
                    self.outlived(id);
                }
                _ => self.end_if_finished(id),
            }
        }
    }

    /// True when the process has ended that was handed over with this address space, or forked it. Of one that is not known nobody can say.
    fn has_ended(&self, id: SpaceId) -> bool {
        self.roots
            .target_of(id)
            .is_some_and(|target| target.has_ended())
    }

    pub(super) fn target_ended(&mut self) {
        for target in self.roots.targets() {
            if target.has_ended() {
                self.poller.remove(&**target);
            }
        }
        self.look_for_the_dead();
    }

    /// An address space has ceased to exist.
    pub(super) fn gone(&mut self, id: SpaceId) {
        let was_root = self.roots.has(id);
        let owed = self.session.space(id).map(|space| space.owes());
        if was_root && owed.is_some_and(|owed| owed > 0) {
            self.session.note_ended_owing();
        }
        let kept = self.roots.gone(id);
        if was_root && self.roots.spaces().next().is_none() {
            // There is nobody left to replay for.
            match owed {
                Some(0) => self.end_replay(),
                _ => self.drop_replay(),
            }
        }
        self.filling.forget(id);
        self.soon.remove(&id);
        self.given_up.remove(&id);
        self.killed.remove(&id);
        // First, so that whoever takes over does it again rather than not at all.
        if let Some(userfaultfd) = self.session.installer(id) {
            letting_go::unregister(userfaultfd, &kept);
        }
        let userfaultfd = self.session.end(id);
        if let Some(deposit) = &mut self.deposit {
            deposit.gone(id);
        }
        drop(userfaultfd);
    }

    /// Nothing is owed any more: closing the descriptor unregisters the memory and wakes whoever waits, for zeros.
    pub(super) fn end_if_finished(&mut self, id: SpaceId) {
        // Before all have come, what may be told has not been: nothing is let go of.
        if self.expected.is_none() && self.session.is_finished(id) {
            self.gone(id);
        }
    }
}
