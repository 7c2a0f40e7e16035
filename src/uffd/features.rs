//! What a kernel can do, and asking it.
#![expect(
    unsafe_code,
    reason = "userfaultfd(2) and an ioctl that takes a number"
)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::abi;
use super::descriptor::Userfaultfd;

/// A set of `UFFD_FEATURE_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features(u64);

impl Features {
    /// The four events.
    pub const EVENTS: Self = Self(
        abi::UFFD_FEATURE_EVENT_FORK
            | abi::UFFD_FEATURE_EVENT_REMAP
            | abi::UFFD_FEATURE_EVENT_REMOVE
            | abi::UFFD_FEATURE_EVENT_UNMAP,
    );
    /// Children are told of, each with a descriptor.
    pub const FORK: Self = Self(abi::UFFD_FEATURE_EVENT_FORK);
    /// Faults say which thread it was.
    pub const THREAD_ID: Self = Self(abi::UFFD_FEATURE_THREAD_ID);
    /// Shared memory.
    pub const SHMEM: Self = Self(abi::UFFD_FEATURE_MISSING_SHMEM);
    /// hugetlbfs.
    pub const HUGETLBFS: Self = Self(abi::UFFD_FEATURE_MISSING_HUGETLBFS);
    /// `UFFDIO_POISON`.
    pub const POISON: Self = Self(abi::UFFD_FEATURE_POISON);

    /// Every bit with its name, in the kernel's order.
    pub const NAMES: [(u64, &'static str); 17] = [
        (abi::UFFD_FEATURE_PAGEFAULT_FLAG_WP, "PAGEFAULT_FLAG_WP"),
        (abi::UFFD_FEATURE_EVENT_FORK, "EVENT_FORK"),
        (abi::UFFD_FEATURE_EVENT_REMAP, "EVENT_REMAP"),
        (abi::UFFD_FEATURE_EVENT_REMOVE, "EVENT_REMOVE"),
        (abi::UFFD_FEATURE_MISSING_HUGETLBFS, "MISSING_HUGETLBFS"),
        (abi::UFFD_FEATURE_MISSING_SHMEM, "MISSING_SHMEM"),
        (abi::UFFD_FEATURE_EVENT_UNMAP, "EVENT_UNMAP"),
        (abi::UFFD_FEATURE_SIGBUS, "SIGBUS"),
        (abi::UFFD_FEATURE_THREAD_ID, "THREAD_ID"),
        (abi::UFFD_FEATURE_MINOR_HUGETLBFS, "MINOR_HUGETLBFS"),
        (abi::UFFD_FEATURE_MINOR_SHMEM, "MINOR_SHMEM"),
        (abi::UFFD_FEATURE_EXACT_ADDRESS, "EXACT_ADDRESS"),
        (abi::UFFD_FEATURE_WP_HUGETLBFS_SHMEM, "WP_HUGETLBFS_SHMEM"),
        (abi::UFFD_FEATURE_WP_UNPOPULATED, "WP_UNPOPULATED"),
        (abi::UFFD_FEATURE_POISON, "POISON"),
        (abi::UFFD_FEATURE_WP_ASYNC, "WP_ASYNC"),
        (abi::UFFD_FEATURE_MOVE, "MOVE"),
    ];

    /// From the kernel's number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As the kernel's number.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those of `self` that are not in `have`.
    #[must_use]
    pub const fn missing_in(self, have: Self) -> Self {
        Self(self.0 & !have.0)
    }

    /// Those in both.
    #[must_use]
    pub const fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// True when all of `other` are here.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        other.missing_in(self).0 == 0
    }

    /// The names of those that are set.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .into_iter()
            .filter(move |(bit, _)| self.0 & bit != 0)
            .map(|(_, name)| name)
    }
}

/// Why this process cannot have a userfaultfd.
#[derive(Debug)]
pub enum NewError {
    /// There is neither `/dev/userfaultfd` nor the system call.
    NotInKernel,
    /// Both are there and forbidden: what opening the device said.
    Forbidden(io::Error),
    /// Another error.
    Other(Errno),
}

/// A userfaultfd on this process, for asking what the kernel can do: `/dev/userfaultfd`, or else the system call.
///
/// # Errors
/// [`NewError`].
pub fn new_for_this_process() -> Result<Userfaultfd, NewError> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/userfaultfd");
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    let made = match &device {
        // SAFETY: the argument of USERFAULTFD_IOC_NEW is a number of flags, not a pointer.
        Ok(device) => Errno::result(unsafe {
            libc::ioctl(device.as_raw_fd(), abi::USERFAULTFD_IOC_NEW, flags)
        }),
        Err(_) => {
            // SAFETY: userfaultfd(2) takes flags and touches no memory of ours.
            let made = unsafe { libc::syscall(libc::SYS_userfaultfd, flags) };
            Errno::result(made).and_then(|made| i32::try_from(made).map_err(|_| Errno::ERANGE))
        }
    };
    match (made, device) {
        (Ok(descriptor), _) => {
            // SAFETY: the kernel just opened this descriptor for us and nobody else knows it.
            let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
            Ok(Userfaultfd::from(owned))
        }
        (Err(Errno::ENOSYS), _) => Err(NewError::NotInKernel),
        (Err(Errno::EPERM), Err(error)) => Err(NewError::Forbidden(error)),
        (Err(errno), _) => Err(NewError::Other(errno)),
    }
}

impl Features {
    /// The features of this kernel, whoever asks: a descriptor for a throw-away agreement, because one that failed or
    /// asked for nothing cannot be used for anything else.
    ///
    /// # Errors
    /// [`NewError`].
    pub fn of_this_kernel() -> Result<Self, NewError> {
        new_for_this_process()?
            .agree(Self::default())
            .map_err(NewError::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signal_feature_is_never_among_those_asked_for() {
        let asked = Features::EVENTS
            .and(Features::THREAD_ID)
            .and(Features::SHMEM)
            .and(Features::HUGETLBFS)
            .and(Features::POISON);
        assert_eq!(asked.bits() & abi::UFFD_FEATURE_SIGBUS, 0);
    }

    #[test]
    fn names_of_bits() {
        let names: Vec<_> = Features::from_bits(0x4002).names().collect();
        assert_eq!(names, ["EVENT_FORK", "POISON"]);
        for (position, (bit, _)) in Features::NAMES.into_iter().enumerate() {
            assert_eq!(bit, 1 << position);
        }
    }
}
