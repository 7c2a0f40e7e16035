//! Directories of images whose lazy pages are moved to a snapshot and back.
//!
//! What is in a directory changes in steps, each of which is a rename or a removal and is on disk before the next one begins. After any of
//! them the directory can be restored, or the pagemaps in it are marked so that CRIU refuses them, and the
//! [manifest](crate::criu::manifest) says what to do:
//!
//! | step of `--strip`                                     | restorable                                        |
//! |-------------------------------------------------------|---------------------------------------------------|
//! | the snapshot is complete, and compared with the pages | as before                                         |
//! | the manifest                                          | as before                                         |
//! | for each process: its pagemap kept, a pages file with what is left | as before                            |
//! | for each process: a marked pagemap replaces its own   | those not replaced as before, others with the snapshot |
//! | the old pages files are removed                       | with the snapshot                                 |
//!
//! `export-criu` goes the other way: the old pages files, the old pagemaps, the removal of what was left, the removal of the manifest.
//! Either can be begun again after any step, and the other one then too.

pub(super) mod belonging;
pub(super) mod folder;
pub(super) mod pages;
pub(super) mod planning;
pub(super) mod signals;
pub(super) mod stripping;

use crate::failure::Failure;
use std::path::Path;

/// Something about a directory of images, and the next step.
pub(super) fn refused(folder: &Path, what: impl Into<String>) -> Failure {
    Failure::Dump {
        folder: folder.to_path_buf(),
        what: what.into(),
    }
}
