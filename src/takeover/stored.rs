//! What an earlier run of this program has left in the service manager's store.
#![expect(unsafe_code, reason = "descriptors that are known by their numbers")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use super::{Directory, Shelf, Store, link_of};
use crate::pidfd::{fetch, is_pidfd, number_of};
use crate::processes::{Parents, name_of};
use crate::serve::{END_OF_A_PROCESS, Guard, Target, kill_family};
use crate::service::StoredName;
use crate::session::{Journal, JournalError, SpaceId};
use crate::terminal::mention;
use crate::uffd::Userfaultfd;

/// How often it is looked for children that are not served, each a millisecond after the one before.
const LOOKS: u32 = 200;

/// The descriptors. They are the workers' to use and to close; here they are known by their numbers.
#[derive(Debug, Clone, Default)]
pub struct Stored {
    numbers: Arc<BTreeMap<StoredName, RawFd>>,
    held: Option<Arc<Held>>,
}

/// What the guard of the earlier run has: all that was open in it, also what it had not had the time to store.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) guard: OwnedFd,
    pub(super) shelf: Arc<Shelf>,
}

impl Stored {
    /// What was passed to this program.
    #[must_use]
    pub fn new(passed: Vec<(StoredName, OwnedFd)>) -> Self {
        let numbers = passed.into_iter();
        let numbers = numbers.map(|(name, descriptor)| (name, descriptor.into_raw_fd()));
        Self {
            numbers: Arc::new(numbers.collect()),
            held: None,
        }
    }

    /// The same, and what a guard has.
    pub(super) fn and_held(self, held: Option<Held>) -> Self {
        let held = held.map(Arc::new);
        Self { held, ..self }
    }

    /// True if nothing was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Their numbers.
    pub(super) fn numbers(&self) -> BTreeSet<RawFd> {
        self.numbers.values().copied().collect()
    }

    /// The userfaultfd of an address space, which had this number.
    pub(crate) fn space(&self, session: usize, id: SpaceId, number: RawFd) -> Option<RawFd> {
        let name = StoredName::Space {
            session: session as u64,
            space: id.0,
        };
        let stored = self.numbers.get(&name).copied();
        stored.or_else(|| self.held.as_ref()?.userfaultfd(name, number))
    }

    /// The pidfd of a process, by the address space that it was handed over with, which had this number.
    pub(crate) fn process(&self, session: usize, id: SpaceId, number: RawFd) -> Option<RawFd> {
        let name = StoredName::Process {
            session: session as u64,
            number: id.0,
        };
        let stored = self.numbers.get(&name).copied();
        stored.or_else(|| self.held.as_ref()?.process(number))
    }

    /// What is of no use to those sessions any more.
    pub(crate) fn useless<'a>(
        &'a self,
        session: usize,
        has: impl Fn(SpaceId) -> bool + 'a,
    ) -> impl Iterator<Item = StoredName> + 'a {
        let names = self.numbers.keys().copied();
        names.filter(move |name| match *name {
            StoredName::Space {
                session: its,
                space,
            } => its == session as u64 && !has(SpaceId(space)),
            _ => false,
        })
    }

    /// The processes of a session that are alive, each by a descriptor of its own.
    fn targets(&self, session: u64) -> Vec<(SpaceId, Target)> {
        let stored = self.numbers.iter();
        let targets = stored.filter_map(|(name, number)| match *name {
            StoredName::Process {
                session: its,
                number: id,
            } if its == session => {
                // SAFETY: it is open: nobody closes it before its session is taken over.
                let pidfd = unsafe { BorrowedFd::borrow_raw(*number) };
                let pid = number_of(pidfd)?;
                let own = pidfd.try_clone_to_owned().ok()?;
                Some((SpaceId(id), Target::from_pidfd(pid, name_of(pid), own)))
            }
            _ => None,
        });
        targets.collect()
    }

    fn sessions(&self) -> BTreeSet<u64> {
        let session = |name: &StoredName| match *name {
            StoredName::Journal { session }
            | StoredName::Space { session, .. }
            | StoredName::Process { session, .. } => session,
        };
        self.numbers.keys().map(session).collect()
    }

    /// The journal of a session.
    fn journal(&self, session: u64) -> Result<RawFd, JournalError> {
        let number = self.numbers.get(&StoredName::Journal { session });
        let number = *number.ok_or(JournalError::NoState)?;
        // SAFETY: it is open: nobody closes it before its session is taken over.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let file = nix::unistd::dup(file).map_err(JournalError::System)?;
        Journal::open(file)?.check()?;
        Ok(number)
    }

    /// Lists all sessions, for a worker to go on with, and has their processes watched over. Those that nobody can go on with end.
    ///
    /// # Errors
    /// That of a session with which another build of this program could go on. Nothing has been done then.
    pub(super) fn restore(
        &self,
        directory: &Directory,
        guard: &Guard,
        store: Option<&Store>,
    ) -> Result<(), JournalError> {
        let journals = self.sessions().into_iter();
        let journals: Vec<_> = journals.map(|it| (it, self.journal(it))).collect();
        let other = journals.iter().find_map(|(_, journal)| match journal {
            Err(error @ (JournalError::Version { .. } | JournalError::System(_))) => Some(error),
            _ => None,
        });
        for (_, target) in journals.iter().flat_map(|&(it, _)| self.targets(it)) {
            // The worker takes that over.
            std::mem::forget(guard.watch(&target));
            guard.is_kept(target.pid, true);
        }
        if let Some(error) = other {
            return Err(error.clone());
        }
        for (session, journal) in journals {
            let slot = usize::try_from(session).unwrap_or(usize::MAX);
            match journal {
                Ok(journal) if directory.restore(slot, journal) => {}
                Ok(_) => self.end(session, "there are too many", store),
                Err(error) => self.end(session, &error.to_string(), store),
            }
        }
        Ok(())
    }

    /// Nobody can go on with it.
    fn end(&self, session: u64, why: &str, store: Option<&Store>) {
        for (_, target) in self.targets(session) {
            mention(&format!(
                "uffd-restore: cannot go on with process {}: its journal: {why}: it is killed, and what was forked from it",
                target.describe()
            ));
            kill_family(&target);
            let _ = target.ends_within(END_OF_A_PROCESS);
        }
        let its = self.numbers.keys().filter(|name| match **name {
            StoredName::Journal { session: its }
            | StoredName::Space { session: its, .. }
            | StoredName::Process { session: its, .. } => its == session,
        });
        for &name in its {
            if let Some(store) = store {
                store.forget(name);
            }
        }
    }

    /// The userfaultfd of an address space was not stored, and what is missing in it reads as zeros: its process must not live. Which one it
    /// is nobody can say: it is one of those descendants that have nothing registered.
    pub(crate) fn kill_lost(&self, session: usize, id: SpaceId) {
        for (root, target) in self.targets(session as u64) {
            let name = target.describe();
            if root == id {
                mention(&format!(
                    "uffd-restore: {name}: its userfaultfd was not stored: it is killed, and what was forked from it"
                ));
                kill_family(&target);
                continue;
            }
            let killed = kill_unregistered(&target);
            mention(&format!(
                "uffd-restore: {name}: a child was forked in the moment when this service was killed, and its missing memory is lost: \
                 those descendants that miss nothing were killed, it is one of them: {killed:?}"
            ));
        }
    }
}

impl Held {
    /// One that had not been stored yet. It is now: numbers in a journal become those of this run, and then the guard's are not known any more.
    fn userfaultfd(&self, name: StoredName, number: RawFd) -> Option<RawFd> {
        let fetched = fetch(self.guard.as_fd(), number).ok()?;
        let link = link_of(fetched.as_raw_fd());
        if link.as_deref() != Some(Userfaultfd::LINK) {
            return None;
        }
        self.shelf.put(name, fetched.as_fd()).ok()?;
        Some(fetched.into_raw_fd())
    }

    /// One that has ended.
    fn process(&self, number: RawFd) -> Option<RawFd> {
        let fetched = fetch(self.guard.as_fd(), number).ok()?;
        let link = link_of(fetched.as_raw_fd()).unwrap_or_default();
        is_pidfd(&link).then(|| fetched.into_raw_fd())
    }
}

/// Kills all descendants that have no memory registered. Returned is who that was.
fn kill_unregistered(root: &Target) -> BTreeSet<i32> {
    let me = nix::unistd::getpid().as_raw();
    let mut killed = BTreeSet::new();
    for _ in 0..LOOKS {
        // Once it has ended, its number may mean somebody else.
        if root.has_ended() {
            break;
        }
        let descendants = Parents::now().without(me).descendants(root.pid);
        let descendants = descendants
            .into_iter()
            .filter_map(|pid| Target::named(pid).ok());
        let lost: Vec<_> = descendants
            .filter(|it| !it.misses_pages() && !it.has_ended())
            .collect();
        if lost.is_empty() {
            break;
        }
        for target in lost {
            let _ = target.kill();
            killed.insert(target.pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    killed
}

/// Takes a descriptor over.
pub(crate) fn owned(number: RawFd) -> OwnedFd {
    // SAFETY: whoever owned it is dead, and left it to whoever takes over.
    unsafe { OwnedFd::from_raw_fd(number) }
}
