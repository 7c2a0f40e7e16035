//! What happens to the target when this program is killed.
//!
//! When the last descriptor of a userfaultfd is closed the kernel unregisters its memory, and whoever waits or comes later
//! reads zeros. So a second process, which does nothing else, shares the descriptor table of the one that serves
//! (CLONE_FILES): when that one dies, of whatever, the descriptors stay open, its threads wait, and the guard kills the
//! target and all it forked. It shares nothing else: a bug or a shortage of memory that ends one does not end the other.
#![expect(
    unsafe_code,
    reason = "clone(2) with a shared descriptor table, and memory shared with it"
)]

use std::collections::BTreeMap;
use std::fs;
use std::mem::ManuallyDrop;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::Target;
use crate::addr::Addr;
use crate::terminal::say;
use crate::uffd::{Stop, Userfaultfd};

const IDLE: u32 = 0;
const SERVING: u32 = 1;

/// What both processes see.
struct Shared {
    state: AtomicU32,
    /// The target.
    pid: AtomicI32,
}

/// Dropping it, which is what an orderly end does, ends the guard too.
#[derive(Debug)]
pub struct Guard {
    shared: &'static Shared,
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
        let shared = shared()?;
        let pid = i32::try_from(std::process::id()).map_err(|_| Errno::ESRCH)?;
        let me = Target::open(pid, String::new())?;
        let flags = libc::CLONE_FILES | libc::SIGCHLD;
        // SAFETY: without CLONE_VM and with no stack given this is fork(2), but for the shared descriptor table; the only
        // thread there is makes it, so nothing in the copy is locked or half done.
        let child =
            unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
        if Errno::result(child)? == 0 {
            keep_watch(me.as_fd(), shared);
            // SAFETY: _exit(2) does not return, and runs nothing of this process's: its descriptors are not ours to close.
            unsafe { libc::_exit(0) };
        }
        // The guard polls this descriptor; it must stay open as long as we live.
        let _ = ManuallyDrop::new(me);
        Ok(Self { shared })
    }

    /// From now on the target must not outlive this program, unless [`Guard`] is dropped.
    pub fn watch(&self, target: &Target) {
        self.shared.pid.store(target.pid, Ordering::SeqCst);
        self.shared.state.store(SERVING, Ordering::SeqCst);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shared.state.store(IDLE, Ordering::SeqCst);
    }
}

fn shared() -> Result<&'static Shared, Errno> {
    let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    let len = NonZeroUsize::MIN.saturating_add(4095);
    // SAFETY: without MAP_FIXED mmap touches no memory that exists.
    let page = unsafe { mmap_anonymous(None, len, rights, MapFlags::MAP_SHARED)? };
    // SAFETY: the page is never unmapped, is aligned and long enough for the structure, whose atomics may hold any number,
    // such as the zeros that are there.
    Ok(unsafe { page.cast::<Shared>().as_ref() })
}

/// The guard's whole life.
fn keep_watch(served_by: BorrowedFd<'_>, shared: &Shared) {
    let _ = nix::sys::prctl::set_name(c"uffd-guard");
    let mut waited = [PollFd::new(served_by, PollFlags::POLLIN)];
    while !matches!(poll(&mut waited, PollTimeout::NONE), Ok(1..)) {}
    if shared.state.load(Ordering::SeqCst) != SERVING {
        return;
    }
    let pid = shared.pid.load(Ordering::SeqCst);
    say(&format!(
        "uffd-restore: the process that served {pid} was killed; {pid} and what it forked are being killed, for memory is \
         missing that must not read as zeros"
    ));
    kill_family(pid);
    // Those that nobody knows to be of the family wait for ever, until somebody ends them; then this ends too.
    while still_owed() {
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Kills a process and its descendants, the youngest first: an orphan would not be known as one of them any more.
fn kill_family(root: i32) {
    loop {
        let descendants = descendants(root);
        if descendants.is_empty() {
            break;
        }
        for pid in descendants {
            kill(pid);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    kill(root);
}

fn kill(pid: i32) {
    if let Ok(target) = Target::open(pid, String::new()) {
        let _ = target.kill();
    }
}

/// Living processes that descend from this one.
fn descendants(root: i32) -> Vec<i32> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        if let Some(pid) = pid
            && let Ok(stat) = crate::tracee::ThreadStat::read(pid)
            && !stat.has_ended()
        {
            parents.insert(pid, stat.parent);
        }
    }
    let is_descendant = |&pid: &i32| {
        let mut ancestor = pid;
        // No chain is longer than there are processes.
        for _ in 0..parents.len() {
            match parents.get(&ancestor) {
                Some(&parent) if parent == root => return true,
                Some(&parent) => ancestor = parent,
                None => return false,
            }
        }
        false
    };
    parents.keys().copied().filter(is_descendant).collect()
}

/// True as long as one of the userfaultfds in the table belongs to an address space that exists.
fn still_owed() -> bool {
    let descriptors = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    descriptors
        .filter(|entry| {
            fs::read_link(entry.path())
                .is_ok_and(|link| link.as_os_str() == "anon_inode:[userfaultfd]")
        })
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<RawFd>().ok())
        })
        .any(exists)
}

fn exists(descriptor: RawFd) -> bool {
    const NOWHERE: Addr = Addr(0x1_0000);
    // SAFETY: it was open a moment ago, and nobody else uses this table any more; it is not closed here.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    let userfaultfd = ManuallyDrop::new(Userfaultfd::from(owned));
    let state = userfaultfd.probe(NOWHERE, snapshot_format::PAGE_BYTES);
    debug_assert!(userfaultfd.as_fd().as_raw_fd() == descriptor);
    state != Some(Stop::Gone)
}
