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

use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::signal::SigSet;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use snapshot_format::PAGE_BYTES;

use super::{END_OF_A_PROCESS, Target};
use crate::addr::{Addr, AddrRange};
use crate::processes::Parents;
use crate::takeover::{Sharing, descriptors, link_of, share_descriptors};
use crate::terminal::mention;
use crate::uffd::{Message, Stop, Userfaultfd};

const IDLE: u32 = 0;
const SERVING: u32 = 1;
/// Being filled in.
const TAKEN: u32 = 2;
/// Another run of this program goes on with it: its descriptors are kept elsewhere.
const KEPT: u32 = 3;

/// Most targets at a time.
pub const MOST_TARGETS: usize = 2048;

/// What both processes see.
struct Shared {
    /// The second process is out of reach of what is sent to the group of the first.
    apart: AtomicU32,
    /// The process that serves, if it is another one than the one that started this: its pidfd, from 1 on.
    worker: AtomicI32,
    /// Descriptors may be in a service manager's store, and the next run of this program goes on with them.
    in_store: AtomicU32,
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

/// Who else must not outlive this program, which had not watched over them when it was killed. Asked by the guard, in its own copy.
pub trait Unwatched {
    /// A descriptor that this program had, and that is neither a userfaultfd nor names a process. Closed if it is of no use.
    fn offer(&mut self, descriptor: OwnedFd);
    /// Those that have come by now.
    fn come(&mut self) -> Vec<Target>;
    /// Whether others may come.
    fn more(&self) -> bool;
}

/// Nobody can be handed over but by [`Guard::watch`].
impl Unwatched for () {
    fn offer(&mut self, _: OwnedFd) {}

    fn come(&mut self) -> Vec<Target> {
        Vec::new()
    }

    fn more(&self) -> bool {
        false
    }
}

/// The second process. It ends with this one.
#[derive(Debug)]
pub struct Guard {
    shared: &'static Shared,
    /// The process that it watches over.
    started_by: ManuallyDrop<Target>,
    /// Its own.
    pid: AtomicI32,
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

    /// The same beside a service manager's store: what is in that is not touched, and only those whom it is known to be responsible for
    /// ([`Guard::is_kept`]) are ended.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn start_beside_store() -> Result<Self, Errno> {
        Self::begun((), true)
    }

    /// The same, with others to be found then.
    ///
    /// # Errors
    /// No memory, or no process.
    pub fn start_with(unwatched: impl Unwatched) -> Result<Self, Errno> {
        Self::begun(unwatched, false)
    }

    fn begun(unwatched: impl Unwatched, in_store: bool) -> Result<Self, Errno> {
        let shared = shared()?;
        shared.in_store.store(u32::from(in_store), Ordering::SeqCst);
        let pid = i32::try_from(std::process::id()).map_err(|_| Errno::ESRCH)?;
        let me = Target::open(pid, String::new())?;
        let guard = Self {
            shared,
            // The guard polls this descriptor; it must stay open as long as we live.
            started_by: ManuallyDrop::new(me),
            pid: AtomicI32::new(0),
        };
        guard.begin(unwatched)?;
        Ok(guard)
    }

    fn begin(&self, unwatched: impl Unwatched) -> Result<(), Errno> {
        self.shared.apart.store(0, Ordering::SeqCst);
        match share_descriptors()? {
            Sharing::Parent(pid) => self.pid.store(pid.as_raw(), Ordering::SeqCst),
            Sharing::Child => {
                // Neither can fail for a process that has just been made.
                let _ = nix::unistd::setsid();
                let _ = SigSet::all().thread_block();
                self.shared.apart.store(1, Ordering::SeqCst);
                keep_watch(self.started_by.as_fd(), self.shared, unwatched);
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

    /// Starts it again if it has been killed. For the process that started it, as long as that has one thread.
    pub(crate) fn restart_if_dead(&self) {
        let ended = waitpid(
            Pid::from_raw(self.pid.load(Ordering::SeqCst)),
            Some(WaitPidFlag::WNOHANG),
        );
        if matches!(ended, Ok(WaitStatus::Signaled(..) | WaitStatus::Exited(..))) {
            let _ = self.begin(());
        }
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
        let target = |slot| {
            let its = target_of(slot);
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

/// The guard's whole life.
fn keep_watch(served_by: BorrowedFd<'_>, shared: &Shared, mut unwatched: impl Unwatched) {
    let _ = nix::sys::prctl::set_name(c"uffd-guard");
    let mut waited = [PollFd::new(served_by, PollFlags::POLLIN)];
    while !matches!(poll(&mut waited, PollTimeout::NONE), Ok(1..)) {}
    wait_for_worker(shared);
    close_others(&mut unwatched);
    let served = |slot: &&Slot| slot.state.load(Ordering::SeqCst) == SERVING;
    let targets: Vec<_> = shared.slots.iter().filter(served).map(target_of).collect();
    if shared.in_store.load(Ordering::SeqCst) != 0 {
        return kill_beside_kept(&targets);
    }
    let strays = unwatched.come();
    if !targets.is_empty() || !strays.is_empty() {
        announce(targets.iter().map(|target| &**target).chain(&strays));
    }
    for target in &targets {
        kill_family(target);
    }
    for stray in &strays {
        kill_family(stray);
    }
    // Where nothing is missing any more there is no userfaultfd.
    while kill_who_touches(&targets) || unwatched.more() {
        std::thread::sleep(Duration::from_millis(20));
        for stray in unwatched.come() {
            kill_family(&stray);
        }
    }
}

/// The next run of this program goes on with some of them: what those have to say is not to be read. The others are ended as long as
/// their descriptors are open.
fn kill_beside_kept(targets: &[ManuallyDrop<Target>]) {
    if !targets.is_empty() {
        announce(targets.iter().map(|target| &**target));
    }
    for target in targets {
        kill_family(target);
    }
    for target in targets {
        let _ = target.ends_within(END_OF_A_PROCESS);
    }
}

/// Without waiting for whoever reads it: killing comes first.
fn announce<'a>(killed: impl Iterator<Item = &'a Target>) {
    let mut pids: Vec<i32> = killed.map(|target| target.pid).collect();
    pids.dedup();
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    mention(&format!(
        "uffd-restore: the process that served {pids} was killed; {pids} and what was forked from it are being killed, for \
         memory is missing that must not read as zeros",
        pids = pids.join(", ")
    ));
}

/// As long as there is one that serves all is well. Nobody will start another one.
fn wait_for_worker(shared: &Shared) {
    let Some(number @ 0..) = shared.worker.load(Ordering::SeqCst).checked_sub(1) else {
        return;
    };
    // SAFETY: it is never closed.
    let worker = unsafe { BorrowedFd::borrow_raw(number) };
    let mut waited = [PollFd::new(worker, PollFlags::POLLIN)];
    while !matches!(poll(&mut waited, PollTimeout::NONE), Ok(1..)) {}
}

/// Closes what is neither a userfaultfd nor names a process: above all a socket on which nobody takes connections any more.
fn close_others(unwatched: &mut impl Unwatched) {
    for (descriptor, link) in descriptors() {
        let kept = [Userfaultfd::LINK, "anon_inode:[pidfd]", "pidfd:"];
        // It may be the one by which the table was read, and something else by now.
        let is_open = link_of(descriptor).as_ref() == Some(&link);
        if descriptor > 2 && is_open && !kept.iter().any(|kept| link.starts_with(kept)) {
            // SAFETY: it is open, and nobody else uses this table any more.
            unwatched.offer(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}

/// The target, by the descriptor that the process that served it had: not by a number, which may mean another by now.
fn target_of(slot: &Slot) -> ManuallyDrop<Target> {
    let load = |number: &AtomicU64| number.load(Ordering::SeqCst);
    let namespace = (load(&slot.namespace[0]), load(&slot.namespace[1]));
    // SAFETY: it was open when it was stored, the one that owned it is dead, and nobody else uses this table any more; it is
    // not closed here.
    let pidfd = unsafe { OwnedFd::from_raw_fd(slot.pidfd.load(Ordering::SeqCst)) };
    let pid = slot.pid.load(Ordering::SeqCst);
    ManuallyDrop::new(Target::from_parts(pid, pidfd, namespace))
}

/// Kills a process and its descendants, the youngest first: an orphan would not be known as one of them any more.
pub(crate) fn kill_family(root: &Target) {
    const LONG_ENOUGH: u32 = 1000;
    let me = nix::unistd::getpid().as_raw();
    for _ in 0..LONG_ENOUGH {
        // Once it has ended, its number may mean somebody else.
        if root.has_ended() {
            return;
        }
        // Whoever adopts orphans may have adopted this one.
        let descendants = Parents::now().without(me).descendants(root.pid);
        if descendants.is_empty() {
            break;
        }
        for descendant in descendants {
            if let Ok(descendant) = Target::open(descendant, String::new()) {
                let _ = descendant.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = root.kill();
}

/// Kills whoever waits for a missing page: orphans, whom nothing else tells to be of the family. Where the kernel does not say who it
/// is, the page is poisoned. True as long as one of the userfaultfds in the table belongs to an address space that exists.
fn kill_who_touches(targets: &[ManuallyDrop<Target>]) -> bool {
    let mut alive = false;
    for descriptor in userfaultfds() {
        // SAFETY: it was open a moment ago, and nobody else uses this table any more; it is not closed here.
        let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
        let userfaultfd = ManuallyDrop::new(Userfaultfd::from(owned));
        // One that was never made ready is of no use to anybody.
        if let Some(Stop::Gone | Stop::Other(_)) = userfaultfd.probe(Addr::NOWHERE, PAGE_BYTES) {
            continue;
        }
        alive = true;
        // What the other one had read is told again.
        let _ = userfaultfd.wake(AddrRange::EVERYWHERE);
        let mut messages = Vec::new();
        while matches!(userfaultfd.read(&mut messages), Ok(1..)) {}
        for message in messages {
            let Message::Fault(fault) = message else {
                continue;
            };
            let mut touching = targets
                .iter()
                .filter_map(|target| target.process_of(fault.thread, fault.address));
            match touching.next() {
                Some(process) => drop(process.kill()),
                None => {
                    let page = AddrRange::at(fault.address.page(PAGE_BYTES), PAGE_BYTES);
                    userfaultfd.poison(page);
                }
            }
        }
    }
    alive
}

fn userfaultfds() -> Vec<RawFd> {
    let mut found = descriptors();
    found.retain(|(_, link)| link == Userfaultfd::LINK);
    found
        .into_iter()
        .map(|(descriptor, _)| descriptor)
        .collect()
}
