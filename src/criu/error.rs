//! Why a directory of images cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use crate::addr::AddrRange;

/// Why a directory of images cannot be used. The text names the file and the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagesError {
    /// There is no dump here.
    #[error("{0:?} has no inventory.img: give a directory that `criu dump` wrote to")]
    NotADump(PathBuf),
    /// It was written by `criu pre-dump`.
    #[error(
        "{0:?} has no pstree.img, so it is a pre-dump or a dump that did not finish: give the directory of the last `criu dump`"
    )]
    NoProcesses(PathBuf),
    /// The system says no.
    #[error("cannot {doing} {path:?}: {source}")]
    Io {
        /// What was being done: "open", "read".
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An image does not have the content that it should have.
    #[error("{path:?}: {fault}")]
    Image {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A file has fewer pages than there should be.
    #[error(
        "{path:?} has {pages} pages, but {pagemap:?} says {needed}: copy the directory again, or dump again"
    )]
    Short {
        /// The file with the pages.
        path: PathBuf,
        /// Those that it has.
        pages: u64,
        /// The image that says which pages it has.
        pagemap: PathBuf,
        /// How many there should be.
        needed: u64,
    },
    /// An image that belongs to another is not there.
    #[error("{path:?} is missing, but there is {other:?}: copy the directory again, or dump again")]
    Missing {
        /// The image.
        path: PathBuf,
        /// The one it belongs to.
        other: PathBuf,
    },
    /// There are pages that would be lost.
    #[error(
        "{path:?}: the pages at {at} are marked lazy, but `criu restore` does not leave the memory there to a daemon: it would be zero; dump again"
    )]
    Nobody {
        /// The image.
        path: PathBuf,
        /// The pages.
        at: AddrRange,
    },
    /// The directories of an incremental dump cannot be followed.
    #[error(
        "{folder:?}: the link \"parent\" {what}: keep all directories of an incremental dump beside each other, as `criu dump --prev-images-dir` made them"
    )]
    Parent {
        /// The directory with the link.
        folder: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Pages were taken out of a file.
    #[error(
        "{path:?} has a hole where {pages} lazy pages should be (the first is page {first}): `criu lazy-pages --auto-dedup` takes pages out as \
         it delivers them; dump again. If the file was copied by a program that makes holes of zeros, say --holes-are-zeros"
    )]
    Holes {
        /// The file with the pages.
        path: PathBuf,
        /// Pages in holes.
        pages: u64,
        /// Number of the first of them in the file.
        first: u64,
    },
}

impl ImagesError {
    /// For `map_err`.
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }

    /// For `map_err`.
    pub(super) fn image(path: &Path) -> impl FnOnce(Fault) -> Self {
        let path = path.to_path_buf();
        move |fault| Self::Image { path, fault }
    }
}

/// What is wrong with the bytes of one image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It is not what its name says, or damaged.
    #[error(
        "{0}: it is damaged or was not written by criu; copy the directory again, or dump again"
    )]
    Damaged(String),
    /// It is of a CRIU that this program does not know.
    #[error(
        "{0}: this program knows the images of criu 2.0 to 4.2; dump with one of those, or use a newer uffd-restore"
    )]
    Unknown(String),
    /// It is a manifest that cannot be used.
    #[error("{0}: use the uffd-restore that took the pages out of this directory, or dump again")]
    Manifest(String),
}

impl Fault {
    /// Damaged in this way.
    pub(super) fn damaged(what: impl Into<String>) -> Self {
        Self::Damaged(what.into())
    }
}
