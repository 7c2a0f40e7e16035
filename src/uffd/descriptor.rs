//! A userfaultfd and what can be done with it.
//!
//! None of these operations can harm this process. They install pages in the *other* address space, and only where
//! nothing was; what was there before has been given up when the range was registered, by whoever did that.
#![expect(unsafe_code, reason = "the ioctls and read(2) of userfaultfd")]

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};

use super::abi::{
    self, UFFDIO_API, UFFDIO_CONTINUE, UFFDIO_COPY, UFFDIO_POISON, UFFDIO_REGISTER,
    UFFDIO_UNREGISTER, UFFDIO_WAKE, UFFDIO_ZEROPAGE, UffdMsg, UffdioApi, UffdioCopy, UffdioFill,
    UffdioRange, UffdioRegister,
};
use super::features::Features;
use super::message::Message;
use super::outcome::{Outcome, Stop};
use super::receipt::{Put, Receipt};
use crate::addr::{Addr, AddrRange};

const LARGEST_PAGE: NonZeroUsize = NonZeroUsize::new(2 << 20).expect("not zero");

/// A userfaultfd of some address space, usually another process's. It must be non-blocking.
#[derive(Debug)]
pub struct Userfaultfd(OwnedFd);

/// What can be done in a range that was registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    ioctls: u64,
}

impl Registered {
    /// `UFFDIO_ZEROPAGE` works in the range; hugetlbfs does not have it.
    #[must_use]
    pub fn zeropage(self) -> bool {
        self.ioctls & (1 << 0x04) != 0
    }

    /// `UFFDIO_POISON` works in the range (Linux 6.6).
    #[must_use]
    pub fn poison(self) -> bool {
        self.ioctls & (1 << 0x08) != 0
    }
}

/// Why nothing could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// A FORK waits and there is no free descriptor for the child's userfaultfd (EMFILE, ENFILE). Everything in the target
    /// that changes its address space stands still until there is.
    NoDescriptor(Errno),
    /// Anything else.
    Other(Errno),
}

impl From<OwnedFd> for Userfaultfd {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor)
    }
}

impl AsRawFd for Userfaultfd {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Userfaultfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Userfaultfd {
    /// What `/proc/self/fd` says of one. No file can be called so: their names begin with a slash.
    pub const LINK: &'static str = "anon_inode:[userfaultfd]";
    /// Most messages that one [`Self::read`] takes.
    pub const READ_AT_ONCE: usize = 64;

    /// Agrees with the kernel on version and features; works once for a descriptor. Returns what the kernel has.
    ///
    /// # Errors
    /// EINVAL for features that the kernel does not have, EPERM for `UFFD_FEATURE_EVENT_FORK` without CAP_SYS_PTRACE.
    pub fn agree(&self, features: Features) -> Result<Features, Errno> {
        let mut argument = UffdioApi {
            api: abi::UFFD_API,
            features: features.bits(),
            ioctls: 0,
        };
        self.control(UFFDIO_API, &mut argument)?;
        Ok(Features::from_bits(argument.features))
    }

    /// Registers a range for missing pages.
    ///
    /// # Errors
    /// EINVAL for memory that cannot be registered, EBUSY when another userfaultfd has a part of it, ENOMEM when the address
    /// space is gone or has too many mappings.
    pub fn register(&self, range: AddrRange) -> Result<Registered, Errno> {
        let mut argument = UffdioRegister {
            range: raw(range),
            mode: abi::UFFDIO_REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        self.control(UFFDIO_REGISTER, &mut argument)?;
        Ok(Registered {
            ioctls: argument.ioctls,
        })
    }

    /// Unregisters a range. Those who wait there go on, and see zeros.
    ///
    /// # Errors
    /// ENOMEM when the address space is gone, EINVAL for memory that cannot be registered at all.
    pub fn unregister(&self, range: AddrRange) -> Result<(), Errno> {
        self.control(UFFDIO_UNREGISTER, &mut raw(range))
    }

    /// Wakes those who wait for pages of a range. Pages that are not there are asked for again.
    ///
    /// # Errors
    /// EINVAL for an empty range or one beyond the address space.
    pub fn wake(&self, range: AddrRange) -> Result<(), Errno> {
        self.control(UFFDIO_WAKE, &mut raw(range))
    }

    /// Installs pages and wakes those who wait for them: as many as there are bytes for. What came of it stands in the receipt as well,
    /// whatever becomes of this process.
    pub fn install(&self, range: AddrRange, put: Put<'_>, receipt: &Receipt) -> Outcome {
        let (request, argument) = receipt.begin(range, put);
        // SAFETY: the receipt has room for the structure of this request, in atomic words to which nobody has other references;
        // UFFDIO_COPY reads from `src`, which are the bytes that were given.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        let result = Errno::result(result).map(drop);
        Outcome::of(result, range.len(), receipt.field())
    }

    /// Installs pages with this content and wakes those who wait for them.
    pub fn copy(&self, at: Addr, content: &[u8]) -> Outcome {
        self.copy_from(at, content.as_ptr().addr() as u64, content.len() as u64)
    }

    fn copy_from(&self, at: Addr, source: u64, len: u64) -> Outcome {
        let mut argument = UffdioCopy {
            dst: at.0,
            src: source,
            len,
            mode: 0,
            copy: 0,
        };
        let result = self.control(UFFDIO_COPY, &mut argument);
        Outcome::of(result, len, argument.copy)
    }

    /// Installs zero pages and wakes those who wait for them. Not for hugetlbfs.
    pub fn zero(&self, range: AddrRange) -> Outcome {
        self.fill(UFFDIO_ZEROPAGE, range)
    }

    /// Makes every access to a range fail with SIGBUS (EFAULT in system calls), and wakes those who wait (Linux 6.6).
    pub fn poison(&self, range: AddrRange) -> Outcome {
        self.fill(UFFDIO_POISON, range)
    }

    /// Maps what the page cache has for a range of shared memory, and wakes those who wait (Linux 5.13).
    pub fn map_cached(&self, range: AddrRange) -> Outcome {
        self.fill(UFFDIO_CONTINUE, range)
    }

    fn fill(&self, request: libc::Ioctl, range: AddrRange) -> Outcome {
        let mut argument = UffdioFill {
            range: raw(range),
            mode: 0,
            done: 0,
        };
        let result = self.control(request, &mut argument);
        Outcome::of(result, range.len(), argument.done)
    }

    /// Whether the page at `at` could be installed, without installing anything: `None` if it could, or is there already, or
    /// what stands against it. It is a copy from an address that is mapped nowhere, which fails only after the kernel has
    /// looked at the destination.
    ///
    /// At an address that nobody maps it tells whether the address space still exists: [`Stop::Unmapped`], or
    /// [`Stop::Changing`], or [`Stop::Gone`].
    #[must_use]
    pub fn probe(&self, at: Addr, page_bytes: u64) -> Option<Stop> {
        match self.copy_from(at, unreadable(), page_bytes).stop {
            None | Some(Stop::Fault | Stop::Present) => None,
            other => other,
        }
    }

    /// Takes the messages that wait, as many as one call returns. None means that there are none.
    ///
    /// # Errors
    /// [`ReadError`]. Nothing has been taken then.
    pub fn read(&self, messages: &mut Vec<Message>) -> Result<usize, ReadError> {
        let mut raw = [UffdMsg::default(); Self::READ_AT_ONCE];
        // SAFETY: read(2) writes at most size_of_val(&raw) bytes to the array, which is exclusively borrowed; a UffdMsg
        // consists of integers, so whatever the kernel writes is a value.
        let got = unsafe {
            libc::read(
                self.0.as_raw_fd(),
                raw.as_mut_ptr().cast(),
                size_of_val(&raw),
            )
        };
        let bytes = match Errno::result(got) {
            Ok(bytes) => usize::try_from(bytes).unwrap_or(0),
            Err(Errno::EAGAIN) => return Ok(0),
            Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => {
                return Err(ReadError::NoDescriptor(errno));
            }
            Err(errno) => return Err(ReadError::Other(errno)),
        };
        let count = bytes / size_of::<UffdMsg>();
        messages.extend(raw.iter().take(count).copied().map(Message::from));
        Ok(count)
    }

    /// Every request here takes a pointer to its own structure, which the kernel reads and writes.
    fn control<T: Argument>(&self, request: libc::Ioctl, argument: &mut T) -> Result<(), Errno> {
        // SAFETY: `Argument` is implemented for the structures of these requests alone, and the callers pass the one that
        // belongs to the request; the kernel accesses nothing else of this process than the structure, except that
        // UFFDIO_COPY reads from `src`, which may be any address: a bad one is EFAULT.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), request, std::ptr::from_mut(argument)) };
        Errno::result(result).map(drop)
    }
}

/// An address of ours from which nothing can be read: a reservation that is never unmapped, as long as the largest page.
fn unreadable() -> u64 {
    static RESERVED: OnceLock<u64> = OnceLock::new();
    *RESERVED.get_or_init(|| {
        // SAFETY: without MAP_FIXED mmap touches no memory that exists, and nobody accesses what has no rights.
        let reserved = unsafe {
            mmap_anonymous(
                None,
                LARGEST_PAGE,
                ProtFlags::PROT_NONE,
                MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
            )
        };
        // Without address space for it, the first pages: the kernel keeps them free (vm.mmap_min_addr).
        reserved.map_or(0x1000, |address| address.as_ptr().addr() as u64)
    })
}

/// The structures that the kernel defines for its requests.
trait Argument {}
impl Argument for UffdioApi {}
impl Argument for UffdioRange {}
impl Argument for UffdioRegister {}
impl Argument for UffdioCopy {}
impl Argument for UffdioFill {}

fn raw(range: AddrRange) -> UffdioRange {
    UffdioRange {
        start: range.start.0,
        len: range.len(),
    }
}
