//! Sessions whose process was killed.
#![expect(unsafe_code, reason = "descriptors that a dead process has left")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

use super::roots::Roots;
use super::{Guard, Target};
use crate::session::{Journal, JournalError, OnFailure, Recovered, Session};
use crate::takeover::Entry;
use crate::uffd::Userfaultfd;

/// A session that a process served which is dead.
#[derive(Debug)]
pub struct Orphaned {
    pub(super) recovered: Recovered<Arc<Userfaultfd>>,
    pub(super) roots: Roots,
    pub(super) entry: Entry,
}

impl Orphaned {
    /// Finds out what there is to be done. What was read is applied, and whoever waits asks again.
    ///
    /// # Errors
    /// What is wrong with the journal. Nobody can go on with the session then.
    pub fn find(entry: Entry, journal: RawFd, on_failure: OnFailure) -> Result<Self, JournalError> {
        // SAFETY: who owned it is dead, and left it to whoever takes over.
        let journal = unsafe { OwnedFd::from_raw_fd(journal) };
        let installer = |_, number| {
            // SAFETY: as above.
            let owned = unsafe { OwnedFd::from_raw_fd(number) };
            Some(Arc::new(Userfaultfd::from(owned)))
        };
        let journal = Journal::open(journal)?;
        let recovered = Session::recover(journal, on_failure, installer, Instant::now())?;
        let exists = |id| recovered.session.space(id).is_some();
        let roots = Roots::of_about(&recovered.about, &recovered.forks, exists);
        let roots = roots.map_err(|_| JournalError::Damaged)?;
        Ok(Self {
            recovered,
            roots,
            entry,
        })
    }

    /// The process that was handed over first, of those that are left.
    #[must_use]
    pub fn target(&self) -> Option<Arc<Target>> {
        self.roots.targets().next().cloned()
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
            .map(|target| target.as_fd().as_raw_fd());
        spaces.chain(targets).chain(journal).collect()
    }

    /// Those that are known must not outlive this program.
    pub fn watch(&mut self, guard: &Guard) {
        self.roots.watch(|target| guard.watch_again(target));
    }
}
