//! Memory of a target, every page of which says what it is: zero, from the snapshot, or the target's own.
#![expect(
    unsafe_code,
    reason = "targets call the kernel about their own memory, and look at every word of it"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use crate::support::area::PAGE;
const WORDS: usize = PAGE / 8;

/// What a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Zero,
    /// What was captured: which page of which area.
    Snapshot(u64),
    /// What was there between capture and restore: nobody may ever see it again.
    Before(u64),
    /// Written by the target after the restore.
    Own(u64),
}

impl Content {
    pub(crate) fn tag(self) -> u64 {
        const KIND: u32 = 56;
        match self {
            Self::Zero => 0,
            Self::Snapshot(value) => (0x51 << KIND) | value,
            Self::Before(value) => (0xbe << KIND) | value,
            Self::Own(value) => (0x0e << KIND) | value,
        }
    }

    fn of_tag(tag: u64) -> Option<Self> {
        let value = tag & ((1 << 56) - 1);
        match tag >> 56 {
            0 if value == 0 => Some(Self::Zero),
            0x51 => Some(Self::Snapshot(value)),
            0xbe => Some(Self::Before(value)),
            0x0e => Some(Self::Own(value)),
            _ => None,
        }
    }

    /// What the snapshot has in a page; every fifth page is zero.
    pub(crate) fn captured(area: usize, page: usize) -> Self {
        if page % 5 == 3 {
            Self::Zero
        } else {
            Self::Snapshot(number(area, page))
        }
    }
}

fn number(area: usize, page: usize) -> u64 {
    ((area as u64) << 32) | page as u64
}

/// Nothing is added to the first word, and something else to each other one.
fn spread(index: usize) -> u64 {
    (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The word with this index in a page with this content.
pub(crate) fn word_of(content: Content, index: usize) -> u64 {
    match content {
        Content::Zero => 0,
        other => other.tag() ^ spread(index),
    }
}

/// A page as bytes.
#[expect(clippy::host_endian_bytes, reason = "memory of this very machine")]
pub(crate) fn bytes_of(content: Content) -> Vec<u8> {
    (0..WORDS)
        .flat_map(|index| word_of(content, index).to_ne_bytes())
        .collect()
}

fn words(address: usize) -> &'static [AtomicU64; WORDS] {
    assert!(address.is_multiple_of(PAGE));
    let page = std::ptr::with_exposed_provenance::<[AtomicU64; WORDS]>(address);
    // SAFETY: a page of a mapping of the role's, which it does not unmap while it looks at it; all access from this
    // process is through atomics or the kernel.
    unsafe { &*page }
}

/// What a page is, all of it.
pub(crate) fn look(address: usize) -> Content {
    let words = words(address);
    let first = words[0].load(Ordering::Relaxed);
    let content =
        Content::of_tag(first).unwrap_or_else(|| panic!("{address:#x} begins with {first:#x}"));
    for (index, word) in words.iter().enumerate() {
        let (is, shall) = (word.load(Ordering::Relaxed), word_of(content, index));
        assert!(
            is == shall,
            "{address:#x} is {content:?}, but word {index} is {is:#x}"
        );
    }
    content
}

/// A page is exactly this.
#[track_caller]
pub(crate) fn check(address: usize, wanted: Content) {
    let is = look(address);
    assert!(
        is == wanted,
        "the page at {address:#x} is {is:?} and should be {wanted:?}"
    );
}

/// Makes a page this.
pub(crate) fn write(address: usize, content: Content) {
    for (index, word) in words(address).iter().enumerate() {
        word.store(word_of(content, index), Ordering::Relaxed);
    }
}

/// Reads the first word only: a fault, and nothing more.
pub(crate) fn touch(address: usize) -> u64 {
    words(address)[0].load(Ordering::Relaxed)
}

/// A system call with plain numbers and addresses.
pub(crate) fn call(number: i64, arguments: [usize; 6]) -> io::Result<usize> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: roles pass descriptors, numbers, and addresses of leaked values or of mappings of theirs, which nothing but
    // this module's atomics looks at.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// The address of something that lives as long as the process.
pub(crate) fn leak<T>(value: T) -> usize {
    std::ptr::from_mut(Box::leak(Box::new(value))).expose_provenance()
}

/// A flag of the C library as an argument.
pub(crate) fn flag(flag: i32) -> usize {
    usize::try_from(flag).expect("flags are not negative")
}

/// madvise(2)
pub(crate) fn advise(address: usize, pages: usize, advice: i32) -> io::Result<usize> {
    let arguments = [address, pages * PAGE, flag(advice), 0, 0, 0];
    call(libc::SYS_madvise, arguments)
}

/// mprotect(2)
pub(crate) fn protect(address: usize, pages: usize, rights: i32) {
    let arguments = [address, pages * PAGE, flag(rights), 0, 0, 0];
    call(libc::SYS_mprotect, arguments).expect("mprotect");
}

/// mremap(2), lengths in pages.
pub(crate) fn remap(
    from: usize,
    old: usize,
    new: usize,
    flags: i32,
    to: usize,
) -> io::Result<usize> {
    let arguments = [from, old * PAGE, new * PAGE, flag(flags), to, 0];
    call(libc::SYS_mremap, arguments)
}

/// Moves pages to an address, onto whatever is there.
pub(crate) fn move_to(from: usize, pages: usize, to: usize) {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    let moved = remap(from, pages, pages, flags, to).expect("mremap");
    assert_eq!(moved, to);
}

/// munmap(2)
pub(crate) fn unmap(address: usize, pages: usize) {
    call(libc::SYS_munmap, [address, pages * PAGE, 0, 0, 0, 0]).expect("munmap");
}

/// True when something is mapped there. (mincore(2) does not touch it.)
pub(crate) fn is_mapped(address: usize) -> bool {
    let mut answer = 0_u8;
    let answer = std::ptr::from_mut(&mut answer).expose_provenance();
    call(libc::SYS_mincore, [address, PAGE, answer, 0, 0, 0]).is_ok()
}

/// Maps private memory at an address where nothing is.
pub(crate) fn map_at(address: usize, pages: usize, more_flags: i32) {
    let flags = libc::MAP_PRIVATE
        | libc::MAP_ANONYMOUS
        | libc::MAP_NORESERVE
        | libc::MAP_FIXED_NOREPLACE
        | more_flags;
    let rights = flag(libc::PROT_READ | libc::PROT_WRITE);
    let arguments = [address, pages * PAGE, rights, flag(flags), usize::MAX, 0];
    assert_eq!(call(libc::SYS_mmap, arguments).expect("mmap"), address);
}

/// Some memory of a target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Which of the target's areas it is: goes into the content.
    pub(crate) area: usize,
    pub(crate) address: usize,
    pub(crate) pages: usize,
}

impl Memory {
    pub(crate) fn new(area: usize, mapped: crate::support::area::Area) -> Self {
        let address = usize::try_from(mapped.address()).expect("64 bits");
        Self {
            area,
            address,
            pages: mapped.pages,
        }
    }

    /// Private memory that is a mapping of its own: pages that nobody may touch lie before and behind it.
    pub(crate) fn private(area: usize, pages: usize) -> Self {
        let whole = Self::new(area, crate::support::area::Area::private(pages + 2));
        protect(whole.at(0), 1, libc::PROT_NONE);
        protect(whole.at(pages + 1), 1, libc::PROT_NONE);
        Self {
            address: whole.at(1),
            pages,
            ..whole
        }
    }

    pub(crate) fn at(&self, page: usize) -> usize {
        self.address + page * PAGE
    }

    /// What the snapshot has.
    pub(crate) fn captured(&self, page: usize) -> Content {
        Content::captured(self.area, page)
    }

    pub(crate) fn check(&self, page: usize) {
        check(self.at(page), self.captured(page));
    }

    /// Private memory where the kernel maps nothing by itself: not into the holes of it either.
    pub(crate) fn in_arena(area: usize, pages: usize) -> Self {
        let address = crate::moves::arena(500 + area);
        map_at(address, pages, 0);
        Self {
            area,
            address,
            pages,
        }
    }

    /// Pages that are not zero in the snapshot.
    pub(crate) fn content_in(pages: usize) -> u64 {
        let content = |page: &usize| Content::captured(0, *page) != Content::Zero;
        (0..pages).filter(content).count() as u64
    }

    pub(crate) fn check_all(&self) {
        (0..self.pages).for_each(|page| self.check(page));
    }

    /// What is to be captured. Zero pages are not touched.
    pub(crate) fn fill(&self) {
        for page in 0..self.pages {
            match self.captured(page) {
                Content::Zero => {}
                other => write(self.at(page), other),
            }
        }
    }

    /// Something else everywhere.
    pub(crate) fn spoil(&self) {
        for page in 0..self.pages {
            write(self.at(page), Content::Before(number(self.area, page)));
        }
    }
}

/// A generator of numbers that look random, the same for the same seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.throw() >> 33).expect("31 bits") % end
    }

    /// Numbers below `end` in random order.
    pub(crate) fn shuffled(&mut self, end: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..end).collect();
        for at in (1..end).rev() {
            all.swap(at, self.below(at + 1));
        }
        all
    }
}
