//! What can go wrong, named by place.

use crate::header::{SnapshotId, VERSION};
use crate::working_set::VERSION as SET_VERSION;
use std::{fmt, io};

/// Where in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Place {
    /// The first 4096 bytes.
    Header,
    /// An entry of the section table, by position.
    SectionTable(usize),
    /// The region map.
    RegionMap,
    /// The metadata section.
    Metadata,
    /// The parent section.
    Parent,
    /// The section that says which processes the regions belong to.
    Processes,
    /// The root of the page index.
    IndexRoot,
    /// A node of the page index, by its offset in the file.
    IndexNode(u64),
    /// The index entry of a page.
    IndexEntry(u64),
    /// A frame, by its offset in the file.
    Frame(u64),
    /// The frame table of a working set.
    FrameTable,
    /// An entry of the frame table of a working set, by position.
    FrameEntry(usize),
    /// The runs of an entry of the frame table of a working set, by its position.
    Runs(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => write!(f, "header"),
            Self::SectionTable(entry) => write!(f, "section table entry {entry}"),
            Self::RegionMap => write!(f, "region map"),
            Self::Metadata => write!(f, "metadata"),
            Self::Parent => write!(f, "parent section"),
            Self::Processes => write!(f, "list of processes"),
            Self::IndexRoot => write!(f, "root of the page index"),
            Self::IndexNode(offset) => write!(f, "page index node at byte {offset}"),
            Self::IndexEntry(page) => write!(f, "page index entry of page {page}"),
            Self::Frame(offset) => write!(f, "frame at byte {offset}"),
            Self::FrameTable => write!(f, "frame table"),
            Self::FrameEntry(entry) => write!(f, "frame table entry {entry}"),
            Self::Runs(entry) => write!(f, "runs of frame {entry}"),
        }
    }
}

/// Why a snapshot or a working set, or a part of it, cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file does not begin with the magic number.
    #[error(
        "not a snapshot (the first bytes are not a snapshot's; a raw memory file is made into one by `uffd-snapshot pack`)"
    )]
    NotASnapshot,
    /// A working set where a snapshot belongs.
    #[error(
        "this is a working set, not a snapshot (`uffd-snapshot working-set inspect` says of which snapshot)"
    )]
    SetNotSnapshot,
    /// The file does not begin with the magic number of a working set.
    #[error(
        "not a working set (the first bytes are not one's; one is recorded by `uffd-restore --record-working-set`)"
    )]
    NotAWorkingSet,
    /// A snapshot where a working set belongs.
    #[error(
        "this is a snapshot, not a working set (which is beside it and called SNAPSHOT.ws, unless it was named)"
    )]
    SnapshotNotSet,
    /// A version of the working set file that this library does not read.
    #[error(
        "working set version {0} is not known, this program reads version {SET_VERSION}: use a newer uffd-restore, or record the set again"
    )]
    UnknownSetVersion(u32),
    /// A version of the format that this library does not read.
    #[error(
        "format version {0} is not known, this program reads version {VERSION}: use a newer uffd-restore"
    )]
    UnknownVersion(u32),
    /// Feature bits that a reader must understand, and this one does not.
    #[error(
        "the file needs format features {0:#x} that this program does not know: use a newer uffd-restore"
    )]
    UnknownFeatures(u64),
    /// The file is shorter than a header, or than its header says.
    #[error(
        "truncated: the file has {actual} bytes of at least {expected}: copy or capture it again"
    )]
    Truncated {
        /// Bytes the header promises.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// Bytes that contradict their checksum or each other.
    #[error("corrupt {place}: {what}")]
    Corrupt {
        /// Where.
        place: Place,
        /// What is wrong.
        what: &'static str,
    },
    /// The storage failed, or the file was truncated while open.
    #[error("cannot read {place}: {}", why(.source))]
    Read {
        /// What was being read.
        place: Place,
        /// The storage's error.
        source: io::Error,
    },
    /// A page number that the snapshot does not have.
    #[error("page {page} does not exist, the snapshot has {pages} pages")]
    NoSuchPage {
        /// The page asked for.
        page: u64,
        /// Pages in the snapshot.
        pages: u64,
    },
    /// A frame that the working set does not have.
    #[error("frame {frame} does not exist, the working set has {frames} frames")]
    NoSuchFrame {
        /// The frame asked for.
        frame: usize,
        /// Frames in the working set.
        frames: usize,
    },
    /// The page could not be read at capture time: its content is unknown (it is not zero).
    #[error("page {0} was lost at capture time (it could not be read then)")]
    Lost(u64),
    /// The page lives in another snapshot.
    #[error("page {page} lives in the parent snapshot {parent}, which is not open")]
    InParent {
        /// The page asked for.
        page: u64,
        /// The snapshot that has it.
        parent: SnapshotId,
    },
    /// The caller's buffer does not fit what was asked for.
    #[error("a buffer of {given} bytes was given where {needed} are needed")]
    Buffer {
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
    },
}

impl Error {
    pub(crate) fn corrupt(place: Place, what: &'static str) -> Self {
        Self::Corrupt { place, what }
    }

    pub(crate) fn read(place: Place, source: io::Error) -> Self {
        Self::Read { place, source }
    }
}

/// Why a snapshot or a working set cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output failed: disk full, for example.
    #[error("cannot write: {0}")]
    Output(#[source] io::Error),
    /// A codec refused its input or its level.
    #[error("cannot compress: {0}")]
    Compress(String),
    /// The options or the order of calls are wrong.
    #[error("{0}")]
    Usage(String),
    /// A worker thread ended by panic; the file is unusable.
    #[error("a worker thread ended unexpectedly")]
    Worker,
}

/// The words of the standard library for an end that comes too early are no help.
fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            "the file ends before it, so it was truncated while it was open".into()
        }
        _ => error.to_string(),
    }
}
