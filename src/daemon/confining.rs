//! Serving with no more rights than it takes.

use super::limits::spare_descriptors;
use crate::serve::{ServeError, Workers};
use crate::service::{Confinement, Starting, being_born_with};
use crate::source::PageSource;
use crate::terminal::mention;

/// Threads that decode. They need no capabilities for that.
pub(super) fn powerless_workers(
    source: &dyn PageSource,
    jobs: usize,
) -> Result<Workers, ServeError> {
    let (workers, starting) = begin_workers(source, jobs)?;
    starting.wait()?;
    Ok(workers)
}

/// The same, while the thread that calls goes on: a target may be waiting for it.
pub(super) fn begin_workers(
    source: &dyn PageSource,
    jobs: usize,
) -> Result<(Workers, WorkersStarting), ServeError> {
    let (workers, threads) = Workers::to_be_started(source, jobs);
    let starting = being_born_with(&[], || threads.start()).map_err(ServeError::Thread)?;
    Ok((workers, WorkersStarting(starting)))
}

/// Threads that decode, and are being started.
#[must_use]
pub(super) struct WorkersStarting(Starting<Result<(), ServeError>>);

impl WorkersStarting {
    /// Waits until they are.
    pub(super) fn wait(self) -> Result<(), ServeError> {
        self.0.wait().map_err(ServeError::Thread)?
    }

    /// The same where somebody waits for pages already: who serves can decode them himself.
    pub(super) fn wait_or_do_without(self) {
        if let Err(error) = self.wait() {
            mention(&format!("uffd-restore: {error}; it goes on without them"));
        }
    }
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
