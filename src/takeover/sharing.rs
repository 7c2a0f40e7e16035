//! A process that shares the descriptor table of the one that starts it, and nothing else.
#![expect(unsafe_code, reason = "clone(2) with a shared descriptor table")]

use nix::errno::Errno;
use nix::unistd::Pid;

/// Which of the two this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// The one that was there before.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Makes a copy of this process that has the same table of descriptors: what one opens or closes, the other has open or
/// closed (CLONE_FILES of clone(2), without CLONE_VM). When one of them dies everything stays open. execve(2) would end it.
///
/// To be called while this process has one thread: the copy is of that one.
///
/// # Errors
/// No memory, or no process.
pub fn share_descriptors() -> Result<Sharing, Errno> {
    let flags = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack given this is fork(2), but for the shared descriptor table; the only
    // thread there is makes it, so nothing in the copy is locked or half done.
    let child =
        unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    let child = Errno::result(child)?;
    let pid = i32::try_from(child).map_err(|_| Errno::ESRCH)?;
    Ok(match pid {
        0 => Sharing::Child,
        pid => Sharing::Parent(Pid::from_raw(pid)),
    })
}
