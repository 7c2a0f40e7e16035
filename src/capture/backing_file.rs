//! The file behind a mapping: finding it, and reading it without changing it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use nix::unistd::{Whence, lseek};
use snapshot_format::{PAGE_BYTES, PAGE_SIZE};

use super::error::CaptureError;
use super::maps::{Device, MapsLine};

/// The file behind a mapping, opened for us alone.
///
/// Opened anew, never a duplicate of the target's descriptor: SEEK_DATA moves the file position, which duplicates share.
#[derive(Debug)]
pub(super) struct BackingFile {
    file: File,
    len: u64,
}

/// A run of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileRun {
    /// One past the last offset of the run, page-aligned.
    pub(super) end: u64,
    /// True where the file has content, false in a hole, which reads as zeros.
    pub(super) data: bool,
}

impl BackingFile {
    /// Opens the file behind a mapping of process `pid` through `/proc/TID/map_files`, which also finds files that have
    /// neither a name nor a descriptor any more. Without the capability that this needs, a descriptor of the target for
    /// the same file does.
    pub(super) fn open(pid: i32, tid: i32, line: &MapsLine) -> Result<Self, CaptureError> {
        let path = PathBuf::from(format!(
            "/proc/{tid}/map_files/{:x}-{:x}",
            line.start, line.end
        ));
        let (path, metadata) = match std::fs::metadata(&path) {
            Ok(metadata) => (path, metadata),
            Err(source) => {
                find_descriptor(tid, line).ok_or_else(|| cannot_open(pid, line, source))?
            }
        };
        // Opening a device might do anything.
        if !metadata.is_file() {
            return Err(CaptureError::Device {
                pid,
                mapping: line.to_string(),
            });
        }
        let file = File::open(&path).map_err(|source| cannot_open(pid, line, source))?;
        Ok(Self {
            file,
            len: metadata.len(),
        })
    }

    /// What comes next in the file at the page-aligned offset `at`, up to `end` at most.
    pub(super) fn next_run(&self, at: u64, end: u64) -> io::Result<FileRun> {
        let data = match self.seek(at, Whence::SeekData)? {
            Some(data) if data < end => data / PAGE_BYTES * PAGE_BYTES,
            // Only a hole is left, or the end of the file lies before `at`.
            _ => return Ok(FileRun { end, data: false }),
        };
        if data > at {
            return Ok(FileRun {
                end: data,
                data: false,
            });
        }
        let hole = self.seek(at, Whence::SeekHole)?.unwrap_or(end);
        Ok(FileRun {
            end: hole.next_multiple_of(PAGE_BYTES).min(end),
            data: true,
        })
    }

    /// None stands for ENXIO: nothing of that kind is left.
    fn seek(&self, at: u64, whence: Whence) -> io::Result<Option<u64>> {
        let at = i64::try_from(at).map_err(io::Error::other)?;
        match lseek(&self.file, at, whence) {
            Ok(found) => u64::try_from(found).map(Some).map_err(io::Error::other),
            Err(Errno::ENXIO) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Reads whole pages at the page-aligned offset `at` until `buffer` is full or a page cannot be read; returns how many
    /// pages that were. None: the first one cannot be read, its content is lost.
    ///
    /// What lies beyond the end of the file is zero: in the page that contains the end the mapping shows zeros as well, and
    /// pages after that cannot be accessed by anybody (SIGBUS), so they have no content that could be wrong.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let here = at + done as u64;
            match self.file.read_at(&mut buffer[done..], here) {
                Ok(0) if here >= self.len => {
                    buffer[done..].fill(0);
                    done = buffer.len();
                }
                Ok(0) => return Err(io::Error::other("the file shrank while it was being read")),
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A memory error, or a disk's: what was read before it is good.
                Err(error) if is_lost(&error) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done / PAGE_SIZE)
    }
}

/// EIO, or EHWPOISON as some file systems call a memory error.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EHWPOISON))
}

fn cannot_open(pid: i32, line: &MapsLine, source: io::Error) -> CaptureError {
    CaptureError::OpenBacking {
        pid,
        mapping: line.to_string(),
        source,
    }
}

/// A descriptor of the target for the file of this device and inode.
fn find_descriptor(tid: i32, line: &MapsLine) -> Option<(PathBuf, Metadata)> {
    let descriptors =
        std::fs::read_dir(Path::new("/proc").join(tid.to_string()).join("fd")).ok()?;
    descriptors.flatten().find_map(|entry| {
        let path = entry.path();
        let metadata = std::fs::metadata(&path).ok()?;
        let device = Device {
            major: major(metadata.dev()),
            minor: minor(metadata.dev()),
        };
        (metadata.ino() == line.inode && device == line.device && metadata.is_file())
            .then_some((path, metadata))
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn runs_and_content_of_a_file_with_holes() {
        let mut file = tempfile::tempfile_in("/dev/shm").expect("test data is good");
        file.write_all_at(&[7; 4096], 2 * 4096)
            .expect("test data is good");
        file.write_all_at(&[9; 100], 5 * 4096)
            .expect("test data is good");
        file.flush().expect("test data is good");
        let len = file.metadata().expect("test data is good").len();
        let backing = BackingFile { file, len };
        let end = 8 * 4096;
        let mut at = 0;
        let mut runs = Vec::new();
        while at < end {
            let run = backing.next_run(at, end).expect("test data is good");
            at = run.end;
            runs.push((run.end / 4096, run.data));
        }
        assert_eq!(
            runs,
            [(2, false), (3, true), (5, false), (6, true), (8, false)]
        );
        let mut buffer = vec![0xff; 8 * 4096];
        assert_eq!(backing.read(0, &mut buffer).expect("test data is good"), 8);
        assert_eq!(buffer[2 * 4096..3 * 4096], [7; 4096]);
        assert_eq!(
            (
                buffer[5 * 4096],
                buffer[5 * 4096 + 99],
                buffer[5 * 4096 + 100]
            ),
            (9, 9, 0)
        );
        assert_eq!(buffer[6 * 4096..], [0; 2 * 4096]);
        assert_eq!(
            backing
                .next_run(3 * 4096, 4 * 4096)
                .expect("test data is good"),
            FileRun {
                end: 4 * 4096,
                data: false
            }
        );
    }

    #[test]
    fn a_file_that_shrinks_is_an_error_not_zeros() {
        let file = tempfile::tempfile_in("/dev/shm").expect("test data is good");
        let backing = BackingFile { file, len: 4096 };
        assert!(backing.read(0, &mut [0; 4096]).is_err());
    }
}
