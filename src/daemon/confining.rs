//! Serving with no more rights than it takes.

use super::limits::spare_descriptors;
use crate::serve::{ServeError, Workers};
use crate::service::{Confinement, born_with};
use crate::source::PageSource;
use crate::terminal::mention;

/// Threads that decode. They need no capabilities for that.
pub(super) fn powerless_workers(
    source: &dyn PageSource,
    jobs: usize,
) -> Result<Workers, ServeError> {
    born_with(&[], || Workers::start(source, jobs)).map_err(ServeError::Thread)?
}

/// Begins it. Somebody waits for pages already: what cannot be given up is said, and kept.
pub(super) fn confine(confinement: Confinement) {
    spare_descriptors();
    if let Err(error) = confinement.begin() {
        mention(&format!(
            "uffd-restore: {error}; it goes on with more rights than it needs"
        ));
    }
}
