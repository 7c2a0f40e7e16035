//! pagemap-PID.img: which pages of a process are where.

use std::fmt;

use snapshot_format::PAGE_BYTES;

use super::Fault;
use super::messages::{PagemapEntry, PagemapHead};
use super::records::{Kind, Records, append};
use crate::addr::{Addr, AddrRange};

/// pagemap-PID.img.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pagemap {
    /// The file with the pages is called pages-*ID*.img.
    pub pages_id: u32,
    /// The entries, ascending; none overlaps another.
    pub entries: Vec<Entry>,
    /// How counts are written.
    pub counts: Counts,
    /// It has the mark of a process whose lazy pages are in a snapshot.
    ///
    /// The mark is an entry before all others, of lazy pages where nothing is mapped, more than there can be. `criu restore --lazy-pages` passes
    /// over what is lazy. Without `--lazy-pages` it refuses such pages; without the mark it would restore other pages in their places.
    /// `criu lazy-pages` fails to get a buffer of that size as soon as the process is handed to it, so that the restore fails too.
    pub marked: bool,
}

/// The mark, where counts have 64 bits: 2^63 bytes, for which there is no memory anywhere.
const MARK_WIDE: u64 = 1 << 51;
/// The mark where they have 32 bits.
const MARK_NARROW: u64 = u32::MAX as u64;

/// How the number of pages of an entry is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Counts {
    /// In 64 bits, as CRIU 4.2 does.
    #[default]
    Wide,
    /// In 32 bits, as its predecessors do.
    Narrow,
}

/// Consecutive pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Address of the first.
    pub at: Addr,
    /// How many there are. Never 0.
    pub pages: u64,
    /// Where their content is, and who restores them.
    pub flags: Flags,
}

impl Entry {
    /// The addresses of the pages.
    #[must_use]
    pub const fn range(&self) -> AddrRange {
        AddrRange::at(self.at, self.pages.saturating_mul(PAGE_BYTES))
    }
}

/// Where the content of pages is, and who restores them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Flags(u32);

impl Flags {
    /// The content is in the `parent` directory.
    pub const PARENT: Self = Self(1);
    /// `criu restore --lazy-pages` leaves the pages to the daemon.
    pub const LAZY: Self = Self(2);
    /// The content is in the file with the pages.
    pub const PRESENT: Self = Self(4);
    /// Lazy, and in the file with the pages: as `criu dump` writes it.
    pub const LAZY_PRESENT: Self = Self(6);

    /// Flags as they are in the image. `None` if there are others than those above, or none that says where the pages are, or two.
    #[must_use]
    pub const fn new(bits: u32) -> Option<Self> {
        match bits {
            1..=4 | 6 => Some(Self(bits)),
            _ => None,
        }
    }

    /// True when all of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As they are in the image.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Self::PARENT, "PARENT"),
            (Self::LAZY, "LAZY"),
            (Self::PRESENT, "PRESENT"),
        ];
        let set: Vec<_> = names
            .into_iter()
            .filter(|(flag, _)| self.has(*flag))
            .map(|(_, name)| name)
            .collect();
        f.write_str(&set.join("|"))
    }
}

impl Pagemap {
    /// Reads the bytes of a pagemap-PID.img.
    ///
    /// # Errors
    /// Anything that is not such an image; entries that overlap, or are out of order; flags that are not known.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = Records::of(bytes, Kind::Pagemap)?;
        let head: PagemapHead = records.first()?;
        let pages_id = head.pages_id;
        let pages_id =
            pages_id.ok_or_else(|| Fault::damaged("it does not say where its pages are"))?;
        let mut entries: Vec<Entry> = Vec::new();
        let mut counts = Counts::default();
        let mut marked = false;
        while let Some(raw) = records.next::<PagemapEntry>()? {
            if raw.nr_pages.is_none() {
                counts = Counts::Narrow;
            }
            let entry = entry_of(&raw)?;
            if is_mark(&entry) && entries.is_empty() && !marked {
                marked = true;
                continue;
            }
            if entries
                .last()
                .is_some_and(|last| last.range().end > entry.at)
            {
                let what = format!(
                    "the pages at {} overlap others, or are out of order",
                    entry.at
                );
                return Err(Fault::damaged(what));
            }
            entries.push(entry);
        }
        Ok(Self {
            pages_id,
            entries,
            counts,
            marked,
        })
    }

    /// The bytes of a pagemap-PID.img. Those that were [read](Self::read) come out as they were if a CRIU since 3.0 wrote them and nothing
    /// has been changed. Whoever replaces a pagemap makes sure of it first.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Kind::Pagemap.header();
        let head = PagemapHead {
            pages_id: Some(self.pages_id),
        };
        append(&head, &mut bytes);
        let mark = self.marked.then(|| self.mark());
        for entry in mark.iter().chain(&self.entries) {
            append(&self.message_of(entry), &mut bytes);
        }
        bytes
    }

    /// Pages that are in the file with the pages.
    #[must_use]
    pub fn present_pages(&self) -> u64 {
        let present = self
            .entries
            .iter()
            .filter(|entry| entry.flags.has(Flags::PRESENT));
        present.fold(0, |sum, entry| sum.saturating_add(entry.pages))
    }

    fn mark(&self) -> Entry {
        Entry {
            at: Addr(0),
            pages: match self.counts {
                Counts::Wide => MARK_WIDE,
                Counts::Narrow => MARK_NARROW,
            },
            flags: Flags::LAZY,
        }
    }

    fn message_of(&self, entry: &Entry) -> PagemapEntry {
        let narrow = match self.counts {
            Counts::Wide => None,
            Counts::Narrow => u32::try_from(entry.pages).ok(),
        };
        PagemapEntry {
            vaddr: Some(entry.at.0),
            compat_nr_pages: Some(narrow.unwrap_or(0)),
            in_parent: None,
            flags: Some(entry.flags.bits()),
            nr_pages: narrow.is_none().then_some(entry.pages),
        }
    }
}

fn is_mark(entry: &Entry) -> bool {
    entry.at == Addr(0)
        && entry.flags == Flags::LAZY
        && matches!(entry.pages, MARK_WIDE | MARK_NARROW)
}

/// An entry that makes sense by itself.
fn entry_of(raw: &PagemapEntry) -> Result<Entry, Fault> {
    let Some(vaddr) = raw.vaddr else {
        return Err(Fault::damaged("there are pages without an address"));
    };
    let pages = raw.nr_pages.or(raw.compat_nr_pages.map(u64::from));
    let pages = pages.unwrap_or(0);
    let end = pages
        .checked_mul(PAGE_BYTES)
        .and_then(|len| vaddr.checked_add(len));
    if pages == 0 || end.is_none() || !vaddr.is_multiple_of(PAGE_BYTES) {
        let what = format!("it has {pages} pages at {vaddr:#x}, which cannot be");
        return Err(Fault::damaged(what));
    }
    let bits = raw.flags.unwrap_or(match raw.in_parent {
        Some(true) => Flags::PARENT.0,
        _ => Flags::PRESENT.0,
    });
    let Some(flags) = Flags::new(bits) else {
        let what = format!("the pages at {vaddr:#x} have flags {bits:#x}, which are not known");
        return Err(Fault::Unknown(what));
    };
    Ok(Entry {
        at: Addr(vaddr),
        pages,
        flags,
    })
}
