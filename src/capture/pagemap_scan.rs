//! The ioctl PAGEMAP_SCAN of `<linux/fs.h>`, Linux 6.7: its binary interface, written down by hand because the headers of
//! distributions are older than their kernels.
#![expect(unsafe_code, reason = "one ioctl that nix does not have")]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

use super::pagemap::is_missing;

/// `PAGE_IS_*`: what the ioctl can tell about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Category {
    /// `PAGE_IS_PRESENT`
    Present = 1 << 3,
    /// `PAGE_IS_SWAPPED`: swapped out, or a marker such as UFFDIO_POISON leaves.
    Swapped = 1 << 4,
    /// `PAGE_IS_PFNZERO`: the kernel's page of zeros.
    ZeroPage = 1 << 5,
    /// `PAGE_IS_GUARD`: MADV_GUARD_INSTALL. Linux 6.15.
    Guard = 1 << 8,
}

const BASIC: u64 = Category::Present as u64 | Category::Swapped as u64 | Category::ZeroPage as u64;
const WITH_GUARDS: u64 = BASIC | Category::Guard as u64;
/// A page is reported if any of these applies. The zero page is also present, and need not be asked for.
const REPORTED: u64 = Category::Present as u64 | Category::Swapped as u64 | Category::Guard as u64;

/// `struct page_region`: a run of pages to which the same categories apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(super) struct ScannedRun {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) categories: u64,
}

/// `struct pm_scan_arg`
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<ScannedRun>() == 24 && align_of::<ScannedRun>() == 8);
const _: () = assert!(size_of::<ScanArgument>() == 96 && align_of::<ScanArgument>() == 8);
const _: () = assert!(std::mem::offset_of!(ScanArgument, walk_end) == 32);
const _: () = assert!(std::mem::offset_of!(ScanArgument, return_mask) == 88);
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::Ioctl = 0xc060_6610;
const _: () =
    assert!(nix::request_code_readwrite!(b'f', 16, size_of::<ScanArgument>()) == PAGEMAP_SCAN);

/// The categories that this kernel knows, None if it does not have the ioctl.
pub(super) fn known_categories(pagemap: &File) -> Option<u64> {
    // An empty range at an address that is never mapped: only the arguments are checked.
    let probe = |categories| !matches!(scan(pagemap, 0, 0, categories, &mut []), Err(errno) if is_missing(errno));
    [WITH_GUARDS, BASIC]
        .into_iter()
        .find(|&categories| probe(categories))
}

/// Reports the runs of `start..end` that are not absent, as many as fit into `runs`. Returns their number and the address
/// up to which the answer is complete.
pub(super) fn scan(
    pagemap: &File,
    start: u64,
    end: u64,
    categories: u64,
    runs: &mut [ScannedRun],
) -> Result<(usize, u64), Errno> {
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start,
        end,
        // The kernel takes pointers as numbers.
        vec: if runs.is_empty() {
            0
        } else {
            runs.as_mut_ptr().expose_provenance() as u64
        },
        vec_len: runs.len() as u64,
        category_anyof_mask: REPORTED & categories,
        return_mask: categories,
        ..ScanArgument::default()
    };
    // SAFETY: PAGEMAP_SCAN reads and writes one pm_scan_arg, whose layout is asserted above, and writes at most vec_len
    // page_regions to vec: exactly the borrowed slice, which is exclusively ours during the call.
    let found = unsafe {
        libc::ioctl(
            pagemap.as_raw_fd(),
            PAGEMAP_SCAN,
            std::ptr::from_mut(&mut argument),
        )
    };
    let found = Errno::result(found)?;
    Ok((
        usize::try_from(found).map_err(|_| Errno::ERANGE)?,
        argument.walk_end,
    ))
}
