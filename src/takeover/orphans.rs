//! What a dead worker has left.

use std::collections::BTreeSet;
use std::os::fd::RawFd;

use super::Life;
use crate::failure::Failure;
use crate::serve::{END_OF_A_PROCESS, Guard, Orphaned};
use crate::session::OnFailure;
use crate::terminal::mention;

/// The sessions of the worker before. Who was about to be served, and may have given its userfaultfd to that one, is killed; and what
/// else that one had open is closed.
///
/// # Errors
/// [`Failure::Usage`] for a journal that cannot be read. When this program has ended the guard kills those whom it was for.
pub fn orphaned(
    life: &Life,
    guard: &Guard,
    on_failure: OnFailure,
) -> Result<Vec<Orphaned>, Failure> {
    let mut found = Vec::new();
    for (entry, journal) in life.directory().sessions() {
        match Orphaned::find(entry, journal, on_failure, &life.stored) {
            Ok(orphaned) => found.push(orphaned),
            Err(error) => {
                // What it is of stays open: the guard's to kill, or the store's to keep.
                std::mem::forget(found);
                return Err(lost(&error.to_string()));
            }
        }
    }
    let mut taken_over: BTreeSet<RawFd> = found.iter().flat_map(Orphaned::descriptors).collect();
    let known: Vec<i32> = found.iter().flat_map(Orphaned::pids).collect();
    taken_over.extend(guard.descriptors());
    if life.has_stray_userfaultfd(&taken_over) {
        for target in guard.targets_without(&known) {
            mention(&format!(
                "uffd-restore: process {} was handing over its memory when the process that serves was killed: it is killed",
                target.pid
            ));
            let _ = target.kill();
            // As long as it lives its userfaultfd must stay open.
            let _ = target.ends_within(END_OF_A_PROCESS);
        }
    }
    guard.forget_all_but(&known);
    life.close_strays(&taken_over);
    Ok(found)
}

/// Nobody can go on: what is missing is known to nobody.
fn lost(why: &str) -> Failure {
    Failure::Usage(format!(
        "cannot take over from the process that was killed: {why}: its targets are killed"
    ))
}
