//! The page cache of a file: filling it, emptying it, and looking whether that worked.
#![expect(unsafe_code, reason = "mincore(2)")]
#![allow(dead_code, reason = "each benchmark uses a part of it")]

use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use snapshot_format::PAGE_SIZE;

/// Reads all of a file, so that the page cache has it.
pub(crate) fn warm(path: &Path) {
    // Others may drop pages meanwhile.
    for _ in 0..10 {
        read_all(path);
        let (resident, pages) = resident(path);
        if resident == pages {
            return;
        }
    }
    panic!("the page cache does not hold {path:?}");
}

/// Drops a file from the page cache.
pub(crate) fn evict(path: &Path) {
    let file = File::open(path).expect("the file");
    // Only what has been written back can be dropped, and what others look at just now stays.
    for _ in 0..100 {
        file.sync_all().expect("to write the file back");
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).expect("fadvise");
        if resident(path).0 == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (resident, pages) = resident(path);
    panic!("{resident} of {pages} pages of {path:?} stay in the page cache");
}

/// How fast a file comes from the disk, in MB/s.
pub(crate) fn cold_read_speed(path: &Path) -> f64 {
    evict(path);
    let begun = Instant::now();
    read_all(path) as f64 / 1e6 / begun.elapsed().as_secs_f64()
}

fn read_all(path: &Path) -> usize {
    let mut file = File::open(path).expect("the file");
    let mut piece = vec![0; 1 << 20];
    let mut all = 0;
    loop {
        match file.read(&mut piece).expect("to read the file") {
            0 => return all,
            got => all += got,
        }
    }
}

/// How many pages of a file the page cache has, and how many pages the file has.
fn resident(path: &Path) -> (usize, usize) {
    let file = File::open(path).expect("the file");
    let len = usize::try_from(file.metadata().expect("its length").len()).expect("64 bits");
    let size = NonZeroUsize::new(len).expect("a file with content");
    // SAFETY: without MAP_FIXED mmap touches no memory that exists.
    let at = unsafe {
        mmap(
            None,
            size,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            &file,
            0,
        )
    };
    let at = at.expect("to map the file");
    let mut pages = vec![0_u8; len.div_ceil(PAGE_SIZE)];
    // SAFETY: the range is the mapping above, and the vector has a byte for each of its pages.
    let result = unsafe { libc::mincore(at.as_ptr(), len, pages.as_mut_ptr()) };
    assert_eq!(result, 0, "mincore: {}", std::io::Error::last_os_error());
    // SAFETY: nothing refers to the mapping.
    unsafe { munmap(at, len) }.expect("to unmap the file");
    (
        pages.iter().filter(|&&page| page & 1 != 0).count(),
        pages.len(),
    )
}
