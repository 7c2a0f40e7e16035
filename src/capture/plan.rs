//! What to capture of a stopped process: reads its mappings and checks that what is selected can be captured.

use std::path::PathBuf;

use snapshot_format::PageSize;

use super::Options;
use super::backing::MemoryDevices;
use super::error::CaptureError;
use super::select::{Candidate, Piece, select};
use super::smaps;
use crate::tracee::StoppedProcess;

/// The pieces to capture, in address order.
pub(super) fn plan(
    process: &StoppedProcess,
    options: &Options,
) -> Result<Vec<Piece>, CaptureError> {
    let candidates = candidates(process)?;
    let pieces = select(&candidates, &options.selectors, options.private_files)?;
    for piece in &pieces {
        check(process.pid(), piece)?;
    }
    Ok(pieces)
}

/// Every mapping of a stopped process, and what is behind it, in address order.
pub(crate) fn candidates(process: &StoppedProcess) -> Result<Vec<Candidate>, CaptureError> {
    let (pid, tid) = (process.pid(), process.memory_tid());
    let path = PathBuf::from(format!("/proc/{tid}/smaps"));
    let text = std::fs::read(&path).map_err(|source| CaptureError::Proc { path, source })?;
    let mappings = smaps::parse(&text).map_err(|line| CaptureError::Smaps { pid, line })?;
    let mut devices = MemoryDevices::of(tid).map_err(|source| CaptureError::Read {
        doing: "tell memory from files in the mappings",
        pid,
        source,
    })?;
    for mapping in &mappings {
        devices.ask(tid, mapping);
    }
    Ok(mappings
        .into_iter()
        .map(|mapping| Candidate {
            backing: devices.backing(&mapping),
            mapping,
        })
        .collect())
}

fn check(pid: i32, piece: &Piece) -> Result<(), CaptureError> {
    let mapping = &piece.of.mapping;
    // An absent page there is owed by somebody. Taken for zero, it would be lost for good.
    if mapping.flags.userfault_missing {
        return Err(CaptureError::StillRestoring {
            pid,
            mapping: mapping.line.to_string(),
        });
    }
    if mapping.flags.hugetlb && mapping.page_kib * 1024 != PageSize::Huge2M.bytes() {
        return Err(CaptureError::HugePageSize {
            pid,
            mapping: mapping.line.to_string(),
            kib: mapping.page_kib,
        });
    }
    Ok(())
}
