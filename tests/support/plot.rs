//! Address space to experiment with: what a test does wrong there is a signal, never harm to somebody's memory.
#![expect(unsafe_code, reason = "system calls on memory, and access to it")]

use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use uffd_restore::addr::{Addr, AddrRange};

pub const PAGE: u64 = 4096;

/// A gigabyte in which nobody but its owner maps anything. Pages in it are numbered from 0.
#[derive(Debug, Clone, Copy)]
pub struct Plot {
    base: u64,
}

/// A system call whose addresses, if any, lie in a plot or belong to what the caller holds.
pub fn call(number: i64, arguments: &[u64]) -> Result<u64, Errno> {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [a, b, c, d, e, f] = all;
    // SAFETY: what the kernel writes goes to a plot, which only atomics access, or to memory that the caller lent for it.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result).map(i64::cast_unsigned)
}

/// A number of flags or a descriptor as an argument of [`call`].
pub fn word(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

impl Plot {
    const SIZE: u64 = 1 << 30;

    /// The next free one. They lie far below everything that the kernel places by itself.
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 36);
        Self {
            base: NEXT.fetch_add(Self::SIZE, Ordering::SeqCst),
        }
    }

    /// The plot of another process, to name addresses in it.
    pub fn elsewhere(base: u64) -> Self {
        Self { base }
    }

    /// With private anonymous memory in its first pages.
    pub fn with(pages: u64) -> Self {
        let plot = Self::new();
        plot.private(0, pages);
        plot
    }

    pub fn at(self, page: u64) -> Addr {
        assert!(page <= Self::SIZE / PAGE);
        Addr(self.base + page * PAGE)
    }

    pub fn range(self, page: u64, pages: u64) -> AddrRange {
        AddrRange::at(self.at(page), pages * PAGE)
    }

    pub fn map(self, page: u64, pages: u64, flags: i32, file: Option<BorrowedFd<'_>>) {
        let descriptor = file.map_or(-1, |file| file.as_raw_fd());
        let anonymous = if file.is_some() {
            0
        } else {
            libc::MAP_ANONYMOUS
        };
        let flags = flags | anonymous | libc::MAP_FIXED;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let range = self.range(page, pages);
        let arguments = [
            range.start.0,
            range.len(),
            word(rights),
            word(flags),
            word(descriptor),
            0,
        ];
        call(libc::SYS_mmap, &arguments).expect("mmap");
    }

    pub fn private(self, page: u64, pages: u64) {
        self.map(page, pages, libc::MAP_PRIVATE, None);
    }

    pub fn shared(self, page: u64, pages: u64) {
        self.map(page, pages, libc::MAP_SHARED, None);
    }

    pub fn unmap(self, page: u64, pages: u64) {
        call(libc::SYS_munmap, &[self.at(page).0, pages * PAGE]).expect("munmap");
    }

    /// mremap(2) without a place to go to.
    pub fn resize(self, page: u64, old: u64, new: u64) -> Result<u64, Errno> {
        call(
            libc::SYS_mremap,
            &[self.at(page).0, old * PAGE, new * PAGE, 0],
        )
    }

    /// mremap(2) of `old` pages, which become `new`, to a place.
    pub fn remap(self, page: u64, old: u64, new: u64, to: u64, more: i32) -> Result<u64, Errno> {
        let flags = word(libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | more);
        call(
            libc::SYS_mremap,
            &[
                self.at(page).0,
                old * PAGE,
                new * PAGE,
                flags,
                self.at(to).0,
            ],
        )
    }

    /// Moves pages.
    pub fn shift(self, page: u64, pages: u64, to: u64) {
        self.remap(page, pages, pages, to, 0).expect("mremap");
    }

    pub fn advise(self, page: u64, pages: u64, advice: i32) -> Result<u64, Errno> {
        call(
            libc::SYS_madvise,
            &[self.at(page).0, pages * PAGE, word(advice)],
        )
    }

    /// Gives the content of pages up.
    pub fn discard(self, page: u64, pages: u64) {
        self.advise(page, pages, libc::MADV_DONTNEED)
            .expect("madvise");
    }

    pub fn protect(self, page: u64, pages: u64, rights: i32) {
        call(
            libc::SYS_mprotect,
            &[self.at(page).0, pages * PAGE, word(rights)],
        )
        .expect("mprotect");
    }

    fn word(self, page: u64) -> *mut u64 {
        assert!(page < Self::SIZE / PAGE);
        let address = usize::try_from(self.at(page).0).expect("an address");
        std::ptr::with_exposed_provenance_mut(address)
    }

    /// The first word of a page. Waits if the page is missing, ends the process if there is none.
    pub fn read(self, page: u64) -> u64 {
        // SAFETY: a plot contains nothing but what its owner mapped; access to anything else there is a signal.
        let word = unsafe { AtomicU64::from_ptr(self.word(page)) };
        word.load(Ordering::SeqCst)
    }

    /// Another word of a page.
    pub fn nth(self, page: u64, index: usize) -> u64 {
        assert!(index < 512);
        let place = self.word(page).wrapping_add(index);
        // SAFETY: as for the first.
        let word = unsafe { AtomicU64::from_ptr(place) };
        word.load(Ordering::SeqCst)
    }

    pub fn write(self, page: u64, value: u64) {
        // SAFETY: as for reading.
        let word = unsafe { AtomicU64::from_ptr(self.word(page)) };
        word.store(value, Ordering::SeqCst);
    }

    /// Whether a page is present; `None` if nothing is mapped there. Touches nothing.
    pub fn present(self, page: u64) -> Option<bool> {
        let mut answer = 0_u8;
        let place = std::ptr::from_mut(&mut answer).expose_provenance() as u64;
        match call(libc::SYS_mincore, &[self.at(page).0, PAGE, place]) {
            Ok(_) => Some(answer & 1 != 0),
            Err(Errno::ENOMEM) => None,
            Err(errno) => panic!("mincore: {errno}"),
        }
    }
}
