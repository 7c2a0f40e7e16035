//! Why a journal cannot be used.

use nix::errno::Errno;

use super::VERSION;

/// Why a journal cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// Some other file.
    #[error("it is not a journal of this program")]
    NotOne,
    /// Written by a program that keeps other records.
    #[error(
        "it has version {found}, and this program reads version {VERSION}: start the uffd-restore that wrote it, and let it \
         finish"
    )]
    Version {
        /// What it has.
        found: u64,
    },
    /// It was given up, or never begun.
    #[error("it has no valid state")]
    NoState,
    /// A checksum does not fit.
    #[error("its checkpoint is damaged")]
    Damaged,
    /// A record that nobody writes.
    #[error("its record {number} is damaged")]
    BadRecord {
        /// Counted from 0.
        number: usize,
    },
    /// The system does not give access.
    #[error("cannot map it: {0}")]
    System(Errno),
}
