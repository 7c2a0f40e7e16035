//! Memory to experiment with: a mapping, and safe access to its words.
#![expect(unsafe_code, reason = "mmap and its relatives")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

pub const PAGE: usize = 4096;
pub const HUGE_PAGE: usize = 2 << 20;

/// A mapping of whole pages that stays until the process ends.
#[derive(Debug, Clone, Copy)]
pub struct Area {
    base: usize,
    pub pages: usize,
}

impl Area {
    pub fn private(pages: usize) -> Self {
        Self::map(pages, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0)
    }

    pub fn shared(pages: usize) -> Self {
        Self::map(pages, libc::MAP_SHARED | libc::MAP_ANONYMOUS, None, 0)
    }

    pub fn map(pages: usize, flags: i32, file: Option<BorrowedFd<'_>>, offset: usize) -> Self {
        let descriptor = file.map_or(-1, |file| file.as_raw_fd());
        let offset = i64::try_from(offset).expect("offset");
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED mmap touches no memory that exists.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages * PAGE,
                rights,
                flags,
                descriptor,
                offset,
            )
        };
        assert_ne!(
            base,
            libc::MAP_FAILED,
            "mmap: {}",
            io::Error::last_os_error()
        );
        Self {
            base: base.expose_provenance(),
            pages,
        }
    }

    pub fn address(&self) -> u64 {
        self.base as u64
    }

    /// `start-end` as a selector.
    pub fn range(&self) -> String {
        format!("{:#x}-{:#x}", self.base, self.base + self.pages * PAGE)
    }

    /// The first word of a page.
    pub fn word(&self, page: usize) -> &'static AtomicU64 {
        assert!(page < self.pages);
        let address = std::ptr::with_exposed_provenance::<AtomicU64>(self.base + page * PAGE);
        // SAFETY: the address lies inside a mapping that is never unmapped and is aligned to a page; all access to it
        // from this process is through atomics.
        unsafe { &*address }
    }

    pub fn write(&self, page: usize, value: u64) {
        self.word(page).store(value, Ordering::SeqCst);
    }

    pub fn read(&self, page: usize) -> u64 {
        self.word(page).load(Ordering::SeqCst)
    }

    pub fn advise(&self, first: usize, pages: usize, advice: i32) -> io::Result<()> {
        assert!(first + pages <= self.pages);
        let start = std::ptr::with_exposed_provenance_mut(self.base + first * PAGE);
        // SAFETY: the range lies inside a mapping of ours. Advice that drops content makes words zero, which the atomics
        // see as a store.
        let result = unsafe { libc::madvise(start, pages * PAGE, advice) };
        if result == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    pub fn protect(&self, rights: i32) {
        let start = std::ptr::with_exposed_provenance_mut(self.base);
        // SAFETY: the range is a mapping of ours; a role that forbids access does not access it.
        let result = unsafe { libc::mprotect(start, self.pages * PAGE, rights) };
        assert_eq!(result, 0, "mprotect: {}", io::Error::last_os_error());
    }
}
