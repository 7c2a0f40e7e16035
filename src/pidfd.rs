//! Processes as descriptors.
#![expect(
    unsafe_code,
    reason = "pidfd_open and pidfd_getfd, which nix does not have"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// `PIDFD_THREAD` of `<linux/pidfd.h>`: for a thread that is not the leader of its process, since Linux 6.9.
const PIDFD_THREAD: libc::c_int = libc::O_EXCL;

/// A descriptor for a process, readable when it has ended (pidfd_open(2)). `pid` is the id of its leader.
///
/// # Errors
/// ESRCH without such a process, EINVAL for a thread that is not a leader, EMFILE, ENOSYS before Linux 5.3.
pub fn pidfd(pid: i32) -> Result<OwnedFd, Errno> {
    open(pid, 0)
}

/// The same for any thread: the only way to the descriptors of a process whose leader has ended.
pub(crate) fn pidfd_of_thread(tid: i32) -> Result<OwnedFd, Errno> {
    open(tid, PIDFD_THREAD)
}

fn open(id: i32, flags: libc::c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: plain numbers; the kernel reads and writes no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, id, flags) };
    own(result)
}

/// A descriptor for the same open file as `descriptor` is in the other process, closed on exec (pidfd_getfd(2)).
pub(crate) fn fetch(process: BorrowedFd<'_>, descriptor: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: plain numbers; the kernel reads and writes no memory of this process.
    let result =
        unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), descriptor, 0) };
    own(result)
}

/// The same of a process whose first thread may have ended: only its other threads have descriptors then (since Linux 6.9).
pub(crate) fn fetch_of_any_thread(
    pid: i32,
    process: BorrowedFd<'_>,
    descriptor: RawFd,
) -> Result<OwnedFd, Errno> {
    let fetched = fetch(process, descriptor);
    if fetched.as_ref().err() != Some(&Errno::ESRCH) {
        return fetched;
    }
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let threads = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    let mut others = threads.filter_map(|thread| {
        let thread = pidfd_of_thread(thread).ok()?;
        fetch(thread.as_fd(), descriptor).ok()
    });
    others.next().ok_or(Errno::ESRCH)
}

/// Whether the link of a descriptor says that it names a process: by the name of an anonymous inode, and since Linux 6.9 of a file system.
pub(crate) fn is_pidfd(link: &str) -> bool {
    ["anon_inode:[pidfd]", "pidfd:"]
        .iter()
        .any(|kind| link.starts_with(kind))
}

/// The number of the process that a pidfd is of; `None` if it is gone, or not to be seen from here.
pub(crate) fn number_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    number.trim().parse().ok().filter(|&pid| pid > 0)
}

fn own(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let descriptor = Errno::result(result)?;
    let descriptor = RawFd::try_from(descriptor).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just created it and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
