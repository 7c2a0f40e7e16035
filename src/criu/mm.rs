//! mm-PID.img: the mappings that are restored lazily.

use snapshot_format::PAGE_BYTES;

use super::messages::{Mm, Vma};
use super::records::{Kind, Records};
use super::{Fault, Mapping};
use crate::addr::{Addr, AddrRange};

/// Bits of `flags`, as in mmap(2).
const PRIVATE: u32 = 0x2;
const ANONYMOUS: u32 = 0x20;
const LOCKED: u32 = 0x2000;
const HUGETLB: u32 = 0x4_0000;

/// Bits of `status`, which are CRIU's own.
const VSYSCALL: u32 = 1 << 2;
const VDSO: u32 = 1 << 3;
const HEAP: u32 = 1 << 5;
const VVAR: u32 = 1 << 12;

/// The bit of `madv` for MADV_WIPEONFORK: 1 shifted by the number of the advice.
const WIPEONFORK: u64 = 1 << 18;

/// Arguments and environment are no larger than this, as execve(2) has it. A process may say that they are anywhere.
const MOST_ARGUMENTS: u64 = 6 << 20;
/// Pages of a stack that are looked at as soon as the process runs.
const STACK_PAGES: u64 = 4;

/// What is needed of mm-PID.img.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) mappings: Vec<Mapping>,
    pub(super) arguments: AddrRange,
    pub(super) stack_top: Option<AddrRange>,
    /// Nothing at all is mapped at address 0.
    pub(super) can_be_marked: bool,
}

impl Memory {
    /// Reads the bytes of an mm-PID.img.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut records = Records::of(bytes, Kind::Mm)?;
        let mm: Mm = records.first()?;
        if records.next::<Mm>()?.is_some() {
            return Err(Fault::damaged("it has more than one message"));
        }
        let stack = mm.start_stack.map(Addr);
        let mut mappings = Vec::new();
        let mut end = Addr(0);
        for vma in &mm.vmas {
            let at = place_of(vma)?;
            if at.start < end {
                let what = format!("the mapping {at} overlaps others, or is out of order");
                return Err(Fault::damaged(what));
            }
            end = at.end;
            mappings.extend(registered(vma, at, stack)?);
        }
        Ok(Self {
            stack_top: stack_top(&mappings, stack),
            arguments: arguments(&mm),
            can_be_marked: mm.vmas.first().is_none_or(|first| first.start != Some(0)),
            mappings,
        })
    }
}

fn place_of(vma: &Vma) -> Result<AddrRange, Fault> {
    let (Some(start), Some(end)) = (vma.start, vma.end) else {
        return Err(Fault::damaged("it has a mapping without addresses"));
    };
    let at = AddrRange::new(start, end);
    let whole_pages = start.is_multiple_of(PAGE_BYTES) && end.is_multiple_of(PAGE_BYTES);
    if at.is_empty() || !whole_pages {
        return Err(Fault::damaged(format!(
            "it has a mapping at {at}, which cannot be"
        )));
    }
    Ok(at)
}

/// The mapping, if `criu restore --lazy-pages` registers it.
fn registered(vma: &Vma, at: AddrRange, stack: Option<Addr>) -> Result<Option<Mapping>, Fault> {
    let (Some(protection), Some(flags), Some(status)) = (vma.prot, vma.flags, vma.status) else {
        return Err(Fault::damaged(format!(
            "it does not say what the mapping at {at} is"
        )));
    };
    let is_lazy = flags & (PRIVATE | ANONYMOUS) == PRIVATE | ANONYMOUS
        && flags & (LOCKED | HUGETLB) == 0
        && status & (VSYSCALL | VDSO | VVAR) == 0;
    let name = if status & HEAP != 0 {
        "[heap]"
    } else if stack.is_some_and(|stack| at.contains(stack)) {
        "[stack]"
    } else {
        ""
    };
    Ok(is_lazy.then_some(Mapping {
        at,
        protection,
        wiped_on_fork: vma.madv.is_some_and(|advice| advice & WIPEONFORK != 0),
        name,
    }))
}

/// Arguments and environment, which lie behind each other unless the process says otherwise.
fn arguments(mm: &Mm) -> AddrRange {
    let from = |end: Option<u64>| AddrRange::new(mm.arg_start.unwrap_or(0), end.unwrap_or(0));
    [mm.env_end, mm.arg_end]
        .into_iter()
        .map(from)
        .find(|range| !range.is_empty() && range.len() <= MOST_ARGUMENTS)
        .unwrap_or_default()
}

fn stack_top(mappings: &[Mapping], stack: Option<Addr>) -> Option<AddrRange> {
    let stack = stack?;
    let mapping = mappings.iter().find(|mapping| mapping.at.contains(stack))?;
    let most = Addr(mapping.at.end.0.saturating_sub(STACK_PAGES * PAGE_BYTES));
    Some(AddrRange {
        start: most.max(mapping.at.start),
        end: mapping.at.end,
    })
}
