//! A userfaultfd made inside of a stopped process.
//!
//! A userfaultfd is about the memory of the process that creates it: no request names another one. So the target has to
//! create it, and it may not be allowed to: userfaultfd(2) for faults of kernel mode, without which a process that
//! passes absent memory to a system call gets EFAULT, is for CAP_SYS_PTRACE (`fs/userfaultfd.c`). Opening
//! /dev/userfaultfd (since Linux 6.1) is checked when it is opened and not when it is used. So this program opens it, passes it
//! to the target over a socket, has the target ask it for a userfaultfd, and fetches the result. That works for every
//! user, in a user namespace of its own and under seccomp filters.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::error::HandoverError;
use super::guests::{Guests, argument};
use crate::tracee::{RemoteCallError, StoppedProcess};

const DEVICE: &str = "/dev/userfaultfd";
/// `USERFAULTFD_IOC_NEW` of `<linux/userfaultfd.h>`.
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;
/// Children of the target get a userfaultfd with the flags of this one. Not blocking, as poll(2) needs it.
const FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

/// Creates a userfaultfd for the memory of a stopped process. The process has no descriptor of it afterwards, nor any other
/// that it had not before. `UFFDIO_API` has not been called on it.
///
/// # Errors
/// [`HandoverError`]; the process is left as it was.
pub fn create(process: &mut StoppedProcess) -> Result<OwnedFd, HandoverError> {
    let device = OpenOptions::new().read(true).write(true).open(DEVICE);
    let made = create_with(process, device);
    if made.is_err() {
        // A descriptor or a socket of a process that has been killed fails in many ways.
        process.check_still_there()?;
    }
    made
}

fn create_with(
    process: &mut StoppedProcess,
    device: io::Result<File>,
) -> Result<OwnedFd, HandoverError> {
    // The leader, if it lives: descriptors of another thread can be fetched since Linux 6.9 only.
    let tid = process.memory_tid();
    let pid = process.pid();
    let mut caller = process.caller_in(tid)?;
    let mut guests = Guests::new(&mut caller)?;
    let made = match device {
        Ok(device) => from_device(&mut guests, &device, pid)?,
        Err(error) => from_system_call(&mut guests, error, pid)?,
    };
    guests.leave()?;
    caller.finish()?;
    Ok(made)
}

fn from_device(
    guests: &mut Guests<'_, '_>,
    device: &File,
    pid: i32,
) -> Result<OwnedFd, HandoverError> {
    let device = guests.give(device.as_fd())?;
    let arguments = [
        argument(device),
        USERFAULTFD_IOC_NEW,
        argument(FLAGS),
        0,
        0,
        0,
    ];
    let made = guests
        .open(libc::SYS_ioctl, arguments)
        .map_err(|error| HandoverError::remote("create a userfaultfd", pid, error))?;
    guests.fetch(made)
}

fn from_system_call(
    guests: &mut Guests<'_, '_>,
    device: io::Error,
    pid: i32,
) -> Result<OwnedFd, HandoverError> {
    let made = guests.open(libc::SYS_userfaultfd, [argument(FLAGS), 0, 0, 0, 0, 0]);
    let made = made.map_err(|error| match error {
        RemoteCallError::Refused(call @ (Errno::EPERM | Errno::ENOSYS)) => {
            HandoverError::NoUserfaultfd { pid, device, call }
        }
        other => HandoverError::remote("create a userfaultfd", pid, other),
    })?;
    guests.fetch(made)
}
