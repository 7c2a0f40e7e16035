//! Why a target cannot be attached to.

use nix::errno::Errno;

use super::error::HandoverError;
use super::placement::PlacementError;
use crate::addr::Addr;
use crate::capture::CaptureError;
use crate::tracee::{RemoteCallError, TraceError};
use crate::uffd::NewError;

/// Why a target cannot be attached to. But for [`AttachError::Destroyed`] it goes on as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// It could not be traced, or has ended.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// It could not be got hold of.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// Its memory could not be looked at.
    #[error(transparent)]
    Look(CaptureError),
    /// The snapshot does not fit.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The snapshot needs another one.
    #[error(
        "the snapshot has pages that live in a parent snapshot, which this version cannot restore from: use one that stands \
         for itself"
    )]
    Layered,
    /// This program cannot have a userfaultfd.
    #[error("{}", unavailable(.0))]
    Unavailable(NewError),
    /// The kernel lacks something.
    #[error(
        "this kernel's userfaultfd lacks {missing}: `uffd-restore --check` says what needs which version (POISON: Linux 6.6, \
         or use --on-failure kill)"
    )]
    KernelTooOld {
        /// The features.
        missing: String,
    },
    /// The kernel refused the features.
    #[error(
        "cannot have the userfaultfd of process {pid} tell of forks: {errno}: run as root or with CAP_SYS_PTRACE (in the \
         initial user namespace)"
    )]
    Agree {
        /// The process.
        pid: i32,
        /// The answer.
        errno: Errno,
    },
    /// A mapping cannot be registered.
    #[error("cannot register {mapping}: {errno}: {}", register_advice(*errno))]
    Register {
        /// Name and address range.
        mapping: String,
        /// The answer.
        errno: Errno,
    },
    /// Somebody asked this program to end before the target was touched.
    #[error("asked to end; the target was not touched")]
    AskedToEnd,
    /// A page that must be there before the target runs cannot be read.
    #[error(
        "the page at {at} of {mapping} must be in place before the target goes on, and cannot be read: {why}: restore from \
         another copy of the snapshot"
    )]
    BadPage {
        /// Name and address range of the mapping.
        mapping: String,
        /// Where the page belongs.
        at: Addr,
        /// Why.
        why: String,
    },
    /// It failed after the target's memory had been dropped.
    #[error("{}: {why}", destroyed(*pid, *killed))]
    Destroyed {
        /// The process.
        pid: i32,
        /// What failed.
        why: Box<AttachError>,
        /// Whether it could be killed.
        killed: bool,
    },
}

impl AttachError {
    /// The error of a call in the target, with what it was for.
    pub(super) fn remote(doing: &'static str, pid: i32, error: RemoteCallError) -> Self {
        Self::Handover(HandoverError::remote(doing, pid, error))
    }

    pub(super) fn own(doing: &'static str, pid: i32, error: impl Into<std::io::Error>) -> Self {
        Self::Handover(HandoverError::own(doing, pid, error))
    }
}

fn unavailable(error: &NewError) -> String {
    match error {
        NewError::NotInKernel => "this kernel has no userfaultfd (CONFIG_USERFAULTFD)".to_owned(),
        NewError::Forbidden(device) => format!(
            "not permitted to use userfaultfd (/dev/userfaultfd: {device}): run as root, make the device readable and writable \
             for this user, or set the sysctl vm.unprivileged_userfaultfd to 1"
        ),
        NewError::Other(errno) => {
            format!("cannot create a userfaultfd: {errno}: see `uffd-restore --check`")
        }
    }
}

fn register_advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EBUSY => {
            "another userfaultfd owns it; is another uffd-restore running for this target? End that first"
        }
        Errno::ENOMEM => "the process has too many mappings: raise the sysctl vm.max_map_count",
        _ => "the kernel cannot serve faults of this kind of memory: leave it out with --region",
    }
}

fn destroyed(pid: i32, killed: bool) -> String {
    if killed {
        format!("process {pid} was killed, because its memory had been dropped when this failed")
    } else {
        format!(
            "process {pid} has lost its memory when this failed; this program may not kill it, and the kernel does when this \
             program ends"
        )
    }
}
