//! The binary interface of `<linux/userfaultfd.h>`: structures, constants and ioctl numbers, by hand.
//!
//! Names are the kernel's. Every size, offset and number is asserted here at compile time, and compared with the system's
//! own header by a test (`tests/kernel_header.rs`). What Linux 4.11 had is all here; later additions are marked with
//! the version they came in.
//!
//! `UFFD_EVENT_EXIT` (0x17) and `UFFD_FEATURE_EVENT_EXIT` (bit 7) of the first 4.11 candidates were never released, and bit 7
//! has since 4.14 been [`UFFD_FEATURE_SIGBUS`], which replaces messages by signals: it must never be asked for. The end of a
//! target is told by its pidfd, and by `ESRCH` from a probe ([`super::Userfaultfd::probe`]).

/// `UFFD_API`: the version of the interface.
pub const UFFD_API: u64 = 0xaa;

/// Events that [`UffdMsg::event`] may be.
pub const UFFD_EVENT_PAGEFAULT: u8 = 0x12;
/// A child was forked: [`UffdMsg::word`] 0 has its userfaultfd, already open in the reader.
pub const UFFD_EVENT_FORK: u8 = 0x13;
/// mremap(2) moved memory.
pub const UFFD_EVENT_REMAP: u8 = 0x14;
/// madvise(2) drops pages.
pub const UFFD_EVENT_REMOVE: u8 = 0x15;
/// A range was unmapped.
pub const UFFD_EVENT_UNMAP: u8 = 0x16;

/// The fault was a write.
pub const UFFD_PAGEFAULT_FLAG_WRITE: u64 = 1 << 0;
/// A write to a protected page (5.7).
pub const UFFD_PAGEFAULT_FLAG_WP: u64 = 1 << 1;
/// The page is in the page cache and only not mapped (5.13).
pub const UFFD_PAGEFAULT_FLAG_MINOR: u64 = 1 << 2;

/// 5.7
pub const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
/// Tell about fork(2). Needs CAP_SYS_PTRACE.
pub const UFFD_FEATURE_EVENT_FORK: u64 = 1 << 1;
/// Tell about mremap(2).
pub const UFFD_FEATURE_EVENT_REMAP: u64 = 1 << 2;
/// Tell about dropped pages.
pub const UFFD_FEATURE_EVENT_REMOVE: u64 = 1 << 3;
/// hugetlbfs memory can be registered.
pub const UFFD_FEATURE_MISSING_HUGETLBFS: u64 = 1 << 4;
/// Shared memory can be registered.
pub const UFFD_FEATURE_MISSING_SHMEM: u64 = 1 << 5;
/// Tell about munmap(2).
pub const UFFD_FEATURE_EVENT_UNMAP: u64 = 1 << 6;
/// No messages, SIGBUS instead (4.14). Never asked for.
pub const UFFD_FEATURE_SIGBUS: u64 = 1 << 7;
/// Faults say which thread it was (4.14).
pub const UFFD_FEATURE_THREAD_ID: u64 = 1 << 8;
/// 5.13
pub const UFFD_FEATURE_MINOR_HUGETLBFS: u64 = 1 << 9;
/// 5.14
pub const UFFD_FEATURE_MINOR_SHMEM: u64 = 1 << 10;
/// 5.18
pub const UFFD_FEATURE_EXACT_ADDRESS: u64 = 1 << 11;
/// 5.19
pub const UFFD_FEATURE_WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
/// 6.4
pub const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
/// `UFFDIO_POISON` works (6.6).
pub const UFFD_FEATURE_POISON: u64 = 1 << 14;
/// 6.7
pub const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
/// 6.8
pub const UFFD_FEATURE_MOVE: u64 = 1 << 16;

/// Register for pages that are not there.
pub const UFFDIO_REGISTER_MODE_MISSING: u64 = 1 << 0;
/// Register for writes to protected pages (5.7).
pub const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
/// Register for pages that are in the page cache only (5.13).
pub const UFFDIO_REGISTER_MODE_MINOR: u64 = 1 << 2;

/// Install and wake nobody.
pub const UFFDIO_COPY_MODE_DONTWAKE: u64 = 1 << 0;
/// Install write-protected (5.7).
pub const UFFDIO_COPY_MODE_WP: u64 = 1 << 1;
/// Install and wake nobody.
pub const UFFDIO_ZEROPAGE_MODE_DONTWAKE: u64 = 1 << 0;
/// Install and wake nobody (5.13).
pub const UFFDIO_CONTINUE_MODE_DONTWAKE: u64 = 1 << 0;
/// Install and wake nobody (6.6).
pub const UFFDIO_POISON_MODE_DONTWAKE: u64 = 1 << 0;

/// A message, as read(2) returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct UffdMsg {
    /// `UFFD_EVENT_*`.
    pub event: u8,
    reserved1: u8,
    reserved2: u16,
    reserved3: u32,
    /// The union `arg`: flags, address, thread id of a fault; descriptor of a fork; from, to, len of a move; start, end.
    pub word: [u64; 3],
}

/// `struct uffdio_api`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UffdioApi {
    /// [`UFFD_API`].
    pub api: u64,
    /// Asked for; then what the kernel has.
    pub features: u64,
    /// Which ioctls work on the descriptor, a bit each.
    pub ioctls: u64,
}

/// `struct uffdio_range`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UffdioRange {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

/// `struct uffdio_register`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UffdioRegister {
    /// What to register.
    pub range: UffdioRange,
    /// `UFFDIO_REGISTER_MODE_*`.
    pub mode: u64,
    /// Which ioctls work in the range, a bit each.
    pub ioctls: u64,
}

/// `struct uffdio_copy`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UffdioCopy {
    /// Where to, in the target.
    pub dst: u64,
    /// Where from, in the caller.
    pub src: u64,
    /// Length in bytes.
    pub len: u64,
    /// `UFFDIO_COPY_MODE_*`.
    pub mode: u64,
    /// Bytes done, or a negative error.
    pub copy: i64,
}

/// `struct uffdio_zeropage`, and with other names of the same fields `uffdio_continue` and `uffdio_poison`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub struct UffdioFill {
    /// What to fill.
    pub range: UffdioRange,
    /// `UFFDIO_*_MODE_*`.
    pub mode: u64,
    /// Bytes done, or a negative error: `zeropage`, `mapped`, `updated`.
    pub done: i64,
}

/// `USERFAULTFD_IOC_NEW` on `/dev/userfaultfd` (6.1); the argument is open flags.
pub const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;
/// Agree on version and features.
pub const UFFDIO_API: libc::Ioctl = 0xc018_aa3f;
/// Register a range.
pub const UFFDIO_REGISTER: libc::Ioctl = 0xc020_aa00;
/// Unregister a range; wakes those who wait in it.
pub const UFFDIO_UNREGISTER: libc::Ioctl = 0x8010_aa01;
/// Wake those who wait in a range.
pub const UFFDIO_WAKE: libc::Ioctl = 0x8010_aa02;
/// Install pages with content.
pub const UFFDIO_COPY: libc::Ioctl = 0xc028_aa03;
/// Install pages of zeros.
pub const UFFDIO_ZEROPAGE: libc::Ioctl = 0xc020_aa04;
/// Map what the page cache has (5.13).
pub const UFFDIO_CONTINUE: libc::Ioctl = 0xc020_aa07;
/// Make accesses fail with SIGBUS (6.6).
pub const UFFDIO_POISON: libc::Ioctl = 0xc020_aa08;

const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<UffdMsg>() == 32 && align_of::<UffdMsg>() == 8);
    assert!(offset_of!(UffdMsg, word) == 8);
    assert!(size_of::<UffdioApi>() == 24 && offset_of!(UffdioApi, ioctls) == 16);
    assert!(size_of::<UffdioRange>() == 16 && offset_of!(UffdioRange, len) == 8);
    assert!(size_of::<UffdioRegister>() == 32 && offset_of!(UffdioRegister, mode) == 16);
    assert!(size_of::<UffdioCopy>() == 40 && offset_of!(UffdioCopy, copy) == 32);
    assert!(size_of::<UffdioFill>() == 32 && offset_of!(UffdioFill, done) == 24);
    assert!(nix::request_code_none!(0xaa, 0x00) == USERFAULTFD_IOC_NEW);
    assert!(nix::request_code_readwrite!(0xaa, 0x3f, size_of::<UffdioApi>()) == UFFDIO_API);
    assert!(
        nix::request_code_readwrite!(0xaa, 0x00, size_of::<UffdioRegister>()) == UFFDIO_REGISTER
    );
    // The kernel declares these two with the direction the wrong way round, and keeps them so.
    assert!(nix::request_code_read!(0xaa, 0x01, size_of::<UffdioRange>()) == UFFDIO_UNREGISTER);
    assert!(nix::request_code_read!(0xaa, 0x02, size_of::<UffdioRange>()) == UFFDIO_WAKE);
    assert!(nix::request_code_readwrite!(0xaa, 0x03, size_of::<UffdioCopy>()) == UFFDIO_COPY);
    assert!(nix::request_code_readwrite!(0xaa, 0x04, size_of::<UffdioFill>()) == UFFDIO_ZEROPAGE);
    assert!(nix::request_code_readwrite!(0xaa, 0x07, size_of::<UffdioFill>()) == UFFDIO_CONTINUE);
    assert!(nix::request_code_readwrite!(0xaa, 0x08, size_of::<UffdioFill>()) == UFFDIO_POISON);
};
