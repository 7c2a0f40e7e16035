//! What a dead worker has left.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::sync::Arc;

use super::Life;
use crate::serve::{END_OF_A_PROCESS, Guard, Orphaned, Target, kill_family};
use crate::session::OnFailure;
use crate::terminal::mention;

/// What there is to go on with.
#[derive(Debug, Default)]
pub struct Found {
    /// The sessions of the worker before.
    pub sessions: Vec<Orphaned>,
    /// There was one with which nobody can go on.
    pub lost: bool,
}

/// The sessions of the worker before. Who was about to be served, and may have given its userfaultfd to that one, is killed; so are those
/// of a session whose journal cannot be read. What else that one had open is closed.
#[must_use]
pub fn orphaned(life: &Life, guard: &Guard, on_failure: OnFailure) -> Found {
    let (mut sessions, mut lost) = (Vec::new(), false);
    for (entry, journal) in life.directory().sessions() {
        match Orphaned::find(entry, journal, on_failure, &life.stored) {
            Ok(orphaned) => sessions.push(orphaned),
            Err(error) => {
                mention(&format!(
                    "uffd-restore: cannot take over from the process that was killed: {error}: its targets are killed"
                ));
                lost = true;
            }
        }
    }
    let mut taken_over: BTreeSet<RawFd> = sessions.iter().flat_map(Orphaned::descriptors).collect();
    let known: Vec<i32> = sessions.iter().flat_map(Orphaned::pids).collect();
    taken_over.extend(guard.descriptors());
    if lost || life.has_stray_userfaultfd(&taken_over) {
        // One of them may miss nothing any more, and its userfaultfd was just going to be closed.
        let hosts = sessions.iter().map(|session| session.target().pid);
        let others: Vec<i32> = known.iter().copied().chain(hosts).collect();
        end_all(&guard.targets_without(&others));
    }
    guard.forget_all_but(&known);
    life.close_strays(&taken_over);
    Found { sessions, lost }
}

/// As long as they live their userfaultfds must stay open.
fn end_all(targets: &[Arc<Target>]) {
    for target in targets {
        mention(&format!(
            "uffd-restore: process {} had handed over its memory, and nobody knows any more what is missing: it is killed",
            target.pid
        ));
        kill_family(target);
    }
    for target in targets {
        let _ = target.ends_within(END_OF_A_PROCESS);
    }
}
