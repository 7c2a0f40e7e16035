//! Sessions whose process was killed.
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::roots::Roots;
use super::{Guard, Target};
use crate::service::StoredName;
use crate::session::{Journal, JournalError, OnFailure, Recovered, Session};
use crate::takeover::{Entry, Stored, owned};
use crate::uffd::Userfaultfd;

/// A session that a process served which is dead.
#[derive(Debug)]
pub struct Orphaned {
    pub(super) recovered: Recovered<Arc<Userfaultfd>>,
    pub(super) roots: Roots,
    pub(super) entry: Entry,
    /// What may still be in the store, and is of no use any more.
    pub(super) useless: Vec<StoredName>,
    host: Arc<Target>,
}

impl Orphaned {
    /// Finds out what there is to be done. What was read is applied, and whoever waits asks again. If the session is one of an earlier run
    /// its descriptors are those that were stored, and children whose are not among them are killed.
    ///
    /// # Errors
    /// What is wrong with the journal. Nobody can go on with the session then.
    pub fn find(
        entry: Entry,
        journal: RawFd,
        on_failure: OnFailure,
        stored: &Stored,
    ) -> Result<Self, JournalError> {
        let slot = entry.slot();
        let stored = Some(stored).filter(|_| entry.is_stored());
        let installer = |id, number| {
            let number = match stored {
                None => Some(number),
                Some(stored) => stored.space(slot, id, number),
            };
            if let (None, Some(stored)) = (number, stored) {
                stored.kill_lost(slot, id);
            }
            number.map(|number| Arc::new(Userfaultfd::from(owned(number))))
        };
        let pidfd = |id, number| match stored {
            None => Some(owned(number)),
            Some(stored) => stored.process(slot, id, number).map(owned),
        };
        let journal = Journal::open(owned(journal))?;
        let mut recovered = Session::recover(journal, on_failure, installer, Instant::now())?;
        let exists = |id| recovered.session.space(id).is_some();
        let roots = Roots::of_about(&recovered.about, &recovered.forks, exists, pidfd);
        let (roots, host) = roots.map_err(|_| JournalError::Damaged)?;
        let mut useless: Vec<StoredName> = match stored {
            Some(stored) => stored.useless(slot, exists).collect(),
            None => Vec::new(),
        };
        useless.extend(recovered.ended.iter().map(|id| StoredName::Space {
            session: slot as u64,
            space: id.0,
        }));
        if stored.is_some() {
            // Their numbers are those of this run now.
            recovered.session.remember(roots.about(&host));
            entry.is_renumbered();
        }
        Ok(Self {
            recovered,
            roots,
            entry,
            useless,
            host,
        })
    }

    /// What the session is said to be of. It may be over, and what is left to be done is to say so.
    #[must_use]
    pub fn target(&self) -> Arc<Target> {
        Arc::clone(&self.host)
    }

    /// Bytes that are owed.
    #[must_use]
    pub fn owes(&self) -> u64 {
        self.recovered.session.owes()
    }

    /// The processes that were handed over, as far as they are known.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        self.roots.targets().map(|target| target.pid).collect()
    }

    /// The descriptors that it has.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let session = &self.recovered.session;
        let journal = session.journal().map(|journal| journal.as_fd().as_raw_fd());
        let spaces = session.spaces().filter_map(|id| session.installer(id));
        let spaces = spaces.map(|userfaultfd| userfaultfd.as_raw_fd());
        let targets = self
            .roots
            .targets()
            .chain([&self.host])
            .map(|target| target.as_fd().as_raw_fd());
        spaces.chain(targets).chain(journal).collect()
    }

    /// Those that are known must not outlive this program.
    pub fn watch(&mut self, guard: &Guard) {
        self.roots.watch(|target| guard.watch_again(target));
    }
}
