//! What a file is that memory is to come from: a snapshot, or memory as it is.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snapshot_format::{Error, MAGIC, PAGE_BYTES, ReadAt, Snapshot};

use super::{FrameCache, PageSource, RawSource, SnapshotSource};

/// A file that memory can be restored from.
pub struct Opened {
    /// Its pages.
    pub source: Arc<dyn PageSource>,
    /// How many pages of 4096 bytes it has.
    pub pages: u64,
    /// What only a snapshot has: regions, metadata. `None` for a raw memory file.
    pub snapshot: Option<Arc<Snapshot<File>>>,
    /// What it is.
    pub kind: FileKind,
}

/// What a file is. As text, for people: "snapshot", "raw memory file".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A file of this project's format.
    Snapshot,
    /// Memory as it is.
    Raw,
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Snapshot => "snapshot",
            Self::Raw => "raw memory file",
        })
    }
}

impl fmt::Debug for Opened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opened")
            .field("kind", &self.kind)
            .field("pages", &self.pages)
            .finish_non_exhaustive()
    }
}

/// Why memory cannot come from a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The system says no.
    #[error("cannot open {path:?}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is a pipe, a socket or a terminal.
    #[error(
        "{0:?} is neither a file nor a block device: memory is read by position, give the file itself"
    )]
    NotAFile(PathBuf),
    /// It is a snapshot that cannot be used.
    #[error("{path:?}: {source}")]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Error,
    },
    /// It has no bytes.
    #[error("{0:?} is empty: give a snapshot, or a raw memory file")]
    Empty(PathBuf),
    /// It is no snapshot, and no raw memory either.
    #[error(
        "{path:?} is neither a snapshot nor raw memory: it does not begin like a snapshot, and its {len} bytes are not whole \
         pages of 4096 bytes: give another file, or copy this one again if it was cut short"
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
    },
}

/// Opens a snapshot or a raw memory file. Whatever begins like a snapshot is one, even if it cannot be used: it is never taken for
/// raw memory. Frames of a snapshot are shared through the cache, if there is one; the page cache does that for a raw file.
///
/// # Errors
/// All of [`OpenError`].
pub fn open(path: &Path, cache: Option<Arc<FrameCache>>) -> Result<Opened, OpenError> {
    let failed = |source| OpenError::Io {
        path: path.to_path_buf(),
        source,
    };
    // Without blocking: opening a pipe that nobody writes to would wait for ever. Files do not care.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(failed)?;
    let kind = file.metadata().map_err(failed)?.file_type();
    if kind.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    if !kind.is_file() && !kind.is_block_device() {
        return Err(OpenError::NotAFile(path.to_path_buf()));
    }
    if !begins_like_a_snapshot(&file).map_err(failed)? {
        let source = RawSource::new(file, path)?;
        return Ok(Opened {
            pages: source.pages(),
            source: Arc::new(source),
            snapshot: None,
            kind: FileKind::Raw,
        });
    }
    let len = ReadAt::len(&file).map_err(failed)?;
    let snapshot = Snapshot::open(file).map_err(|source| OpenError::Snapshot {
        path: path.to_path_buf(),
        source: match source {
            // To the format this is all that can be said of a file without a whole version number; here more is known.
            Error::NotASnapshot => Error::Truncated {
                expected: PAGE_BYTES,
                actual: len,
            },
            other => other,
        },
    })?;
    let snapshot = Arc::new(snapshot);
    let source = match cache {
        Some(cache) => SnapshotSource::with_cache(Arc::clone(&snapshot), cache),
        None => SnapshotSource::new(Arc::clone(&snapshot)),
    };
    Ok(Opened {
        source: Arc::new(source),
        pages: snapshot.pages(),
        snapshot: Some(snapshot),
        kind: FileKind::Snapshot,
    })
}

fn begins_like_a_snapshot(file: &File) -> io::Result<bool> {
    let mut start = [0; MAGIC.len()];
    match file.read_exact_at(&mut start, 0) {
        Ok(()) => Ok(start == MAGIC),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
