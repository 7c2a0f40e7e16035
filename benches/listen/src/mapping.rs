//! Memory of whole pages that is read as words: anonymous, or a file's.
#![expect(unsafe_code, reason = "mmap, and access to what it returns")]

use std::fs::File;
use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};
use snapshot_format::PAGE_SIZE;
use uffd_restore::addr::{Addr, AddrRange};

use crate::content::WORDS;

/// A private mapping that stays as long as the process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mapping(&'static [u64]);

impl Mapping {
    /// Private anonymous memory or, privately, a file: what Firecracker gives a guest.
    pub(crate) fn new(pages: usize, file: Option<&File>) -> Self {
        let len = NonZeroUsize::new(pages * PAGE_SIZE).expect("some memory");
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let at = match file {
            // SAFETY: without MAP_FIXED mmap touches no memory that exists.
            Some(file) => unsafe { mmap(None, len, rights, flags, file, 0) },
            // SAFETY: as above.
            None => unsafe { mmap_anonymous(None, len, rights, flags) },
        };
        let at = at.expect("to map memory").cast::<u64>().as_ptr();
        // SAFETY: the mapping is aligned, so long, never unmapped, and nobody writes to it: the file is one that does not
        // change, and a userfaultfd installs a page before the first access to it is through.
        Self(unsafe { std::slice::from_raw_parts(at, pages * WORDS) })
    }

    /// Its addresses.
    pub(crate) fn range(self) -> AddrRange {
        let start = self.0.as_ptr().expose_provenance() as u64;
        AddrRange::at(Addr(start), size_of_val(self.0) as u64)
    }

    /// The words of a page. The first access brings it.
    pub(crate) fn page(self, page: usize) -> &'static [u64] {
        &self.0[page * WORDS..][..WORDS]
    }

    /// The bytes of pages.
    pub(crate) fn bytes(self, page: usize, pages: usize) -> &'static [u8] {
        let words = &self.0[page * WORDS..][..pages * WORDS];
        // SAFETY: the same memory, and every byte is a value.
        unsafe { std::slice::from_raw_parts(words.as_ptr().cast(), size_of_val(words)) }
    }

    pub(crate) fn pages(self) -> usize {
        self.0.len() / WORDS
    }
}
