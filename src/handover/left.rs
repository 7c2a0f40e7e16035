//! A socket that is left open in a target: what is in its queue ([`crate::takeover`]) stays open as long as the target lives, whatever
//! becomes of this program.

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::PathBuf;
use std::time::Duration;

use super::attach_error::AttachError;
use super::error::HandoverError;
use super::guests::Guests;
use crate::tracee::{StoppedProcess, TraceError};

/// How long the threads of a target may take to stop, only for this.
const PATIENCE: Duration = Duration::from_secs(2);

/// Gives a socket to a process that stands still, and returns its number there. It is closed on exec.
///
/// # Errors
/// [`HandoverError`]; the process is left as it was.
pub(super) fn leave(
    process: &mut StoppedProcess,
    socket: BorrowedFd<'_>,
) -> Result<RawFd, HandoverError> {
    let tid = process.memory_tid();
    let mut caller = process.caller_in(tid)?;
    let mut guests = Guests::new(&mut caller)?;
    let number = guests.give(socket)?;
    guests.keep(number);
    guests.leave()?;
    caller.finish()?;
    Ok(number)
}

/// Closes it in a process that stands still.
///
/// # Errors
/// [`HandoverError`].
pub(super) fn close(process: &mut StoppedProcess, number: RawFd) -> Result<(), HandoverError> {
    let tid = process.memory_tid();
    let mut caller = process.caller_in(tid)?;
    let mut guests = Guests::new(&mut caller)?;
    guests.close(number)?;
    guests.leave()?;
    caller.finish().map_err(HandoverError::from)
}

/// Closes it in a process that runs, and stands still for that. One that has put something else in its place keeps that.
///
/// # Errors
/// [`AttachError`].
pub fn take_back(pid: i32, number: RawFd, socket: BorrowedFd<'_>) -> Result<(), AttachError> {
    if !is_the_same(pid, number, socket) {
        return Ok(());
    }
    let mut process = match StoppedProcess::stop(pid, PATIENCE) {
        Err(
            TraceError::Ended { .. } | TraceError::Zombie { .. } | TraceError::NoSuchProcess { .. },
        ) => return Ok(()),
        stopped => stopped?,
    };
    // Nobody closes it, or puts something else there, any more.
    if is_the_same(pid, number, socket) {
        close(&mut process, number)?;
    }
    process.release()?;
    Ok(())
}

fn is_the_same(pid: i32, number: RawFd, socket: BorrowedFd<'_>) -> bool {
    let link = |path: String| fs::read_link(path).unwrap_or_default();
    let own = link(format!("/proc/self/fd/{}", socket.as_raw_fd()));
    own != PathBuf::new() && link(format!("/proc/{pid}/fd/{number}")) == own
}
