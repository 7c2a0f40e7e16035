//! Memory that outlives the process that writes it: words in a file of memory, shared with whoever maps it.
//!
//! Everything in it is read and written as whole words, so that a process that is killed between two of them leaves the one
//! written and the other as it was.
#![expect(unsafe_code, reason = "memory that several processes map")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

/// Bytes of a word.
pub const WORD: usize = 8;

/// A file of memory, mapped whole.
#[derive(Debug)]
pub struct SharedMemory {
    start: NonNull<c_void>,
    len: NonZeroUsize,
    file: OwnedFd,
}

// SAFETY: the mapping belongs to nobody's thread, and all access is to atomic words.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// New memory without a name in any file system, all of it zeros. It takes up room as it is written.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new(name: &std::ffi::CStr, len: NonZeroUsize) -> Result<Self, Errno> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC)?;
        Self::of_new_file(file, len)
    }

    /// A file that somebody has just made, which becomes `len` bytes long.
    ///
    /// # Errors
    /// No memory, or a file that cannot be mapped.
    pub fn of_new_file(file: OwnedFd, len: NonZeroUsize) -> Result<Self, Errno> {
        ftruncate(&file, i64::try_from(len.get()).map_err(|_| Errno::EFBIG)?)?;
        Self::map(file, len)
    }

    /// A file that was made before.
    ///
    /// # Errors
    /// EINVAL for a file of another length; no memory, or a file that cannot be mapped.
    pub fn of_file(file: OwnedFd, len: NonZeroUsize) -> Result<Self, Errno> {
        let its = fstat(&file)?.st_size;
        if usize::try_from(its) != Ok(len.get()) {
            return Err(Errno::EINVAL);
        }
        Self::map(file, len)
    }

    fn map(file: OwnedFd, len: NonZeroUsize) -> Result<Self, Errno> {
        let both = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: without MAP_FIXED mmap touches no memory that exists.
        let start = unsafe { mmap(None, len, both, MapFlags::MAP_SHARED, &file, 0)? };
        Ok(Self { start, len, file })
    }

    /// Makes sure that a range can be written: a page of a full file system that cannot be had is SIGBUS.
    ///
    /// # Errors
    /// ENOSPC.
    pub fn reserve(&self, at: usize, len: usize) -> Result<(), Errno> {
        let [at, len] = [at, len].map(|bytes| i64::try_from(bytes).map_err(|_| Errno::EFBIG));
        fallocate(&self.file, FallocateFlags::FALLOC_FL_KEEP_SIZE, at?, len?)
    }

    /// The word at an offset in bytes.
    ///
    /// # Panics
    /// If it is not that of a word, or beyond the end.
    #[must_use]
    pub fn word(&self, at: usize) -> &AtomicU64 {
        let inside = at.is_multiple_of(WORD) && at < self.len.get();
        assert!(inside, "offset {at} of {} bytes", self.len);
        // SAFETY: it lies inside of the mapping, whose length is a multiple of a word.
        let word = unsafe { self.start.cast::<u8>().add(at) }.cast::<AtomicU64>();
        // SAFETY: mapped as long as self is, aligned because mappings are, and any bits are a value.
        unsafe { word.as_ref() }
    }

    /// So many words from an offset on.
    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        let start = self.address(at, count * WORD).cast::<AtomicU64>();
        assert!(at.is_multiple_of(WORD), "offset {at}");
        // SAFETY: the range lies inside of the mapping, which lives as long as self; it is aligned because mappings are, and any bits
        // are a value.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), count) }
    }

    /// What a word holds.
    #[must_use]
    pub fn load(&self, at: usize) -> u64 {
        self.word(at).load(Ordering::Acquire)
    }

    /// Writes a word, after everything that was written before.
    pub fn store(&self, at: usize, value: u64) {
        self.word(at).store(value, Ordering::Release);
    }

    /// Writes bytes. What fills their last word up is undefined.
    #[expect(clippy::host_endian_bytes, reason = "read by this machine")]
    pub fn write(&self, at: usize, bytes: &[u8]) {
        let words = bytes.len().div_ceil(WORD);
        let chunks = bytes.chunks(WORD);
        for (place, chunk) in self.words(at, words).iter().zip(chunks) {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            place.store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
        fence(Ordering::Release);
    }

    /// Reads bytes.
    #[must_use]
    #[expect(clippy::host_endian_bytes, reason = "written by this machine")]
    pub fn read(&self, at: usize, len: usize) -> Vec<u8> {
        let words = self.words(at, len.div_ceil(WORD));
        let mut bytes = Vec::with_capacity(words.len() * WORD);
        for word in words {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        fence(Ordering::Acquire);
        bytes.truncate(len);
        bytes
    }

    /// The address of a range, for the kernel to write to.
    ///
    /// # Panics
    /// If it does not lie inside.
    #[must_use]
    pub fn address(&self, at: usize, len: usize) -> NonNull<c_void> {
        let inside = at.checked_add(len).is_some_and(|end| end <= self.len.get());
        assert!(inside, "{len} bytes at {at} of {}", self.len);
        // SAFETY: it lies inside of the mapping.
        unsafe { self.start.cast::<u8>().add(at) }.cast()
    }
}

/// Some words: in memory that outlives this process, or in its own, for who need not outlive it.
#[derive(Debug, Clone)]
pub struct Room(Words);

#[derive(Debug, Clone)]
enum Words {
    Shared(Arc<SharedMemory>, usize),
    Private(Arc<[AtomicU64]>),
}

impl Room {
    /// The words from an offset on, a multiple of a word.
    #[must_use]
    pub const fn shared(memory: Arc<SharedMemory>, at: usize) -> Self {
        Self(Words::Shared(memory, at))
    }

    /// So many words of this process's own.
    #[must_use]
    pub fn private(words: usize) -> Self {
        let words = (0..words).map(|_| AtomicU64::new(0));
        Self(Words::Private(words.collect()))
    }

    /// One of them, counted from 0.
    ///
    /// # Panics
    /// If it has not so many.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        match &self.0 {
            Words::Shared(memory, at) => memory.word(at + index * WORD),
            Words::Private(words) => &words[index],
        }
    }

    /// What a word holds.
    #[must_use]
    pub fn load(&self, index: usize) -> u64 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes a word, after everything that was written before.
    pub fn store(&self, index: usize, value: u64) {
        self.word(index).store(value, Ordering::Release);
    }

    /// The address of so many words from one on, for the kernel to write to.
    ///
    /// # Panics
    /// If it has not so many.
    #[must_use]
    pub fn address(&self, index: usize, words: usize) -> *mut c_void {
        match &self.0 {
            Words::Shared(memory, at) => memory.address(at + index * WORD, words * WORD).as_ptr(),
            Words::Private(all) => all[index..index + words].as_ptr().cast_mut().cast(),
        }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: nobody has a reference into it that outlives self. It cannot fail for a mapping of ours.
        let _ = unsafe { munmap(self.start, self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: NonZeroUsize = NonZeroUsize::new(1 << 16).expect("not zero");

    #[test]
    fn what_one_writes_another_reads() {
        let memory = SharedMemory::new(c"test", LEN).expect("memory");
        memory.write(4096, b"eleven bytes"[..11].as_ref());
        memory.store(0, 7);
        let file = memory.as_fd().try_clone_to_owned().expect("a descriptor");
        drop(memory);
        let again = SharedMemory::of_file(file, LEN).expect("the same");
        assert_eq!(again.read(4096, 11), b"eleven byte");
        assert_eq!(again.load(0), 7);
    }

    #[test]
    fn a_file_of_another_length_is_none_of_ours() {
        let memory = SharedMemory::new(c"test", LEN).expect("memory");
        let file = memory.as_fd().try_clone_to_owned().expect("a descriptor");
        let longer = LEN.saturating_add(4096);
        assert_eq!(
            SharedMemory::of_file(file, longer).err(),
            Some(Errno::EINVAL)
        );
    }

    #[test]
    #[should_panic(expected = "offset")]
    fn nothing_lies_beyond_the_end() {
        let memory = SharedMemory::new(c"test", LEN).expect("memory");
        let _ = memory.load(LEN.get());
    }
}
