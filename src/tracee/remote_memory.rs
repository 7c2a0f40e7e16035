//! The target's memory, for small things: arguments and results of system calls, what a pointer points to.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::error::TraceError;
use super::remote_call::{RemoteCallError, RemoteCaller};

/// `/proc/TID/mem`: reads and writes the memory of a stopped process.
///
/// Not process_vm_readv(2), because that waits for memory that a userfaultfd still owes: for ever, if it is us who should
/// deliver it. Here such memory is an error (EIO).
#[derive(Debug)]
pub struct TargetMemory {
    file: File,
    tid: i32,
}

impl TargetMemory {
    /// Opens the memory of the process that a thread belongs to.
    ///
    /// # Errors
    /// [`TraceError::Proc`], [`TraceError::Ended`].
    pub fn open(tid: i32) -> Result<Self, TraceError> {
        let path = path(tid);
        match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => Ok(Self { file, tid }),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(TraceError::Ended { pid: tid })
            }
            Err(source) => Err(TraceError::Proc { path, source }),
        }
    }

    pub(super) fn tid(&self) -> i32 {
        self.tid
    }

    /// Fills a buffer from an address on.
    ///
    /// # Errors
    /// [`TraceError::Proc`] when not all of it is mapped and present or zero; [`TraceError::Ended`].
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), TraceError> {
        self.file
            .read_exact_at(buffer, address)
            .map_err(|source| self.failed(source))
    }

    /// A word of 8 bytes.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn read_word(&self, address: u64) -> Result<u64, TraceError> {
        let mut bytes = [0; 8];
        self.read(address, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes bytes from an address on.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), TraceError> {
        self.file
            .write_all_at(bytes, address)
            .map_err(|source| self.failed(source))
    }

    /// The kernel has nothing to read or write when the address space is gone.
    fn failed(&self, source: io::Error) -> TraceError {
        match source.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::WriteZero => TraceError::Ended { pid: self.tid },
            _ => TraceError::Proc {
                path: path(self.tid),
                source,
            },
        }
    }
}

fn path(tid: i32) -> PathBuf {
    PathBuf::from(format!("/proc/{tid}/mem"))
}

/// Memory that was mapped into the target for the arguments of system calls, and is unmapped when this is dropped. It
/// holds on to the caller, which can be used through [`Self::caller`] and [`Self::call`].
#[derive(Debug)]
pub struct Scratch<'c, 'p> {
    caller: &'c mut RemoteCaller<'p>,
    address: u64,
    len: u64,
    mapped: bool,
}

impl<'p> RemoteCaller<'p> {
    /// Maps `len` bytes (made whole pages) of zeros into the target.
    ///
    /// # Errors
    /// The kernel's refusal (ENOMEM), or that the target is gone.
    pub fn scratch(&mut self, len: u64) -> Result<Scratch<'_, 'p>, RemoteCallError> {
        const PAGE: u64 = 4096;
        let len = len.max(1).next_multiple_of(PAGE);
        let address = self.map_anonymous(
            0,
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE,
        )?;
        Ok(Scratch {
            caller: self,
            address,
            len,
            mapped: true,
        })
    }
}

impl<'p> Scratch<'_, 'p> {
    /// Where it lies in the target.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Who makes the calls.
    pub fn caller(&mut self) -> &mut RemoteCaller<'p> {
        self.caller
    }

    /// [`RemoteCaller::call`].
    ///
    /// # Errors
    /// The same.
    pub fn call(&mut self, number: i64, arguments: [u64; 6]) -> Result<u64, RemoteCallError> {
        self.caller.call(number, arguments)
    }

    /// Writes bytes at an offset.
    ///
    /// # Errors
    /// Those of [`TargetMemory::write`]; [`TraceError::Proc`] beyond the end.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), TraceError> {
        let address = self.place(offset, bytes.len())?;
        self.caller.memory().write(address, bytes)
    }

    /// Reads bytes at an offset.
    ///
    /// # Errors
    /// Those of [`TargetMemory::read`]; [`TraceError::Proc`] beyond the end.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), TraceError> {
        let address = self.place(offset, buffer.len())?;
        self.caller.memory().read(address, buffer)
    }

    fn place(&self, offset: u64, len: usize) -> Result<u64, TraceError> {
        let fits = offset
            .checked_add(len as u64)
            .is_some_and(|end| end <= self.len);
        if fits {
            Ok(self.address + offset)
        } else {
            Err(TraceError::Proc {
                path: path(self.caller.memory().tid()),
                source: io::Error::new(ErrorKind::InvalidInput, "beyond the scratch memory"),
            })
        }
    }

    /// Unmaps it, and says whether that worked.
    ///
    /// # Errors
    /// Those of [`RemoteCaller::unmap`].
    pub fn release(mut self) -> Result<(), RemoteCallError> {
        self.unmap()
    }

    fn unmap(&mut self) -> Result<(), RemoteCallError> {
        if std::mem::take(&mut self.mapped) {
            self.caller.unmap(self.address, self.len)
        } else {
            Ok(())
        }
    }
}

impl Drop for Scratch<'_, '_> {
    /// The way out of errors. A failure has nobody left to go to; a target that is gone has no memory left.
    fn drop(&mut self) {
        drop(self.unmap());
    }
}
