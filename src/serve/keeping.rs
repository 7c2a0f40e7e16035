//! What is kept of a session for whoever takes over.

use std::sync::Arc;
use std::time::Instant;

use super::engine::{Engine, tell};
use super::roots::Roots;
use crate::session::{Journal, Recovered, SpaceId};
use crate::uffd::Userfaultfd;

impl Engine {
    /// From now on whoever takes over knows what this process knows.
    pub(super) fn remember(&mut self) {
        let Some((directory, journal)) = self.keeping.take() else {
            return;
        };
        self.session.keep_journal(journal);
        self.session.remember(self.roots.about(&self.target));
        let journal = self.session.journal();
        self.entry = journal.and_then(|journal| directory.enter(journal));
    }

    /// What the next run of this program needs to go on. Once more for what is there already, which does no harm.
    pub(super) fn put_into_store(&mut self) {
        let (Some(store), Some(entry)) = (&self.store, &self.entry) else {
            return;
        };
        let deposit = self.deposit.get_or_insert_with(|| store.open(entry.slot()));
        for (id, target) in self.roots.processes() {
            deposit.process(id, &**target);
        }
        for id in self.session.spaces() {
            if let Some(userfaultfd) = self.session.installer(id) {
                deposit.space(id, userfaultfd);
            }
        }
        // Last: whoever finds it finds the rest.
        match self.session.journal() {
            Some(journal) if journal.is_kept() => deposit.journal(journal),
            _ => {}
        }
    }

    /// The processes are somebody else's to watch over, if all of them is in the store.
    pub(super) fn leave_to_store(&mut self) {
        let kept = self.session.journal().is_some_and(Journal::is_kept);
        if let (Some(deposit), true) = (&mut self.deposit, kept) {
            deposit.keeps(self.roots.targets().map(|target| target.pid).collect());
        }
    }

    /// What to do with those that were served by a process that is dead.
    pub(super) fn go_on(
        &mut self,
        recovered: Recovered<Arc<Userfaultfd>>,
        roots: Roots,
    ) -> nix::Result<()> {
        self.session = recovered.session.reading_ahead(self.options.read_ahead);
        self.roots = roots;
        self.put_into_store();
        for target in self.roots.targets() {
            self.poller.add_target(&**target)?;
        }
        let spaces: Vec<SpaceId> = self.session.spaces().collect();
        for &id in &spaces {
            self.watch(id)?;
        }
        self.soon.extend(spaces);
        self.begin_filling(Instant::now());
        self.fetch_first();
        Ok(())
    }

    /// Where there is no room for the journal nobody can go on by it, and who is served must not wait for somebody who does.
    pub(super) fn look_after_journal(&mut self) {
        let lost = self.session.journal().is_some_and(|it| !it.is_kept());
        if !lost || self.entry.is_none() {
            return;
        }
        if let Some(deposit) = &mut self.deposit {
            deposit.keeps_nothing();
        }
        self.entry = None;
        tell(
            &self.target,
            "there is no room for its journal (memory, or the folder of --state-dir): it is served, but nobody can take over: if the process \
             that serves it is killed it is killed, too",
        );
    }
}
