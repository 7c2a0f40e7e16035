//! Where descriptors are that the next run of this program goes on with, whatever becomes of this one: the service manager's store, or
//! a [`Shelf`] that others have open as well.
//!
//! A session is in it when its journal is, for that comes last. What it has under a name is the same as long as the session lives: it may be
//! given twice, and whoever takes over from a worker that was killed gives all of it again.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::Shelf;
use crate::serve::Guard;
use crate::service::{Pulse, StoredName};
use crate::session::SpaceId;
use crate::terminal::mention;

/// How long a service manager may take to say that it has everything.
const PATIENCE: Duration = Duration::from_secs(10);

/// A store that is in use.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: Place,
    guard: Arc<Guard>,
    complained: AtomicBool,
}

/// Where descriptors are stored.
#[derive(Debug)]
enum Place {
    Manager {
        pulse: Pulse,
        /// What it has room for, and what this process has given to it.
        room: u64,
        taken: AtomicU64,
    },
    /// Only address spaces, if the target has it: what else there is to know is none of its business.
    Shelf { shelf: Arc<Shelf>, spaces: bool },
}

/// What is in the store of one session, until this is dropped.
#[derive(Debug)]
pub(crate) struct Deposit {
    store: Store,
    session: u64,
    names: BTreeSet<StoredName>,
    /// Not all of it could be given away.
    incomplete: bool,
    /// Processes that are left to it.
    pids: Vec<i32>,
}

impl Store {
    /// True when a service manager has one.
    #[must_use]
    pub fn is_there(pulse: &Pulse) -> bool {
        room(pulse).is_some()
    }

    /// The one that `FDSTORE` tells of: descriptors that it has room for. systemd sets it from version 254 on, and before that the units
    /// do. `None` if there is none.
    #[must_use]
    pub fn from_environment(pulse: &Pulse, guard: &Arc<Guard>) -> Option<Self> {
        let place = Place::Manager {
            room: room(pulse)?,
            pulse: pulse.clone(),
            taken: AtomicU64::new(0),
        };
        Some(Self::at(place, guard))
    }

    /// A shelf.
    pub(super) fn of_shelf(shelf: Arc<Shelf>, spaces: bool, guard: &Arc<Guard>) -> Self {
        Self::at(Place::Shelf { shelf, spaces }, guard)
    }

    fn at(place: Place, guard: &Arc<Guard>) -> Self {
        Self(Arc::new(Inner {
            place,
            guard: Arc::clone(guard),
            complained: AtomicBool::new(false),
        }))
    }

    /// For a session of this number.
    pub(crate) fn open(&self, session: usize) -> Deposit {
        Deposit {
            store: self.clone(),
            session: session as u64,
            names: BTreeSet::new(),
            incomplete: false,
            pids: Vec::new(),
        }
    }

    /// Other processes may have put something there, or taken it.
    pub(super) fn look(&self) {
        if let Place::Shelf { shelf, .. } = &self.0.place {
            shelf.look();
        }
    }

    /// What is under a name is closed.
    pub(crate) fn forget(&self, name: StoredName) {
        let forgotten = match &self.0.place {
            Place::Manager { pulse, .. } => pulse.manager().map(|manager| manager.forget(name)),
            Place::Shelf { shelf, .. } => {
                shelf.forget(name);
                None
            }
        };
        if let Some(Err(errno)) = forgotten {
            // As long as it is open somewhere its memory stays registered, and nobody answers.
            self.complain(&format!(
                "the service manager cannot be told to close {name}: {errno}: whoever discards memory may wait until this service is \
                 stopped"
            ));
        }
    }

    fn put(&self, name: StoredName, descriptor: BorrowedFd<'_>) -> bool {
        let put = match &self.0.place {
            Place::Shelf { shelf, spaces } => match name {
                StoredName::Journal { .. } | StoredName::Process { .. } if *spaces => Ok(()),
                name => shelf.put(name, descriptor),
            },
            Place::Manager { pulse, room, taken } => {
                if taken.fetch_add(1, Ordering::Relaxed) >= *room {
                    Err(Errno::ENOSPC)
                } else {
                    let manager = pulse.manager().ok_or(Errno::ENOTCONN);
                    manager.and_then(|manager| manager.store(name, descriptor))
                }
            }
        };
        put.map_err(|errno| self.refused(name, errno)).is_ok()
    }

    fn refused(&self, name: StoredName, errno: Errno) {
        match &self.0.place {
            Place::Manager { .. } if errno == Errno::ENOSPC => self.complain(
                "the descriptor store is full (FileDescriptorStoreMax=, and FDSTORE= beside it): what is not in it ends with this service",
            ),
            Place::Manager { .. } => self.complain(&format!(
                "the service manager does not keep {name}: {errno}: what it does not keep ends with this service"
            )),
            Place::Shelf { .. } => self.complain(&format!(
                "no more descriptors can be left to a process that resumes ({errno}; net.core.wmem_max, ulimit -n): what is not left \
                 ends with this program"
            )),
        }
    }

    /// Waits until everything is there. False if that is not certain.
    fn settle(&self) -> bool {
        match &self.0.place {
            Place::Manager { pulse, .. } => pulse
                .manager()
                .is_some_and(|manager| manager.barrier(PATIENCE)),
            Place::Shelf { .. } => true,
        }
    }

    /// So many are not there any more.
    fn gone(&self, count: u64) {
        if let Place::Manager { taken, .. } = &self.0.place {
            taken.fetch_sub(count, Ordering::Relaxed);
        }
    }

    /// Once.
    fn complain(&self, what: &str) {
        if !self.0.complained.swap(true, Ordering::Relaxed) {
            mention(&format!("uffd-restore: {what}"));
        }
    }
}

/// How much it has room for.
fn room(pulse: &Pulse) -> Option<u64> {
    pulse.manager()?;
    let room = std::env::var("FDSTORE").ok()?.parse().ok()?;
    Some(room).filter(|&room| room > 0)
}

impl Deposit {
    /// A process that was handed over, by the address space that it came with.
    pub(crate) fn process(&mut self, id: SpaceId, pidfd: impl AsFd) {
        let name = StoredName::Process {
            session: self.session,
            number: id.0,
        };
        self.put(name, pidfd.as_fd());
    }

    /// An address space.
    pub(crate) fn space(&mut self, id: SpaceId, userfaultfd: impl AsFd) {
        self.put(self.name_of(id), userfaultfd.as_fd());
    }

    /// The journal. All else that it tells of has been given before.
    pub(crate) fn journal(&mut self, journal: impl AsFd) {
        let session = self.session;
        if !self.incomplete {
            self.put(StoredName::Journal { session }, journal.as_fd());
        }
    }

    /// An address space has ended. To be called when that is in the journal, and before it is closed here.
    pub(crate) fn gone(&mut self, id: SpaceId) {
        let name = self.name_of(id);
        self.names.remove(&name);
        self.store.forget(name);
        self.store.gone(1);
    }

    /// Waits until all of it is there.
    pub(crate) fn settle(&mut self) {
        if !self.store.settle() {
            self.incomplete = true;
            self.store
                .complain("the service manager does not say that it keeps what it was given");
        }
    }

    /// Processes that may be left to the next run of this program.
    pub(crate) fn keeps(&mut self, pids: Vec<i32>) {
        if !self.incomplete {
            for &pid in &pids {
                self.store.0.guard.is_kept(pid, true);
            }
            self.pids = pids;
        }
    }

    fn put(&mut self, name: StoredName, descriptor: BorrowedFd<'_>) {
        if !self.names.insert(name) {
            return;
        }
        if !self.store.put(name, descriptor) {
            self.keeps_nothing();
        }
    }

    /// Nobody can go on with it any more.
    pub(crate) fn keeps_nothing(&mut self) {
        self.incomplete = true;
        for pid in self.pids.drain(..) {
            self.store.0.guard.is_kept(pid, false);
        }
    }

    fn name_of(&self, id: SpaceId) -> StoredName {
        StoredName::Space {
            session: self.session,
            space: id.0,
        }
    }
}

impl Drop for Deposit {
    /// The session is over. Its number may be used again after this. Whoever goes on in between finds by the journal that nothing is missing,
    /// and for that it has to be there until the end.
    fn drop(&mut self) {
        let session = self.session;
        let journal = StoredName::Journal { session };
        for &name in self.names.iter().filter(|name| **name != journal) {
            self.store.forget(name);
        }
        self.store.forget(journal);
        self.store.gone(self.names.len() as u64);
    }
}
