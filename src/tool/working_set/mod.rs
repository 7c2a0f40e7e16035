//! `uffd-snapshot working-set`: make, look into and merge working sets.

mod build;
mod inspect;
mod list;

use super::open_file;
use crate::cli::working_set::WorkingSet as Command;
use crate::failure::Failure;
use snapshot_format::Snapshot;
use snapshot_format::working_set::WorkingSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub(super) fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Build(args) => build::build(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Merge(args) => build::merge(args),
    }
}

/// Open a working set.
fn open_set(path: &Path) -> Result<Arc<WorkingSet<File>>, Failure> {
    WorkingSet::open(open_file(path)?)
        .map(Arc::new)
        .map_err(Failure::snapshot(path))
}

/// The error of a set that does not belong to this snapshot.
fn check_belongs(
    set: (&Path, &WorkingSet<File>),
    snapshot: (&Path, &Snapshot<File>),
) -> Result<(), Failure> {
    let (set_id, snapshot_id) = (set.1.snapshot(), snapshot.1.id());
    if set.1.belongs_to(snapshot.1) {
        return Ok(());
    }
    Err(Failure::OtherSnapshot {
        path: set.0.to_path_buf(),
        set: set_id,
        snapshot_path: snapshot.0.to_path_buf(),
        snapshot: snapshot_id,
    })
}

/// How many pages are zero, if any are.
fn of_them_zero(pages: u64) -> String {
    match pages {
        0 => String::new(),
        pages => format!(", {pages} of them zero"),
    }
}
