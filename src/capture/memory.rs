//! Reading another process's memory.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use snapshot_format::PAGE_SIZE;

/// The memory of a stopped process.
#[derive(Debug)]
pub(super) struct RemoteMemory {
    tid: Pid,
    mem: File,
}

impl RemoteMemory {
    /// The memory of the process that thread `tid` belongs to.
    pub(super) fn open(tid: i32) -> io::Result<Self> {
        Ok(Self {
            tid: Pid::from_raw(tid),
            mem: File::open(format!("/proc/{tid}/mem"))?,
        })
    }

    /// Reads whole pages from a page-aligned address until `buffer` is full or a page cannot be read. Returns how many
    /// pages that were; none means that the first one cannot be read and never will be: its content is lost.
    ///
    /// Only for pages that have content: reading an absent one would make the kernel allocate it.
    ///
    /// # Errors
    /// Whatever does not concern a page but the process (it has ended) or us (not permitted).
    pub(super) fn read(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let base = usize::try_from(address).map_err(io::Error::other)?;
        let remote = [RemoteIoVec {
            base,
            len: buffer.len(),
        }];
        match process_vm_readv(self.tid, &mut [IoSliceMut::new(buffer)], &remote) {
            Ok(bytes) if bytes >= PAGE_SIZE => Ok(bytes / PAGE_SIZE),
            Err(errno @ (Errno::ESRCH | Errno::EPERM | Errno::ENOMEM | Errno::EINVAL)) => {
                Err(errno.into())
            }
            // Not even one page: PROT_NONE, perhaps.
            Ok(_) | Err(_) => self.read_by_force(address, buffer),
        }
    }

    /// `/proc/PID/mem` reads also what the process itself may not (FOLL_FORCE). It is slower, so it comes second.
    fn read_by_force(&self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self.mem.read_at(buffer, address) {
            // End of file is how this file says that the address space is gone.
            Ok(0) => Err(Errno::ESRCH.into()),
            Ok(bytes) => Ok(bytes / PAGE_SIZE),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT)) => Ok(0),
            Err(error) => Err(error),
        }
    }
}
