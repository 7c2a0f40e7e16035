//! The process that is being served: following its end, and ending it.
#![expect(
    unsafe_code,
    reason = "pidfd_send_signal(2) and a request to a namespace, which nix does not have"
)]

use std::fs::{self, File};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::EventFd;
use serde::{Deserialize, Serialize};

use crate::addr::Addr;
use crate::processes::{innermost_number, name_of, pids};
use crate::readable::readable_within;

/// How long the memory of a process that was killed may take to be given back.
pub const END_OF_A_PROCESS: Duration = Duration::from_secs(30);

/// Threads of a process that are looked through for one: a millisecond's worth.
const MANY_THREADS: usize = 64;

/// A process, held by a descriptor: its id cannot come to mean another one.
#[derive(Debug)]
pub struct Target {
    /// The process id.
    pub pid: i32,
    /// Its name, for people.
    pub name: String,
    pidfd: OwnedFd,
    /// The pid namespace that it lives in, if that can be known.
    namespace: Option<Namespace>,
}

impl Target {
    /// The process with this id.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn open(pid: i32, name: String) -> Result<Self, Errno> {
        Ok(Self::from_pidfd(pid, name, crate::pidfd::pidfd(pid)?))
    }

    /// The same, with the name that it has now.
    ///
    /// # Errors
    /// ESRCH when there is none.
    pub fn named(pid: i32) -> Result<Self, Errno> {
        Self::open(pid, name_of(pid))
    }

    /// The process that a pidfd is of, and its id.
    #[must_use]
    pub fn from_pidfd(pid: i32, name: String, pidfd: OwnedFd) -> Self {
        Self {
            pid,
            name,
            pidfd,
            namespace: namespace_of(pid).as_ref().and_then(identity),
        }
    }

    /// The numbers that name it in another process that has the same descriptors.
    pub(super) fn parts(&self) -> (BorrowedFd<'_>, Option<Namespace>) {
        (self.pidfd.as_fd(), self.namespace)
    }

    /// The process that these numbers name.
    pub(super) fn from_parts(pid: i32, pidfd: OwnedFd, namespace: Namespace) -> Self {
        Self {
            pid,
            name: String::new(),
            pidfd,
            namespace: Some(namespace).filter(|namespace| *namespace != Namespace::default()),
        }
    }

    /// What another process that shares the descriptors has to know of it.
    pub(super) fn about(&self) -> TargetAbout {
        TargetAbout {
            pid: self.pid,
            name: self.name.clone(),
            pidfd: self.pidfd.as_raw_fd(),
            namespace: self.namespace,
        }
    }

    /// The target of a process that is dead. `pidfd` is what it had under [`TargetAbout::pidfd`].
    pub(super) fn of_about(about: TargetAbout, pidfd: OwnedFd) -> Self {
        Self {
            pid: about.pid,
            name: about.name,
            pidfd,
            namespace: about.namespace,
        }
    }

    /// The target of a process that is dead, and has ended as well: nobody has a descriptor that names it.
    pub(super) fn of_the_dead(about: TargetAbout) -> Result<Self, Errno> {
        // As a pidfd then is: readable.
        let ended = EventFd::from_value(1)?;
        Ok(Self::of_about(about, ended.into()))
    }

    /// True when the process has ended: its number may come to mean another one.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(Duration::ZERO)
    }

    /// Waits for its end, so long at most. True if it has ended.
    #[must_use]
    pub fn ends_within(&self, most: Duration) -> bool {
        readable_within(&self.pidfd, most)
    }

    /// For messages.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("{} ({})", self.pid, crate::terminal::printable(&self.name))
    }

    /// Sends SIGKILL. A process that has ended already is no error.
    ///
    /// # Errors
    /// EPERM.
    pub fn kill(&self) -> Result<(), Errno> {
        if self.has_ended() {
            return Ok(());
        }
        let nothing = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: without a siginfo the kernel reads no memory of ours; the rest are numbers.
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.pidfd.as_raw_fd(),
                libc::SIGKILL,
                nothing,
                0,
            )
        };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Whether it has a mapping at this address that a userfaultfd is to fill. `None` if that cannot be looked up.
    #[must_use]
    pub fn misses_pages_at(&self, at: Addr) -> Option<bool> {
        let smaps = fs::read(format!("/proc/{}/smaps", self.pid)).ok()?;
        (!smaps.is_empty()).then(|| misses_pages_in(&smaps, at))
    }

    /// Whether it has a mapping that a userfaultfd is to fill.
    #[must_use]
    pub fn misses_pages(&self) -> bool {
        let smaps = fs::read(format!("/proc/{}/smaps", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&smaps).lines().any(is_to_be_filled)
    }

    /// The thread of a process that has no other, as its own pid namespace counts.
    pub(super) fn only_thread(&self) -> Option<u32> {
        let threads = fs::metadata(format!("/proc/{}/task", self.pid)).ok()?;
        // A folder for each, itself and its parent.
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let number = innermost_number(&status).filter(|_| threads.nlink() == 3)?;
        u32::try_from(number).ok()
    }

    /// What the kernel says of one of the process's own threads, which is numbered as its own pid namespace counts. `None` when there is none, or it
    /// would take long to find.
    pub(super) fn stat_of_thread(&self, thread: u32) -> Option<File> {
        let threads = format!("/proc/{}/task", self.pid);
        let stat = |name: &Path| File::open(name.join("stat")).ok();
        // The same number here, where nothing is between this program and its namespace.
        let likely = Path::new(&threads).join(thread.to_string());
        if is_thread(&likely, thread) {
            return stat(&likely);
        }
        let task = fs::read_dir(threads).ok()?.take(MANY_THREADS).flatten();
        let found = task
            .map(|task| task.path())
            .find(|name| is_thread(name, thread));
        found.and_then(|name| stat(&name))
    }

    /// The process that has a thread of this number, as its own pid namespace counts, which waits for a page at this address. It is
    /// the target or one of those that it forked; their namespaces are the target's or inside of it. `None` when there is
    /// none (any more), or when it might be one of several: a number that means another process must harm nobody.
    #[must_use]
    pub fn process_of(&self, thread: u32, at: Addr) -> Option<Self> {
        let thread = Some(thread).filter(|&thread| thread > 0)?;
        let namespace = self.namespace?;
        let mut found = None;
        for pid in pids() {
            if has_thread(pid, thread) && is_inside(pid, namespace) && misses_pages_at(pid, at) {
                if found.is_some() {
                    return None;
                }
                found = Some(pid);
            }
        }
        let pid = found?;
        Self::named(pid).ok()
    }
}

/// A target, for who takes over.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TargetAbout {
    pub(super) pid: i32,
    name: String,
    pub(super) pidfd: RawFd,
    namespace: Option<Namespace>,
}

impl AsFd for Target {
    /// Readable when the process has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// True when one of the process's threads has this number in its innermost pid namespace.
fn has_thread(pid: i32, thread: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let mut tasks = threads.into_iter().flatten().flatten();
    tasks.any(|task| is_thread(&task.path(), thread))
}

/// True when the folder is of a thread that has this number in its innermost pid namespace.
fn is_thread(task: &Path, thread: u32) -> bool {
    let status = fs::read_to_string(task.join("status")).unwrap_or_default();
    innermost_number(&status).and_then(|number| u32::try_from(number).ok()) == Some(thread)
}

/// A pid namespace, by device and inode.
type Namespace = (u64, u64);

fn identity(namespace: &File) -> Option<Namespace> {
    let metadata = namespace.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

fn namespace_of(pid: i32) -> Option<File> {
    File::open(format!("/proc/{pid}/ns/pid")).ok()
}

/// True when the process lives in this pid namespace, or in one inside of it.
fn is_inside(pid: i32, wanted: Namespace) -> bool {
    let mut namespace = namespace_of(pid);
    while let Some(this) = namespace {
        if identity(&this) == Some(wanted) {
            return true;
        }
        namespace = parent_of(&this);
    }
    false
}

/// `NS_GET_PARENT` of `<linux/nsfs.h>`.
const NS_GET_PARENT: libc::Ioctl = 0xb702;

fn parent_of(namespace: &File) -> Option<File> {
    // SAFETY: this request takes no argument.
    let opened = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    let opened = Errno::result(opened).ok()?;
    // SAFETY: the kernel just opened this descriptor for us.
    Some(File::from(unsafe { OwnedFd::from_raw_fd(opened) }))
}

/// True when the process has a mapping at this address that a userfaultfd is to fill.
fn misses_pages_at(pid: i32, at: Addr) -> bool {
    let smaps = fs::read(format!("/proc/{pid}/smaps")).unwrap_or_default();
    misses_pages_in(&smaps, at)
}

const FLAGS: &str = "VmFlags:";

/// True for the line of a mapping that a userfaultfd is to fill.
fn is_to_be_filled(line: &str) -> bool {
    let mut flags = line
        .strip_prefix(FLAGS)
        .unwrap_or_default()
        .split_ascii_whitespace();
    flags.any(|flag| flag == "um")
}

fn misses_pages_in(smaps: &[u8], at: Addr) -> bool {
    let mut here = false;
    for line in String::from_utf8_lossy(smaps).lines() {
        if let Some(range) = mapping(line) {
            here = range.contains(&at.0);
        } else if here && line.starts_with(FLAGS) {
            return is_to_be_filled(line);
        }
    }
    false
}

/// The addresses of a line that begins a mapping.
fn mapping(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split(' ').next()?.split_once('-')?;
    let [start, end] = [start, end].map(|digits| u64::from_str_radix(digits, 16).ok());
    Some(start?..end?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_thread_is_found_where_it_is() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        let thread = u32::try_from(nix::unistd::gettid().as_raw()).expect("a number");
        assert!(has_thread(me, thread) && !has_thread(1, thread));
        let mine = identity(&namespace_of(me).expect("proc")).expect("a namespace");
        assert!(is_inside(me, mine));
        assert!(!is_inside(me, (mine.0, mine.1 + 1)));
    }

    #[test]
    fn a_number_alone_is_nobody() {
        let me = i32::try_from(std::process::id()).expect("a pid");
        let target = Target::open(me, String::new()).expect("I exist");
        let thread = u32::try_from(nix::unistd::gettid().as_raw()).expect("a number");
        let here = Addr(std::ptr::from_ref(&me).addr() as u64);
        assert!(target.process_of(0, here).is_none());
        assert!(target.process_of(thread, here).is_none(), "no userfaultfd");
    }

    #[test]
    fn lines_that_begin_a_mapping() {
        assert_eq!(mapping("1000-3000 rw-p 0"), Some(0x1000..0x3000));
        assert_eq!(mapping("VmFlags: rd wr mr mw me ac um"), None);
        assert_eq!(mapping("Size:                  4 kB"), None);
    }
}
