//! Why a command failed, and the exit status that says so.

use crate::capture::CaptureError;
use snapshot_format::{Error, SnapshotId, WriteError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The one error that a command ends with. Its text names the object and, where there is one, the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The command line makes no sense: exit status 2.
    #[error("{0}")]
    Usage(String),
    /// A file system operation failed.
    #[error("cannot {doing} {path:?}: {source}{}", hint(.source))]
    Io {
        /// What was being done: "open", "write".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The output is there already.
    #[error("{0:?} exists: choose another name, or replace it with --force")]
    Exists(PathBuf),
    /// The output is something that cannot be replaced.
    #[error("{0:?} is not a regular file: write to a file on disk")]
    NotAFile(PathBuf),
    /// The input became shorter while it was being read.
    #[error(
        "{path:?} shrank from {expected} to {read} bytes while it was being read: pack it when nobody writes to it"
    )]
    Shrank {
        /// The file.
        path: PathBuf,
        /// Bytes it had at first.
        expected: u64,
        /// Bytes that could be read.
        read: u64,
    },
    /// A snapshot, or a working set, can only be read by position.
    #[error(
        "{0:?} is a pipe: snapshots and working sets are read by position, give the file itself"
    )]
    NotSeekable(PathBuf),
    /// A snapshot or a working set cannot be read.
    #[error("{path:?}: {source}")]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Error,
    },
    /// A region of a snapshot cannot be read.
    #[error("{path:?}: region {region:?}: {source}{}", region_hint(.source))]
    Region {
        /// The file.
        path: PathBuf,
        /// The region's name.
        region: String,
        /// Why not.
        source: Error,
    },
    /// A snapshot or a working set cannot be written.
    #[error("{path:?}: {source}{}; nothing was left behind", write_hint(.source))]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: WriteError,
    },
    /// A working set belongs to another snapshot.
    #[error(
        "{path:?} is a working set of {}snapshot {set}, and {snapshot_path:?} is snapshot {snapshot}: give the snapshot that it \
         was recorded with, or record it again", if set == snapshot { "another " } else { "" }
    )]
    OtherSnapshot {
        /// The working set.
        path: PathBuf,
        /// The snapshot that it belongs to.
        set: SnapshotId,
        /// The snapshot given.
        snapshot_path: PathBuf,
        /// Its id.
        snapshot: SnapshotId,
    },
    /// A list of pages makes no sense.
    #[error("{path:?}, line {line}: {what}")]
    PageList {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, and what to write instead.
        what: String,
    },
    /// The memory of a process cannot be captured.
    #[error(transparent)]
    Capture(CaptureError),
    /// The target could not be attached to.
    #[error(transparent)]
    Attach(#[from] crate::handover::AttachError),
    /// A directory of images cannot be used.
    #[error(transparent)]
    Images(#[from] crate::criu::ImagesError),
    /// Images and snapshot, or images and restore, do not belong together.
    #[error("{0}")]
    Mismatch(String),
    /// Memory cannot come from what was given.
    #[error(transparent)]
    Open(#[from] crate::source::OpenError),
    /// Something about a directory of images as a whole.
    #[error("{folder:?}: {what}")]
    Dump {
        /// The directory.
        folder: PathBuf,
        /// What is wrong, and the next step.
        what: String,
    },
    /// A directory of images is between two states, each of which can be reached from there.
    #[error(
        "{source}; {folder:?} is between two states and nothing is lost: do the same again to finish, or the opposite to undo it \
         (import-criu --strip, export-criu)"
    )]
    Halfway {
        /// The directory.
        folder: PathBuf,
        /// Why it is there.
        source: Box<Failure>,
    },
    /// The target could not be served.
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    /// This program cannot be kept from doing more than it has to.
    #[error(transparent)]
    Confinement(#[from] crate::service::ConfinementError),
    /// The page index of a snapshot cannot be read everywhere.
    #[error("{path:?}: {error}; `uffd-snapshot verify` lists every bad page")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// Pages of a snapshot are bad.
    #[error(
        "{path:?}: {pages} of {total} pages are bad; restore from another copy, or capture again"
    )]
    BadPages {
        /// The file.
        path: PathBuf,
        /// Bad pages.
        pages: u64,
        /// All pages.
        total: u64,
    },
}

impl Failure {
    /// Wrap an error of the operation `doing` on `path`.
    pub fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// Wrap an error of reading the snapshot or the working set `path`.
    pub fn snapshot(path: &Path) -> impl FnOnce(Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Snapshot { path, source }
    }

    /// Wrap an error of writing the snapshot or the working set `path`.
    pub fn write(path: &Path) -> impl FnOnce(WriteError) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Write { path, source }
    }

    /// 2 for bad usage, 1 for the rest.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            _ => 1,
        }
    }

    /// The same, for main().
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.status())
    }

    /// True when the reader of our standard output has gone away, as `head` does: nobody wants the rest, nor an error.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// What to do about an error of the operating system.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ": free some space, or write to another file system"
        }
        io::ErrorKind::FileTooLarge => {
            ": raise the limit on the size of files (ulimit -f), or write to another file system"
        }
        io::ErrorKind::ReadOnlyFilesystem => ": write to another file system",
        io::ErrorKind::PermissionDenied => ": run as a user who may, or choose another place",
        io::ErrorKind::InvalidFilename => ": choose a shorter name",
        _ => "",
    }
}

/// What to do about a page that cannot be read. One that was lost at capture, or is elsewhere, is not bad.
fn region_hint(error: &Error) -> &'static str {
    match error {
        Error::Corrupt { .. } | Error::Read { .. } => {
            "; `uffd-snapshot verify` lists every bad page"
        }
        _ => "",
    }
}

fn write_hint(error: &WriteError) -> &'static str {
    match error {
        WriteError::Output(error) => hint(error),
        _ => "",
    }
}
