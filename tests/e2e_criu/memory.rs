//! Memory in which each page has a content that follows from a key, and can be looked at at any time.
#![expect(unsafe_code, reason = "mmap and its relatives")]

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::board::Wrong;

pub(crate) const PAGE: u64 = 4096;
pub(crate) const WORDS: usize = 512;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

/// Where a page is. Reads and writes of it are atomic, so that any thread may do anything to it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page(&'static [AtomicU64; WORDS]);

/// Private anonymous memory, writable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) start: u64,
    pub(crate) len: u64,
}

/// Spreads a number over all bits.
pub(crate) fn mix(number: u64) -> u64 {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// The content of a word: random at both ends of a page, and runs that can be compressed between them.
fn content(key: u64, word: usize) -> u64 {
    if (32..480).contains(&word) {
        key ^ (word as u64 & !31)
    } else {
        mix(key ^ word as u64)
    }
}

/// A key for a page of this address, which tells a page from all others, and from itself at other times.
pub(crate) fn key(address: u64, tag: u64) -> u64 {
    mix(address ^ tag << 48)
}

impl Page {
    fn at(address: u64) -> Self {
        let address = usize::try_from(address).expect("an address");
        let page = std::ptr::with_exposed_provenance(address);
        // SAFETY: targets ask for pages of their own mappings only, and all access to these is through atomics.
        Self(unsafe { &*page })
    }

    pub(crate) fn address(self) -> u64 {
        self.0.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn fill(self, key: u64, words: Range<usize>) {
        for word in words {
            self.0[word].store(content(key, word), Ordering::Relaxed);
        }
    }

    pub(crate) fn clear(self) {
        for word in self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// See [`key`].
    pub(crate) fn key(self, tag: u64) -> u64 {
        key(self.address(), tag)
    }

    /// What [`fill`](Self::fill) wrote with this key.
    pub(crate) fn holds(self, key: u64, words: Range<usize>) -> Result<(), Wrong> {
        self.compare(words, |word| content(key, word))
    }

    pub(crate) fn is_zero(self, words: Range<usize>) -> Result<(), Wrong> {
        self.compare(words, |_| 0)
    }

    fn compare(self, words: Range<usize>, wanted: impl Fn(usize) -> u64) -> Result<(), Wrong> {
        for word in words {
            let found = self.0[word].load(Ordering::Relaxed);
            let wanted = wanted(word);
            if found != wanted {
                return Err(Wrong {
                    address: self.address() + 8 * word as u64,
                    word: found,
                    wanted,
                });
            }
        }
        Ok(())
    }
}

impl Memory {
    /// Small pages only: what was not written to is not there.
    pub(crate) fn new(len: u64) -> Self {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: without MAP_FIXED mmap touches no memory that exists.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), size(len), rights, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", Errno::last());
        let memory = Self {
            start: base.expose_provenance() as u64,
            len,
        };
        memory.advise(0, len, libc::MADV_NOHUGEPAGE);
        memory
    }

    pub(crate) fn pages(self) -> u64 {
        self.len / PAGE
    }

    pub(crate) fn page(self, number: u64) -> Page {
        assert!(number < self.pages());
        Page::at(self.start + number * PAGE)
    }

    pub(crate) fn advise(self, offset: u64, len: u64, advice: i32) {
        assert!(offset + len <= self.len);
        // SAFETY: a part of a mapping of ours; what is dropped there the atomics see as a store of zeros.
        let result = unsafe { libc::madvise(pointer(self.start + offset), size(len), advice) };
        assert_eq!(result, 0, "madvise: {}", Errno::last());
    }

    /// Unmaps a part, of which nothing is used any more.
    pub(crate) fn unmap(self, offset: u64, len: u64) {
        assert!(offset + len <= self.len);
        // SAFETY: a part of a mapping of ours that the caller does not use any more.
        let result = unsafe { libc::munmap(pointer(self.start + offset), size(len)) };
        assert_eq!(result, 0, "munmap: {}", Errno::last());
    }

    /// Moves a mapping; to a certain address if there is one, where whatever is there ends.
    pub(crate) fn remap(self, len: u64, flags: i32, to: Option<u64>) -> Self {
        let flags = flags | libc::MREMAP_MAYMOVE | to.map_or(0, |_| libc::MREMAP_FIXED);
        let target = pointer(to.unwrap_or(0));
        // SAFETY: the caller does not use what was in either place any more.
        let base = unsafe {
            libc::mremap(
                pointer(self.start),
                size(self.len),
                size(len),
                flags,
                target,
            )
        };
        assert_ne!(base, libc::MAP_FAILED, "mremap: {}", Errno::last());
        Self {
            start: base.expose_provenance() as u64,
            len,
        }
    }

    /// Gives the place of some memory a new, empty mapping.
    pub(crate) fn renew(self) {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: a mapping of ours, or a place that one was moved from, that the caller does not use any more.
        let base = unsafe { libc::mmap(pointer(self.start), size(self.len), rights, flags, -1, 0) };
        assert_ne!(base, libc::MAP_FAILED, "mmap: {}", Errno::last());
    }
}

fn pointer(address: u64) -> *mut libc::c_void {
    std::ptr::with_exposed_provenance_mut(usize::try_from(address).expect("an address"))
}

fn size(len: u64) -> usize {
    usize::try_from(len).expect("a length")
}
