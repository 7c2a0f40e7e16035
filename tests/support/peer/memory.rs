//! Guest memory, and what must be in each of its pages.
#![expect(unsafe_code, reason = "access to memory that comes and goes")]

use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::content::{Content, WORDS};
use super::{PAGE, SMALL_IN_HUGE};
use crate::support::plot::{call, word};

/// A page that nobody may touch now.
const HOLE: u64 = u64::MAX;
const OF_FILE: u64 = u64::MAX - 1;
const ZERO: u64 = u64::MAX - 2;

#[derive(Debug)]
pub struct Region {
    pub address: u64,
    /// Its first page in the memory file.
    pub first: usize,
    pub pages: usize,
}

#[derive(Debug)]
pub struct Guest {
    pub regions: Vec<Region>,
    /// 4096 or 2 MiB, in small pages.
    pub grain: usize,
    states: Vec<AtomicU64>,
}

/// How to lay memory out.
#[derive(Debug, Clone, Copy, Default)]
pub struct Layout {
    pub huge: bool,
    /// Two mappings in each region.
    pub split: bool,
    /// So many slots in the last region, and every second one unplugged.
    pub slots: usize,
}

fn bytes(pages: usize) -> u64 {
    (pages * PAGE) as u64
}

impl Guest {
    pub fn map(sizes: &[usize], layout: Layout) -> Self {
        let mut first = 0;
        let mut regions = Vec::new();
        for &pages in sizes {
            regions.push(Region {
                address: map(pages, layout.huge),
                first,
                pages,
            });
            first += pages;
        }
        let states = (0..first).map(|_| AtomicU64::new(OF_FILE)).collect();
        let grain = if layout.huge { SMALL_IN_HUGE } else { 1 };
        let this = Self {
            regions,
            grain,
            states,
        };
        if layout.split {
            for region in &this.regions {
                let half = region.pages / 2 / grain * grain;
                this.advise(region.first, half, libc::MADV_DONTFORK)
                    .expect("madvise");
            }
        }
        let last = this.regions.last().expect("a region");
        if let Some(pages) = last.pages.checked_div(layout.slots) {
            for slot in (1..layout.slots).step_by(2) {
                this.protect(last.first + slot * pages, pages, false);
            }
        }
        this
    }

    pub fn pages(&self) -> usize {
        self.states.len()
    }

    fn region(&self, page: usize) -> &Region {
        let mut regions = self.regions.iter();
        regions
            .find(|region| (region.first..region.first + region.pages).contains(&page))
            .expect("a page of the guest")
    }

    pub fn address(&self, page: usize) -> u64 {
        let region = self.region(page);
        region.address + bytes(page - region.first)
    }

    /// Address and length of pages of one region.
    pub fn range(&self, page: usize, pages: usize) -> [u64; 2] {
        let region = self.region(page);
        let end = region.first + region.pages;
        assert!(page + pages <= end, "pages of two regions");
        [self.address(page), bytes(pages)]
    }

    fn words(&self, page: usize) -> &'static [AtomicU64; WORDS] {
        let address = usize::try_from(self.address(page)).expect("an address");
        let words = std::ptr::with_exposed_provenance::<[AtomicU64; WORDS]>(address);
        // SAFETY: a page of a mapping that stays (replaced by another at most); all access to it from this process is
        // through atomics or the kernel.
        unsafe { &*words }
    }

    pub fn word(&self, page: usize) -> u64 {
        self.words(page)[WORDS / 2].load(Ordering::Relaxed)
    }

    pub fn is_hole(&self, page: usize) -> bool {
        self.states[page].load(Ordering::SeqCst) == HOLE
    }

    /// What must be in a page.
    pub fn wanted(&self, page: usize) -> Content {
        match self.states[page].load(Ordering::SeqCst) {
            OF_FILE => Content::of_file(page),
            ZERO => Content::Zero,
            number => Content::Own(number),
        }
    }

    /// Every word of a page is what it must be. Holes are left alone.
    pub fn check(&self, page: usize) -> Result<(), String> {
        if self.is_hole(page) {
            return Ok(());
        }
        let wanted = self.wanted(page);
        for (index, word) in self.words(page).iter().enumerate() {
            let (is, shall) = (word.load(Ordering::Relaxed), wanted.word(index));
            if is != shall {
                return Err(format!(
                    "page {page} should be {wanted:?}, but word {index} is {is:#x}, not {shall:#x}"
                ));
            }
        }
        Ok(())
    }

    /// A page of the file that may be removed while it is looked at: from one word on it is zero, or from none; or from
    /// the first on if its removal was over before.
    pub fn check_removed(&self, page: usize, over: bool) -> Result<(), String> {
        let content = Content::of_file(page);
        let mut gone = over;
        for (index, word) in self.words(page).iter().enumerate() {
            let is = word.load(Ordering::Acquire);
            let before = content.word(index);
            match is {
                0 => gone = true,
                _ if is == before && !gone => {}
                _ => {
                    return Err(format!(
                        "page {page} was {} removed, and word {index} is {is:#x}",
                        if over { "long" } else { "just" }
                    ));
                }
            }
        }
        Ok(())
    }

    pub fn write(&self, page: usize, number: u64) {
        for (index, word) in self.words(page).iter().enumerate() {
            word.store(Content::Own(number).word(index), Ordering::Relaxed);
        }
        self.states[page].store(number, Ordering::SeqCst);
    }

    fn advise(&self, page: usize, pages: usize, advice: i32) -> Result<u64, Errno> {
        let [address, len] = self.range(page, pages);
        call(libc::SYS_madvise, &[address, len, word(advice)])
    }

    /// madvise(2) as a balloon does it. What the kernel then lets go of is zero: whole pages.
    pub fn remove(&self, page: usize, pages: usize) -> Result<(), Errno> {
        let region = self.region(page);
        let here = (region.first + region.pages - page).min(pages);
        if here < pages {
            self.remove(page + here, pages - here)?;
            return self.remove(page, here);
        }
        self.advise(page, pages, libc::MADV_DONTNEED)?;
        let whole = pages / self.grain * self.grain;
        self.states[page..page + whole]
            .iter()
            .filter(|state| state.load(Ordering::SeqCst) != HOLE)
            .for_each(|state| state.store(ZERO, Ordering::SeqCst));
        Ok(())
    }

    /// Other memory in the place of this, as balloons of old did it.
    pub fn replace(&self, page: usize, pages: usize) {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let [address, len] = self.range(page, pages);
        let rights = word(libc::PROT_READ | libc::PROT_WRITE);
        let arguments = [address, len, rights, word(flags), u64::MAX, 0];
        call(libc::SYS_mmap, &arguments).expect("mmap");
        for state in &self.states[page..page + pages] {
            state.store(ZERO, Ordering::SeqCst);
        }
    }

    /// Plugs memory in, or unplugs it: what is in it stays.
    pub fn protect(&self, page: usize, pages: usize, plugged: bool) {
        let rights = if plugged {
            libc::PROT_READ | libc::PROT_WRITE
        } else {
            libc::PROT_NONE
        };
        let [address, len] = self.range(page, pages);
        call(libc::SYS_mprotect, &[address, len, word(rights)]).expect("mprotect");
        for state in &self.states[page..page + pages] {
            if !plugged {
                state.store(HOLE, Ordering::SeqCst);
            } else if state.load(Ordering::SeqCst) == HOLE {
                state.store(OF_FILE, Ordering::SeqCst);
            }
        }
    }

    /// What was unplugged and dropped is zero when it is plugged again.
    pub fn expect_zero(&self, page: usize, pages: usize) {
        for state in &self.states[page..page + pages] {
            state.store(ZERO, Ordering::SeqCst);
        }
    }
}

fn map(pages: usize, huge: bool) -> u64 {
    let more = if huge { libc::MAP_HUGETLB } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | more;
    let guard = if huge { SMALL_IN_HUGE } else { 1 };
    // With pages before and behind that nobody may touch: the kernel joins what lies side by side.
    let whole = [
        0,
        bytes(pages + 2 * guard),
        word(libc::PROT_NONE),
        word(flags),
        u64::MAX,
        0,
    ];
    let address = call(libc::SYS_mmap, &whole).expect("mmap") + bytes(guard);
    let rights = word(libc::PROT_READ | libc::PROT_WRITE);
    call(libc::SYS_mprotect, &[address, bytes(pages), rights]).expect("mprotect");
    address
}
