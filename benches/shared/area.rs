//! Memory that is measured: mappings of whole pages, at the same address in this process and in what it forks.
#![expect(
    unsafe_code,
    reason = "mmap and its relatives, and access to what they return"
)]
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use snapshot_format::PAGE_SIZE;
use uffd_restore::addr::{Addr, AddrRange};

/// A page table's worth: areas are aligned to it, and nothing else is mapped as near as that.
const MARGIN: usize = 2 << 20;

/// A mapping. It is unmapped when it is dropped.
#[derive(Debug)]
pub(crate) struct Area {
    reserved: usize,
    base: usize,
    pub(crate) pages: usize,
}

impl Area {
    /// Private memory, or all of a file shared.
    pub(crate) fn map(pages: usize, file: Option<&File>) -> Self {
        let kind = match file {
            Some(_) => libc::MAP_SHARED,
            None => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        };
        Self::place(pages, kind, file.map_or(-1, AsRawFd::as_raw_fd))
    }

    /// A private mapping of a file: what is written stays here.
    pub(crate) fn map_privately(pages: usize, file: &File) -> Self {
        Self::place(pages, libc::MAP_PRIVATE, file.as_raw_fd())
    }

    fn place(pages: usize, kind: i32, descriptor: RawFd) -> Self {
        let len = pages * PAGE_SIZE;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let nothing = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let null = std::ptr::null_mut();
        // SAFETY: without MAP_FIXED mmap touches no memory that exists.
        let reserved =
            unsafe { libc::mmap(null, len + 2 * MARGIN, libc::PROT_NONE, nothing, -1, 0) };
        assert_ne!(reserved, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        let reserved = reserved.expose_provenance();
        let at = std::ptr::with_exposed_provenance_mut((reserved + 1).next_multiple_of(MARGIN));
        let flags = kind | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range lies inside the reservation above, which nobody else knows.
        let base = unsafe { libc::mmap(at, len, rights, flags, descriptor, 0) };
        assert_ne!(base, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self {
            reserved,
            base: base.expose_provenance(),
            pages,
        }
    }

    /// All of it.
    pub(crate) fn range(&self) -> AddrRange {
        self.range_of(0, self.pages)
    }

    /// So many pages from one on.
    pub(crate) fn range_of(&self, page: usize, pages: usize) -> AddrRange {
        let start = self.base + page * PAGE_SIZE;
        AddrRange::at(Addr(start as u64), (pages * PAGE_SIZE) as u64)
    }

    /// The page that an address lies in.
    pub(crate) fn page_of(&self, address: Addr) -> usize {
        let offset = address.since(self.range().start);
        usize::try_from(offset).expect("64 bits") / PAGE_SIZE
    }

    /// A word of a page.
    fn word(&self, page: usize, word: usize) -> &AtomicU64 {
        assert!(page < self.pages && word < PAGE_SIZE / 8);
        let address = self.base + page * PAGE_SIZE + word * 8;
        let address = std::ptr::with_exposed_provenance::<AtomicU64>(address);
        // SAFETY: the address lies inside the mapping, which lives as long as `self`, and is aligned to a word; every value is
        // one, and the accesses are atomic.
        unsafe { &*address }
    }

    pub(crate) fn read(&self, page: usize, word: usize) -> u64 {
        self.word(page, word).load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, page: usize, word: usize, value: u64) {
        self.word(page, word).store(value, Ordering::Relaxed);
    }

    /// Adds up all words of a page.
    pub(crate) fn sum(&self, page: usize) -> u64 {
        let words = (0..PAGE_SIZE / 8).map(|word| self.read(page, word));
        words.fold(0, u64::wrapping_add)
    }

    /// Copies bytes to where a page begins.
    pub(crate) fn fill(&self, page: usize, bytes: &[u8]) {
        assert!(page * PAGE_SIZE + bytes.len() <= self.pages * PAGE_SIZE);
        let to = std::ptr::with_exposed_provenance_mut::<u8>(self.base + page * PAGE_SIZE);
        // SAFETY: the destination lies inside the mapping and no reference to it exists; other processes that map the same
        // file may see it half done, which is a part of what is measured, and is no access of this process.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
    }

    /// madvise(2) for a page.
    pub(crate) fn advise(&self, page: usize, advice: i32) {
        assert!(page < self.pages);
        let at = std::ptr::with_exposed_provenance_mut(self.base + page * PAGE_SIZE);
        // SAFETY: the page lies inside the mapping, whose content is only ever read by word.
        let result = unsafe { libc::madvise(at, PAGE_SIZE, advice) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        let at = std::ptr::with_exposed_provenance_mut(self.reserved);
        // SAFETY: the reservation is this value's own, and no reference into it outlives the value.
        unsafe { libc::munmap(at, self.pages * PAGE_SIZE + 2 * MARGIN) };
    }
}

/// A memfd of so many pages, all holes.
pub(crate) fn memfd(pages: usize) -> File {
    let file = File::from(memfd_create(c"bench", MFdFlags::MFD_CLOEXEC).expect("a memfd"));
    file.set_len((pages * PAGE_SIZE) as u64)
        .expect("its length");
    file
}
