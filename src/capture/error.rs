//! What can go wrong while memory is being captured.

use std::io;
use std::path::PathBuf;

use super::select::SelectError;
use super::sink::SinkError;
use crate::tracee::TraceError;

/// Why a capture failed. The target has been let go in every case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The target could not be stopped or let go.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The selectors do not fit the target.
    #[error(transparent)]
    Select(#[from] SelectError),
    /// Another userfaultfd handler still owes pages of a selected mapping.
    #[error(
        "memory of {mapping} in process {pid} is still being restored by another userfaultfd handler, its missing pages \
         are not zero: wait until that restore is finished, then capture again"
    )]
    StillRestoring {
        /// The target.
        pid: i32,
        /// Name and address range of the mapping.
        mapping: String,
    },
    /// Hugetlb pages of a size that the snapshot format does not have.
    #[error(
        "{mapping} in process {pid} uses huge pages of {kib} KiB: only 2 MiB ones are supported, leave it out with \
         --region"
    )]
    HugePageSize {
        /// The target.
        pid: i32,
        /// Name and address range of the mapping.
        mapping: String,
        /// The page size, in KiB.
        kib: u64,
    },
    /// The file behind a mapping cannot be opened.
    #[error(
        "cannot open the memory behind {mapping} of process {pid}: {source}: run as root or with CAP_SYS_ADMIN or \
         CAP_CHECKPOINT_RESTORE, which /proc/{pid}/map_files needs"
    )]
    OpenBacking {
        /// The target.
        pid: i32,
        /// Name and address range of the mapping.
        mapping: String,
        /// Why.
        source: io::Error,
    },
    /// What is behind a mapping is not a regular file, so that opening it might do anything.
    #[error("{mapping} of process {pid} is a device, not memory: leave it out with --region")]
    Device {
        /// The target.
        pid: i32,
        /// Name and address range of the mapping.
        mapping: String,
    },
    /// The target's memory or a file behind it could not be read, for a reason that does not concern single pages.
    #[error("cannot {doing} of process {pid}: {source}")]
    Read {
        /// What was being read.
        doing: &'static str,
        /// The target.
        pid: i32,
        /// Why.
        source: io::Error,
    },
    /// A file of /proc could not be read.
    #[error("cannot read {path}: {source}")]
    Proc {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of `/proc/PID/smaps` was not understood.
    #[error("cannot understand the line {line:?} of /proc/{pid}/smaps: please report it")]
    Smaps {
        /// The target.
        pid: i32,
        /// The line.
        line: String,
    },
    /// The sink failed.
    #[error("cannot write the captured memory: {0}")]
    Sink(#[from] SinkError),
}
