//! What happens to the target when this program is killed.
//!
//! When the last descriptor of a userfaultfd is closed the kernel unregisters its memory, and whoever waits or comes later
//! reads zeros. So a second process, which does nothing else, shares the descriptor table of the one that serves
//! (CLONE_FILES): when that one dies, of whatever, the descriptors stay open, its threads wait, and the guard kills the
//! target with its descendants, and then whoever else touches a page that is missing. It shares nothing else: a bug or a
//! shortage of memory that ends one does not end the other, and it is in a session of its own with all signals blocked, so
//! that what is sent to the group of the one does not reach the other.
#![expect(
    unsafe_code,
    reason = "memory and descriptors shared with another process"
)]

mod watch;

use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

pub use self::watch::Unwatched;
use self::watch::keep_watch;
pub(crate) use self::watch::kill_family;
use super::Target;
use crate::takeover::{Sharing, StateFile, share_descriptors};

const IDLE: u32 = 0;
const SERVING: u32 = 1;
/// Being filled in.
const TAKEN: u32 = 2;
/// Another run of this program goes on with it: its descriptors are kept elsewhere.
const KEPT: u32 = 3;

/// One that is to serve has been started, or is going to be, and has not said who it is.
const BEGINS: i32 = -1;

/// Most targets at a time.
pub const MOST_TARGETS: usize = 2048;

/// What both processes see.
struct Shared {
    /// The second process is out of reach of what is sent to the group of the first.
    apart: AtomicU32,
    /// The process that serves, if it is another one than the one that started this: its pidfd, from 1 on. Or [`BEGINS`].
    worker: AtomicI32,
    /// The second process.
    guard: AtomicI32,
    slots: [Slot; MOST_TARGETS],
}

/// A target, or room for one.
struct Slot {
    state: AtomicU32,
    /// Its process id, its pidfd in the table that both processes share, and its pid namespace.
    pid: AtomicI32,
    pidfd: AtomicI32,
    namespace: [AtomicU64; 2],
}

/// Who goes on when all of this program that serves is dead.
#[derive(Debug, Clone, Default)]
pub enum Next {
    /// Nobody.
    #[default]
    Nobody,
    /// The next run of it, which gets the descriptors from a service manager.
    Started,
    /// A process that is started with this state file, and fetches them, here among others: from the socket of this number.
    Resumes(StateFile, RawFd),
}

/// The second process. It ends with this one.
#[derive(Debug)]
pub struct Guard {
    next: Next,
    shared: &'static Shared,
    /// The process that it watches over.
    started_by: ManuallyDrop<Target>,
    /// Whom it looks for, in its own copy.
    unwatched: Mutex<Box<dyn Unwatched>>,
}

/// A target that must not outlive this program, until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct Watched {
    slot: &'static Slot,
    /// Its number stands in the slot, and must not come to mean something else before that is free.
    _pidfd: OwnedFd,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Guard {
    /// Starts the guard. To be called while this process has one thread: the guard is a copy of that one.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn start() -> Result<Self, Errno> {
        Self::start_with(())
    }

    /// The same where somebody may go on. Those whom that one knows ([`Guard::is_kept`]) are not touched, and only the others are ended.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn start_before(next: Next) -> Result<Self, Errno> {
        Self::begun((), next)
    }

    /// The same, with others to be found then.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn start_with(unwatched: impl Unwatched + 'static) -> Result<Self, Errno> {
        Self::begun(unwatched, Next::Nobody)
    }

    fn begun(unwatched: impl Unwatched + 'static, next: Next) -> Result<Self, Errno> {
        let shared = shared()?;
        let pid = i32::try_from(std::process::id()).map_err(|_| Errno::ESRCH)?;
        let me = Target::open(pid, String::new())?;
        let guard = Self {
            next,
            shared,
            // The guard polls this descriptor; it must stay open as long as we live.
            started_by: ManuallyDrop::new(me),
            unwatched: Mutex::new(Box::new(unwatched)),
        };
        guard.begin()?;
        Ok(guard)
    }

    fn begin(&self) -> Result<(), Errno> {
        self.shared.apart.store(0, Ordering::SeqCst);
        match share_descriptors()? {
            Sharing::Parent(pid) => self.shared.guard.store(pid.as_raw(), Ordering::SeqCst),
            Sharing::Child => {
                // Neither can fail for a process that has just been made.
                let _ = nix::unistd::setsid();
                let _ = SigSet::all().thread_block();
                self.shared.apart.store(1, Ordering::SeqCst);
                let mut unwatched = self
                    .unwatched
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                keep_watch(
                    self.started_by.as_fd(),
                    self.shared,
                    &self.next,
                    &mut **unwatched,
                );
                // SAFETY: _exit(2) does not return, and runs nothing of this process's: its descriptors are not ours to close.
                unsafe { libc::_exit(0) };
            }
        }
        // On a busy machine it may not have run yet, and what is sent to our group now would end both.
        while self.shared.apart.load(Ordering::SeqCst) == 0 {
            std::thread::sleep(Duration::from_micros(50));
        }
        Ok(())
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.shared.guard.load(Ordering::SeqCst)
    }

    /// Starts it again if it has been killed: true. For the process that started it, as long as that has one thread.
    pub(crate) fn restart_if_dead(&self) -> bool {
        let ended = waitpid(Pid::from_raw(self.pid()), Some(WaitPidFlag::WNOHANG));
        matches!(ended, Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..)))
            && self.begin().is_ok()
    }

    /// A process is going to be started that serves. If who starts it dies before it is known which one that is, it is waited for.
    pub(crate) fn another_begins(&self) {
        self.shared.worker.store(BEGINS, Ordering::SeqCst);
    }

    /// The targets may outlive whoever started the guard, but not this process.
    pub(crate) fn is_served_by_this_process(&self) {
        let me = i32::try_from(std::process::id()).map_err(|_| Errno::ESRCH);
        if let Ok(me) = me.and_then(crate::pidfd::pidfd) {
            // Never closed: its number must not come to mean something else.
            let number = me.into_raw_fd();
            self.shared.worker.store(number + 1, Ordering::SeqCst);
        }
    }

    /// The same target that a worker watched over which is dead; or anew. `None` if there are too many.
    #[must_use]
    pub fn watch_again(&self, target: &Target) -> Option<Watched> {
        let found = self.shared.slots.iter().find(|slot| slot.is_of(target.pid));
        let Some(slot) = found else {
            return self.watch(target);
        };
        let number = slot.pidfd.load(Ordering::SeqCst);
        // SAFETY: who owned it is dead, and left it to whoever takes over.
        let pidfd = unsafe { OwnedFd::from_raw_fd(number) };
        Some(Watched {
            slot,
            _pidfd: pidfd,
        })
    }

    /// Those that it watches over, but for some.
    #[must_use]
    pub fn targets_without(&self, pids: &[i32]) -> Vec<Arc<Target>> {
        let slots = self.shared.slots.iter();
        let others = slots
            .filter(|slot| slot.is_in_use() && !pids.contains(&slot.pid.load(Ordering::SeqCst)));
        // By a descriptor of its own.
        let target = |slot: &Slot| {
            let its = slot.target();
            let pidfd = its.as_fd().try_clone_to_owned().ok()?;
            Some(Arc::new(Target::from_pidfd(
                its.pid,
                its.name.clone(),
                pidfd,
            )))
        };
        others.filter_map(target).collect()
    }

    /// From now on it watches over these alone. For who takes over from a process that is dead.
    pub fn forget_all_but(&self, pids: &[i32]) {
        for slot in &self.shared.slots {
            if !pids.contains(&slot.pid.load(Ordering::SeqCst)) {
                slot.state.store(IDLE, Ordering::SeqCst);
            }
        }
    }

    /// The descriptors by which it knows what it watches over.
    #[must_use]
    pub fn descriptors(&self) -> Vec<RawFd> {
        let slots = self.shared.slots.iter();
        let served = slots.filter(|slot| slot.is_in_use());
        served
            .map(|slot| slot.pidfd.load(Ordering::SeqCst))
            .collect()
    }

    /// From now on this process is not lost with this program: if that is killed the next run of it goes on. Or no longer so.
    pub fn is_kept(&self, pid: i32, kept: bool) {
        for slot in self.shared.slots.iter().filter(|slot| slot.is_of(pid)) {
            let state = if kept { KEPT } else { SERVING };
            slot.state.store(state, Ordering::SeqCst);
        }
    }

    /// True when that is so of all that it watches over.
    #[must_use]
    pub fn all_are_kept(&self) -> bool {
        let mut slots = self.shared.slots.iter();
        slots.all(|slot| matches!(slot.state.load(Ordering::SeqCst), IDLE | KEPT))
    }

    /// From now on the target must not outlive this program. `None` if there are too many already.
    #[must_use]
    pub fn watch(&self, target: &Target) -> Option<Watched> {
        let (pidfd, namespace) = target.parts();
        let pidfd = pidfd.try_clone_to_owned().ok()?;
        let free = |slot: &&Slot| {
            let taken =
                slot.state
                    .compare_exchange(IDLE, TAKEN, Ordering::SeqCst, Ordering::SeqCst);
            taken.is_ok()
        };
        let slot = self.shared.slots.iter().find(free)?;
        slot.pid.store(target.pid, Ordering::SeqCst);
        slot.pidfd.store(pidfd.as_raw_fd(), Ordering::SeqCst);
        let (device, inode) = namespace.unwrap_or_default();
        slot.namespace[0].store(device, Ordering::SeqCst);
        slot.namespace[1].store(inode, Ordering::SeqCst);
        slot.state.store(SERVING, Ordering::SeqCst);
        Some(Watched {
            slot,
            _pidfd: pidfd,
        })
    }
}

impl Slot {
    fn is_in_use(&self) -> bool {
        matches!(self.state.load(Ordering::SeqCst), SERVING | KEPT)
    }

    /// By the descriptor that the process that serves it has, or had: not by a number, which may mean another by now.
    fn target(&self) -> ManuallyDrop<Target> {
        let load = |number: &AtomicU64| number.load(Ordering::SeqCst);
        let namespace = (load(&self.namespace[0]), load(&self.namespace[1]));
        // SAFETY: it was open when it was stored, the one that owned it is dead, and nobody else uses this table any more; it is
        // not closed here.
        let pidfd = unsafe { OwnedFd::from_raw_fd(self.pidfd.load(Ordering::SeqCst)) };
        let pid = self.pid.load(Ordering::SeqCst);
        ManuallyDrop::new(Target::from_parts(pid, pidfd, namespace))
    }

    fn is_of(&self, pid: i32) -> bool {
        self.is_in_use() && self.pid.load(Ordering::SeqCst) == pid
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.slot.state.store(IDLE, Ordering::SeqCst);
    }
}

fn shared() -> Result<&'static Shared, Errno> {
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::MIN.saturating_add(size_of::<Shared>());
    // SAFETY: without MAP_FIXED mmap touches no memory that exists.
    let page = unsafe { mmap_anonymous(None, len, rights, MapFlags::MAP_SHARED)? };
    // SAFETY: the page is never unmapped, is aligned and long enough for the structure, whose atomics may hold any number,
    // such as the zeros that are there.
    Ok(unsafe { page.cast::<Shared>().as_ref() })
}
