//! Memory of a process, copied into a sink of pages.
//!
//! [`run`] stops every thread of the target, finds out what memory it has, copies it, and lets the target go on. Because
//! nothing of it runs meanwhile, the copy is one moment of the process, across all threads and all mappings. (What other
//! processes do to memory that they share with it is their business: see [`StoppedProcess`].)
//!
//! Two rules. A capture does not change the target: pages that it has never touched are not touched for it. And a page
//! that cannot be read is *lost*, which the snapshot says; it is never taken for zero.
//!
//! | file                            | holds                                                     |
//! |---------------------------------|-----------------------------------------------------------|
//! | `sink.rs`                       | [`PageSink`], where the pages go                          |
//! | `maps.rs`, `smaps.rs`           | parsers of `/proc/PID/maps` and `smaps`                   |
//! | `backing.rs`                    | is it memory, a file or a device                          |
//! | `selector.rs`, `select.rs`      | which mappings are meant                                  |
//! | `plan.rs`                       | the mappings of a stopped process, selected and checked   |
//! | `pagemap.rs`, `pagemap_scan.rs` | which pages have content                                  |
//! | `memory.rs`, `backing_file.rs`  | reading memory, reading the file behind a mapping         |
//! | `copy.rs`, `emitter.rs`         | one mapping into the sink                                 |
//! | `identity.rs`, `report.rs`      | whose memory, and how it went                             |

pub mod backing;
mod backing_file;
mod copy;
mod emitter;
mod error;
mod identity;
pub mod maps;
mod memory;
pub mod pagemap;
mod pagemap_scan;
pub(crate) mod plan;
mod report;
pub mod select;
pub(crate) mod selector;
mod sink;
pub mod smaps;

use std::time::Duration;

use snapshot_format::PAGE_BYTES;

pub use error::CaptureError;
pub use identity::TargetIdentity;
pub use report::{LostPages, PageCounts, Progress, Report};
pub use select::SelectError;
pub use selector::{ParseSelectorError, RegionSelector};
pub use sink::{PageSink, SinkError};

use self::copy::Copier;
use self::emitter::Emitter;
use self::select::Piece;
use crate::tracee::{DEFAULT_STOP_TIMEOUT, StoppedProcess};

/// How to capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which memory. Empty: all that the process can write, see [`select::select`].
    pub selectors: Vec<RegionSelector>,
    /// Also private writable mappings of files: .data of programs and libraries.
    pub private_files: bool,
    /// Leave the target stopped, as if by SIGSTOP, instead of letting it run.
    pub leave_stopped: bool,
    /// How long to wait for all threads to stop.
    pub stop_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            selectors: Vec::new(),
            private_files: false,
            leave_stopped: false,
            stop_timeout: DEFAULT_STOP_TIMEOUT,
        }
    }
}

/// Captures the memory of the process with id `pid` (or that has a thread of this id).
///
/// The target is let go as soon as the last page is in the sink, before the sink does anything more with it. Must be
/// called by a thread that may block, and that outlives the call: ptrace is bound to it.
///
/// # Errors
/// Every [`CaptureError`]. The target goes on in every case; what the sink has got by then is worthless.
pub fn run(
    pid: i32,
    options: &Options,
    sink: &mut dyn PageSink,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, CaptureError> {
    let process = StoppedProcess::stop(pid, options.stop_timeout)?;
    let captured = capture(&process, options, sink, progress);
    // An address space that ceases to exist while it is being read looks empty, or fails in many ways. So before any of
    // it is believed, the target must still be there.
    process.check_still_there()?;
    let mut report = captured?;
    let released = if options.leave_stopped {
        process.leave_stopped()?
    } else {
        process.release()?
    };
    progress(Progress::Released);
    report.stood_still = released.stood_still;
    Ok(report)
}

fn capture(
    process: &StoppedProcess,
    options: &Options,
    sink: &mut dyn PageSink,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, CaptureError> {
    let target = TargetIdentity::of(process)?;
    let pieces = plan::plan(process, options)?;
    progress(Progress::Planned {
        regions: pieces.len(),
        pages: pieces.iter().map(pages_of).sum(),
    });
    let copier = Copier::new(process)?;
    let mut emitter = Emitter::new(sink, progress);
    for piece in &pieces {
        copier.copy(piece, &mut emitter)?;
        // Early: a dead target with terabytes of address space would yield terabytes of nothing first.
        process.check_still_there()?;
    }
    Ok(Report {
        target,
        stood_still: Duration::ZERO,
        threads: process.threads(),
        regions: pieces.iter().map(Piece::region).collect(),
        pages: emitter.counts,
        lost: emitter.lost,
    })
}

fn pages_of(piece: &Piece) -> u64 {
    (piece.end - piece.start) / PAGE_BYTES
}
