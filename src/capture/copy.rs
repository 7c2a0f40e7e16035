//! Copying one piece of a mapping. What an absent page means depends on the mapping, and is the whole difficulty:
//!
//! | mapping                 | a page that the page tables do not have                                       |
//! |-------------------------|--------------------------------------------------------------------------------|
//! | private, anonymous      | is zero                                                                       |
//! | private, of a file      | is what the file has there; present pages may be the process's own copies     |
//! | shared                  | may be in the file, put there by anybody: page tables tell nothing            |
//! | registered with a uffd  | is owed by its handler: not captured at all, see `plan.rs`                      |

use std::io;

use super::backing::Backing;
use super::backing_file::BackingFile;
use super::emitter::Emitter;
use super::error::CaptureError;
use super::memory::RemoteMemory;
use super::pagemap::{PageRun, PageState, Pagemap};
use super::select::Piece;
use crate::tracee::StoppedProcess;
use snapshot_format::{PAGE_BYTES, PAGE_SIZE};

/// What is needed to read a stopped process's memory.
#[derive(Debug)]
pub(super) struct Copier {
    pid: i32,
    tid: i32,
    memory: RemoteMemory,
    pagemap: Pagemap,
}

impl Copier {
    pub(super) fn new(process: &StoppedProcess) -> Result<Self, CaptureError> {
        let (pid, tid) = (process.pid(), process.memory_tid());
        let memory =
            RemoteMemory::open(tid).map_err(|source| read_error(pid, "open the memory", source))?;
        let pagemap =
            Pagemap::open(tid).map_err(|source| read_error(pid, "open the page map", source))?;
        Ok(Self {
            pid,
            tid,
            memory,
            pagemap,
        })
    }

    /// Copies all pages of one piece.
    pub(super) fn copy(
        &self,
        piece: &Piece,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), CaptureError> {
        emitter.begin_region(&piece.region())?;
        if piece.of.mapping.line.shared {
            self.shared(piece, emitter)
        } else {
            self.private(piece, emitter)
        }
    }

    fn private(&self, piece: &Piece, emitter: &mut Emitter<'_>) -> Result<(), CaptureError> {
        let file = match piece.of.backing {
            Backing::Anonymous => None,
            _ => Some(BackingFile::open(
                self.pid,
                self.tid,
                &piece.of.mapping.line,
            )?),
        };
        self.for_each_run(piece, |run| match (run.state, &file) {
            (PageState::Content | PageState::Swapped, _) => {
                emitter.copy_to(run.end, |address, buffer| self.read_memory(address, buffer))
            }
            (PageState::Absent, Some(file)) => self.copy_file_to(piece, file, run.end, emitter),
            (PageState::Absent, None) | (PageState::Zero | PageState::Guard, _) => {
                emitter.zeros_to(run.end)
            }
        })
    }

    fn shared(&self, piece: &Piece, emitter: &mut Emitter<'_>) -> Result<(), CaptureError> {
        let file = BackingFile::open(self.pid, self.tid, &piece.of.mapping.line)?;
        for (start, end) in self.poisoned(piece)? {
            self.copy_file_to(piece, &file, start, emitter)?;
            emitter.lost_to(end)?;
        }
        self.copy_file_to(piece, &file, piece.end, emitter)
    }

    /// Where the target cannot read a shared mapping although the file could be read: UFFDIO_POISON leaves a marker in
    /// the page tables and a hole in the file, and that hole is not a page of zeros.
    ///
    /// A write-protection marker looks the same from here; reading such a page works. (It allocates it, the one case in
    /// which a capture does; it takes a userfaultfd in write-protect mode on shared memory.)
    fn poisoned(&self, piece: &Piece) -> Result<Vec<(u64, u64)>, CaptureError> {
        let mut poisoned = Vec::new();
        let mut page = vec![0; PAGE_SIZE];
        self.for_each_run(piece, |run| {
            if run.state == PageState::Swapped {
                for address in (run.start..run.end).step_by(PAGE_SIZE) {
                    if self.read_memory(address, &mut page)? == 0 {
                        poisoned.push((address, address + PAGE_BYTES));
                    }
                }
            }
            Ok(())
        })?;
        Ok(poisoned)
    }

    /// Copies what the file behind the mapping has, from the emitter's address to `end`. Holes are skipped: they are zero,
    /// and reading does not fill them. (hugetlbfs calls everything data; its holes are read, as zeros, and not filled either.)
    fn copy_file_to(
        &self,
        piece: &Piece,
        file: &BackingFile,
        end: u64,
        emitter: &mut Emitter<'_>,
    ) -> Result<(), CaptureError> {
        let failed = |source| read_error(self.pid, "read the file behind a mapping", source);
        while emitter.address() < end {
            let at = emitter.address();
            let offset = piece.file_offset(at);
            let run = file.next_run(offset, offset + (end - at)).map_err(failed)?;
            let run_end = at + (run.end - offset);
            if run.data {
                emitter.copy_to(run_end, |address, buffer| {
                    file.read(piece.file_offset(address), buffer)
                        .map_err(failed)
                })?;
            } else {
                emitter.zeros_to(run_end)?;
            }
        }
        Ok(())
    }

    fn read_memory(&self, address: u64, buffer: &mut [u8]) -> Result<usize, CaptureError> {
        self.memory
            .read(address, buffer)
            .map_err(|source| read_error(self.pid, "read the memory", source))
    }

    fn for_each_run(
        &self,
        piece: &Piece,
        mut each: impl FnMut(PageRun) -> Result<(), CaptureError>,
    ) -> Result<(), CaptureError> {
        let result = self.pagemap.for_each_run(piece.start, piece.end, |run| {
            each(run).map_err(RunError::Each)
        });
        result.map_err(|error| match error {
            RunError::Pagemap(source) => read_error(self.pid, "read the page map", source),
            RunError::Each(error) => error,
        })
    }
}

/// Tells an error of the page map from one of the function that gets the runs.
enum RunError {
    Pagemap(io::Error),
    Each(CaptureError),
}

impl From<io::Error> for RunError {
    fn from(error: io::Error) -> Self {
        Self::Pagemap(error)
    }
}

fn read_error(pid: i32, doing: &'static str, source: io::Error) -> CaptureError {
    CaptureError::Read { doing, pid, source }
}
