//! Which pages of an address range have content, from `/proc/PID/pagemap`
//! (Documentation/admin-guide/mm/pagemap.rst).
//!
//! Two ways to ask. The ioctl PAGEMAP_SCAN (Linux 6.7) walks page tables and reports runs, so that its cost follows the
//! memory in use, not the size of the range. Older kernels have eight bytes per page to read. Both give the same answer,
//! except that only the ioctl knows the kernel's zero page; the other way has to report it as content, which it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use snapshot_format::PAGE_BYTES;

use super::pagemap_scan::{self, Category, ScannedRun};

/// What a page table says about a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageState {
    /// Nothing is there yet: zero, or what the file behind the mapping holds.
    Absent,
    /// Present: reading gives the content.
    Content,
    /// An entry for swap: either really swapped out, so that reading gives the content, or a marker in its place, as
    /// UFFDIO_POISON and memory errors leave: then reading fails and the content is lost.
    Swapped,
    /// The kernel's zero page.
    Zero,
    /// A guard page (MADV_GUARD_INSTALL, Linux 6.13): accessing it kills, it has no content.
    Guard,
}

/// A run of pages in the same state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageRun {
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// The state of all of them.
    pub state: PageState,
}

/// An open `/proc/PID/pagemap`.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    way: Way,
}

/// How to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The ioctl, and the categories that this kernel knows.
    Scan(u64),
    /// Eight bytes per page.
    Entries,
}

/// Pages whose entries are read at once: 128 KiB of entries.
const ENTRIES_AT_ONCE: u64 = 16 * 1024;

impl Pagemap {
    /// Opens the page map of the process that thread `tid` belongs to.
    ///
    /// # Errors
    /// That of opening the file.
    pub fn open(tid: i32) -> io::Result<Self> {
        let file = File::open(format!("/proc/{tid}/pagemap"))?;
        let way = pagemap_scan::known_categories(&file).map_or(Way::Entries, Way::Scan);
        Ok(Self { file, way })
    }

    /// The same, without the ioctl: what happens on kernels before 6.7.
    ///
    /// # Errors
    /// That of opening the file.
    pub fn open_without_scan(tid: i32) -> io::Result<Self> {
        Ok(Self {
            file: File::open(format!("/proc/{tid}/pagemap"))?,
            way: Way::Entries,
        })
    }

    /// Calls `each` for the runs of `start..end`, in order and without gaps; runs next to each other may be in the same
    /// state. Both ends are page-aligned.
    ///
    /// # Errors
    /// That of `each`, or of the kernel, through `From`. A process that has ended may be an error or look empty: whoever
    /// needs to know must look afterwards.
    pub fn for_each_run<E: From<io::Error>>(
        &self,
        start: u64,
        end: u64,
        mut each: impl FnMut(PageRun) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.way {
            Way::Scan(categories) => self.scan(start, end, categories, &mut each),
            Way::Entries => self.entries(start, end, &mut each),
        }
    }

    fn scan<E: From<io::Error>>(
        &self,
        start: u64,
        end: u64,
        categories: u64,
        each: &mut dyn FnMut(PageRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut runs = vec![ScannedRun::default(); 1024];
        let mut reached = start;
        let mut from = start;
        while from < end {
            let (found, walked_to) =
                pagemap_scan::scan(&self.file, from, end, categories, &mut runs)
                    .map_err(io::Error::from)?;
            for run in runs.get(..found).unwrap_or_default() {
                if reached < run.start {
                    each(PageRun {
                        start: reached,
                        end: run.start,
                        state: PageState::Absent,
                    })?;
                }
                each(PageRun {
                    start: run.start,
                    end: run.end,
                    state: state_of_scanned(run.categories),
                })?;
                reached = run.end;
            }
            if walked_to <= from {
                return Err(io::Error::other("PAGEMAP_SCAN makes no progress").into());
            }
            from = walked_to;
        }
        if reached < end {
            each(PageRun {
                start: reached,
                end,
                state: PageState::Absent,
            })?;
        }
        Ok(())
    }

    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel writes numbers of this machine"
    )]
    fn entries<E: From<io::Error>>(
        &self,
        start: u64,
        end: u64,
        each: &mut dyn FnMut(PageRun) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0_u8; 8 * 1024];
        let mut run: Option<PageRun> = None;
        let mut from = start;
        while from < end {
            let pages = ((end - from) / PAGE_BYTES).min(ENTRIES_AT_ONCE);
            buffer.resize(usize::try_from(pages * 8).map_err(io::Error::other)?, 0);
            self.file
                .read_exact_at(&mut buffer, from / PAGE_BYTES * 8)?;
            for entry in buffer.as_chunks::<8>().0 {
                let state = state_of_entry(u64::from_ne_bytes(*entry));
                run = match run {
                    Some(run) if run.state == state => Some(PageRun {
                        end: from + PAGE_BYTES,
                        ..run
                    }),
                    other => {
                        other.map_or(Ok(()), &mut *each)?;
                        Some(PageRun {
                            start: from,
                            end: from + PAGE_BYTES,
                            state,
                        })
                    }
                };
                from += PAGE_BYTES;
            }
        }
        run.map_or(Ok(()), each)
    }
}

fn state_of_scanned(categories: u64) -> PageState {
    let is = |category: Category| categories & category as u64 != 0;
    // A guard page is a marker in a swap entry's place; the zero page is present.
    if is(Category::Guard) {
        PageState::Guard
    } else if is(Category::ZeroPage) {
        PageState::Zero
    } else if is(Category::Swapped) {
        PageState::Swapped
    } else if is(Category::Present) {
        PageState::Content
    } else {
        PageState::Absent
    }
}

/// The bits of an entry (pagemap.rst).
fn state_of_entry(entry: u64) -> PageState {
    const PRESENT: u64 = 1 << 63;
    const SWAPPED: u64 = 1 << 62;
    const GUARD: u64 = 1 << 58;
    if entry & GUARD != 0 {
        PageState::Guard
    } else if entry & PRESENT != 0 {
        PageState::Content
    } else if entry & SWAPPED != 0 {
        PageState::Swapped
    } else {
        PageState::Absent
    }
}

/// True for the errors that mean "this kernel does not have it".
pub(super) fn is_missing(errno: Errno) -> bool {
    matches!(errno, Errno::ENOTTY | Errno::EINVAL | Errno::ENOSYS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_by_their_bits() {
        for (entry, state) in [
            (0, PageState::Absent),
            (1 << 55, PageState::Absent),
            (1 << 61, PageState::Absent),
            (1 << 63 | 0x1234, PageState::Content),
            (1 << 62 | 7, PageState::Swapped),
            (1 << 58, PageState::Guard),
            (1 << 58 | 1 << 62, PageState::Guard),
        ] {
            assert_eq!(state_of_entry(entry), state, "{entry:#x}");
        }
    }

    #[test]
    fn categories_by_their_bits() {
        for (categories, state) in [
            (0, PageState::Absent),
            (0x08, PageState::Content),
            (0x28, PageState::Zero),
            (0x10, PageState::Swapped),
            (0x110, PageState::Guard),
            (0x100, PageState::Guard),
        ] {
            assert_eq!(state_of_scanned(categories), state, "{categories:#x}");
        }
    }
}
