//! The processes of a snapshot that has several.

use crate::tool::{counted, pages_size};
use serde::Serialize;
use snapshot_format::{PlacedRegion, ProcessRegions, Snapshot};
use std::fs::File;
use std::ops::Range;

/// A process, for people and for machines.
#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    /// Position of its first region.
    pub(super) first_region: usize,
    pub(super) regions: usize,
    pub(super) pages: u64,
    /// XXH3 of its pagemap-PID.img, in hexadecimal.
    pub(super) pagemap: String,
}

/// The processes of a snapshot; none if it does not know of any.
pub(super) fn of(snapshot: &Snapshot<File>) -> Vec<Process> {
    let regions = snapshot.regions().as_slice();
    let processes = snapshot.processes();
    let list = processes.into_iter().flat_map(|one| one.with_regions());
    list.map(|(record, range)| process(record, range, regions))
        .collect()
}

fn process(record: &ProcessRegions, range: Range<usize>, regions: &[PlacedRegion]) -> Process {
    let own = regions.get(range.clone()).unwrap_or_default();
    Process {
        pid: record.pid,
        first_region: range.start,
        regions: own.len(),
        pages: own.iter().map(PlacedRegion::pages).sum(),
        pagemap: format!("{:016x}", record.pagemap),
    }
}

/// What stands above the regions of a process.
pub(super) fn heading(process: &Process) -> String {
    format!(
        "  process {}: {}, {}",
        process.pid,
        counted(process.regions as u64, "region"),
        pages_size(process.pages),
    )
}
