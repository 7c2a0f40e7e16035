//! userfaultfd without the daemon: made and registered by a target, served by whoever fetches it.
#![expect(
    unsafe_code,
    reason = "pidfd_getfd(2) and UFFDIO_REGISTER with a mode that the daemon does not use"
)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use uffd_restore::addr::AddrRange;
use uffd_restore::uffd::{Features, Userfaultfd, abi, new_for_this_process};

/// A userfaultfd of this process with a range registered.
pub(crate) fn registered(range: AddrRange, mode: u64) -> Userfaultfd {
    let userfaultfd = new_for_this_process().expect("a userfaultfd");
    let features = abi::UFFD_FEATURE_MISSING_SHMEM
        | abi::UFFD_FEATURE_MINOR_SHMEM
        | abi::UFFD_FEATURE_THREAD_ID;
    userfaultfd
        .agree(Features::from_bits(features))
        .expect("Linux 5.14, for minor faults in shared memory");
    let mut argument = abi::UffdioRegister {
        range: abi::UffdioRange {
            start: range.start.0,
            len: range.len(),
        },
        mode,
        ioctls: 0,
    };
    let descriptor = userfaultfd.as_fd().as_raw_fd();
    // SAFETY: the structure is that of the request, which reads and writes nothing else. The range is memory of this process
    // that is accessed by word only, where any value is one.
    let result = unsafe { libc::ioctl(descriptor, abi::UFFDIO_REGISTER, &raw mut argument) };
    Errno::result(result).expect("to register");
    userfaultfd
}

/// A userfaultfd of another process.
pub(crate) fn fetch(process: BorrowedFd<'_>, number: RawFd) -> Userfaultfd {
    // SAFETY: plain numbers; the kernel reads and writes no memory of this process.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) };
    let descriptor = Errno::result(result).expect("the target's userfaultfd");
    let descriptor = RawFd::try_from(descriptor).expect("a descriptor");
    // SAFETY: the kernel has just created it and nobody else knows it.
    Userfaultfd::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
