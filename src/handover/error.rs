//! What can go wrong while a target is prepared.

use std::io;

use nix::errno::Errno;

use crate::tracee::{RemoteCallError, TraceError};

/// Why a target could not be prepared. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandoverError {
    /// The target could not be traced, or has ended.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The kernel refused a system call that the target made for us.
    #[error("cannot {doing} in process {pid}: {errno}{}", advice(*errno, *pid))]
    Refused {
        /// What the call was for, as a verb.
        doing: &'static str,
        /// The process.
        pid: i32,
        /// The kernel's answer.
        errno: Errno,
    },
    /// The target has no room for the descriptors that it needs for a moment.
    #[error(
        "cannot {doing} in process {pid}: it may not open more files: raise its limit (prlimit --pid {pid} --nofile), two \
         more than it has open are enough"
    )]
    TooManyFiles {
        /// What the descriptor was for, as a verb.
        doing: &'static str,
        /// The process.
        pid: i32,
    },
    /// Neither of the two ways to a userfaultfd is open to the target.
    #[error(
        "cannot create a userfaultfd for process {pid}: /dev/userfaultfd: {device}; userfaultfd(2) in the process: {call}: make \
         /dev/userfaultfd readable and writable for this program (modprobe, mknod or chmod; since Linux 6.1), or give the \
         process CAP_SYS_PTRACE, or set the sysctl vm.unprivileged_userfaultfd to 1"
    )]
    NoUserfaultfd {
        /// The process.
        pid: i32,
        /// Why the device could not be used.
        device: io::Error,
        /// Why the system call could not.
        call: Errno,
    },
    /// A system call of this program failed.
    #[error("cannot {doing} process {pid}: {source}{}", own_advice(source))]
    Own {
        /// What it was for, as a verb.
        doing: &'static str,
        /// The process.
        pid: i32,
        /// Why.
        source: io::Error,
    },
}

impl HandoverError {
    /// The error of a call in the target, with what it was for.
    pub(super) fn remote(doing: &'static str, pid: i32, error: RemoteCallError) -> Self {
        match error {
            RemoteCallError::Trace(error) => Self::Trace(error),
            RemoteCallError::Refused(Errno::EMFILE) => Self::TooManyFiles { doing, pid },
            RemoteCallError::Refused(errno) => Self::Refused { doing, pid, errno },
        }
    }

    pub(super) fn own(doing: &'static str, pid: i32, error: impl Into<io::Error>) -> Self {
        Self::Own {
            doing,
            pid,
            source: error.into(),
        }
    }
}

fn advice(errno: Errno, pid: i32) -> String {
    match errno {
        Errno::ENFILE => {
            ": the whole system has too many open files: raise the sysctl fs.file-max".to_owned()
        }
        Errno::ENOMEM => format!(
            ": the process has no memory left (ulimit -v, memory cgroup) or too many mappings: compare /proc/{pid}/limits \
             and the sysctl vm.max_map_count"
        ),
        Errno::EPERM | Errno::EACCES => {
            ": run this program as root, or look for a security module (dmesg)".to_owned()
        }
        _ => String::new(),
    }
}

fn own_advice(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": run this program as root or with CAP_SYS_PTRACE",
        Some(libc::EMFILE) => ": this program may not open more files: raise its limit (ulimit -n)",
        Some(libc::ESRCH) => ": it has ended",
        Some(libc::ENOSYS) => ": Linux 5.6 or newer is needed",
        _ => "",
    }
}
