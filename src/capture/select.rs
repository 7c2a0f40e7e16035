//! Which memory of the target is captured: pure.

use bytesize::ByteSize;
use snapshot_format::{PageSize, Region, RegionKind};

use super::backing::Backing;
use super::selector::RegionSelector;
use super::smaps::Mapping;

/// A mapping, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The mapping.
    pub mapping: Mapping,
    /// What is behind it.
    pub backing: Backing,
}

/// A selected piece of a mapping: all of it, or what a range cut out of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The mapping it is a piece of.
    pub of: Candidate,
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
}

/// Why a selection is not possible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectError {
    /// A selector that fits no mapping.
    #[error(
        "no memory of the target matches \"{selector}\"; the largest mappings are:\n{available}"
    )]
    NothingMatches {
        /// The selector.
        selector: String,
        /// What there is, for people.
        available: String,
    },
    /// The default selection is empty.
    #[error(
        "the target has no writable memory of its own; select a mapping by name or range:\n{available}"
    )]
    NothingByDefault {
        /// What there is, for people.
        available: String,
    },
    /// A selected mapping that is not memory.
    #[error("{mapping} is a device or belongs to the kernel, it cannot be captured: leave it out")]
    NotMemory {
        /// Name and address range of the mapping.
        mapping: String,
    },
    /// A range that contains addresses where nothing is mapped.
    #[error(
        "nothing is mapped at {address:#x}, inside the range {selector}: give a range without gaps"
    )]
    Gap {
        /// The selector.
        selector: String,
        /// The first such address.
        address: u64,
    },
    /// A range that cuts a page.
    #[error(
        "the range {selector} cuts a page of {mapping}: its ends must be multiples of {page_size:#x}"
    )]
    CutsAPage {
        /// The selector.
        selector: String,
        /// Name and address range of the mapping.
        mapping: String,
        /// The page size, in bytes.
        page_size: u64,
    },
}

/// How many mappings an error lists.
const LISTED: usize = 10;

/// Picks the memory to capture, in address order, without overlaps.
///
/// Without selectors: what the process can write and nothing else holds: private anonymous memory with heap, stacks and
/// .bss, and memory files (memfd, shared anonymous, tmpfs, hugetlbfs). `private_files` adds private writable mappings of
/// files (.data of programs and libraries). Memory that is not writable now is left out; name it to have it.
///
/// # Errors
/// [`SelectError`].
pub fn select(
    candidates: &[Candidate],
    selectors: &[RegionSelector],
    private_files: bool,
) -> Result<Vec<Piece>, SelectError> {
    if selectors.is_empty() {
        let pieces: Vec<Piece> = candidates
            .iter()
            .filter(|candidate| by_default(candidate, private_files))
            .map(whole)
            .collect();
        if pieces.is_empty() {
            return Err(SelectError::NothingByDefault {
                available: list(candidates),
            });
        }
        return Ok(pieces);
    }
    let mut pieces = Vec::new();
    for selector in selectors {
        let found = match selector {
            RegionSelector::Name(name) => by_name(candidates, name),
            RegionSelector::Range { start, end } => by_range(candidates, *start, *end, selector)?,
            RegionSelector::Largest => largest(candidates),
        };
        if found.is_empty() {
            return Err(SelectError::NothingMatches {
                selector: selector.to_string(),
                available: list(candidates),
            });
        }
        pieces.extend(found);
    }
    if let Some(piece) = pieces
        .iter()
        .find(|piece| piece.of.backing == Backing::Special)
    {
        return Err(SelectError::NotMemory {
            mapping: piece.of.mapping.line.to_string(),
        });
    }
    if private_files {
        pieces.extend(
            candidates
                .iter()
                .filter(|candidate| is_private_file(candidate))
                .map(whole),
        );
    }
    Ok(without_overlaps(pieces))
}

fn by_default(candidate: &Candidate, private_files: bool) -> bool {
    let mapping = &candidate.mapping;
    match candidate.backing {
        // Droppable memory may be lost at any time, is the state of a random number generator, which two restored copies
        // should not have in common, and cannot be restored through userfaultfd.
        Backing::Anonymous => mapping.line.protection.write && !mapping.flags.droppable,
        Backing::Memory => mapping.line.protection.write,
        Backing::File => private_files && is_private_file(candidate),
        Backing::Special => false,
    }
}

fn is_private_file(candidate: &Candidate) -> bool {
    let line = &candidate.mapping.line;
    candidate.backing == Backing::File && line.protection.write && !line.shared
}

fn whole(candidate: &Candidate) -> Piece {
    Piece {
        start: candidate.mapping.line.start,
        end: candidate.mapping.line.end,
        of: candidate.clone(),
    }
}

fn by_name(candidates: &[Candidate], name: &str) -> Vec<Piece> {
    let named = |candidate: &&Candidate| RegionSelector::names(name, &candidate.mapping.line.name);
    candidates.iter().filter(named).map(whole).collect()
}

/// Writable only: language runtimes reserve address space in mappings far bigger than what they use of it. Not
/// executable: an emulator's buffer for translated code (QEMU without KVM: 1 GiB) may be larger than the guest's RAM.
fn largest(candidates: &[Candidate]) -> Vec<Piece> {
    // Files too: a VMM's guest RAM may be mapped from one, shared (QEMU) or privately (Firecracker, restored).
    let memory = candidates.iter().filter(|candidate| {
        let protection = candidate.mapping.line.protection;
        candidate.backing != Backing::Special && protection.write && !protection.exec
    });
    // Of equals max_by_key would take the last one; the first one is what a user expects.
    memory
        .rev()
        .max_by_key(|candidate| candidate.mapping.line.len())
        .map(whole)
        .into_iter()
        .collect()
}

fn by_range(
    candidates: &[Candidate],
    start: u64,
    end: u64,
    selector: &RegionSelector,
) -> Result<Vec<Piece>, SelectError> {
    let mut pieces = Vec::new();
    let mut reached = start;
    for candidate in candidates {
        let line = &candidate.mapping.line;
        if line.end <= reached || end <= line.start {
            continue;
        }
        if reached < line.start {
            break;
        }
        let piece = Piece {
            of: candidate.clone(),
            start: reached,
            end: end.min(line.end),
        };
        let page_size = candidate.mapping.page_kib * 1024;
        if !piece.start.is_multiple_of(page_size) || !piece.end.is_multiple_of(page_size) {
            let (selector, mapping) = (selector.to_string(), line.to_string());
            return Err(SelectError::CutsAPage {
                selector,
                mapping,
                page_size,
            });
        }
        reached = piece.end;
        pieces.push(piece);
    }
    if !pieces.is_empty() && reached < end {
        return Err(SelectError::Gap {
            selector: selector.to_string(),
            address: reached,
        });
    }
    Ok(pieces)
}

/// Selectors may overlap: every page once, in address order.
fn without_overlaps(mut pieces: Vec<Piece>) -> Vec<Piece> {
    pieces.sort_by_key(|piece| (piece.start, piece.end));
    let mut result: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match result.last_mut() {
            Some(last)
                if last.of.mapping.line.start == piece.of.mapping.line.start
                    && piece.start <= last.end =>
            {
                last.end = last.end.max(piece.end);
            }
            _ => result.push(piece),
        }
    }
    result
}

pub(crate) fn list(candidates: &[Candidate]) -> String {
    let mut memory: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| candidate.backing != Backing::Special)
        .collect();
    memory.sort_by_key(|candidate| std::cmp::Reverse(candidate.mapping.line.len()));
    let mut lines: Vec<String> = memory
        .iter()
        .take(LISTED)
        .map(|candidate| {
            let line = &candidate.mapping.line;
            let size = ByteSize::b(line.len()).display().iec().to_string();
            let sharing = if line.shared { "shared" } else { "private" };
            format!(
                "  {:#x}-{:#x} {size:>10} {sharing:<7} {}",
                line.start,
                line.end,
                line.name.escape_debug()
            )
        })
        .collect();
    if memory.len() > LISTED {
        lines.push(format!("  and {} smaller ones", memory.len() - LISTED));
    }
    lines.join("\n")
}

impl Piece {
    /// The piece as the snapshot format describes it.
    #[must_use]
    pub fn region(&self) -> Region {
        let mapping = &self.of.mapping;
        let line = &mapping.line;
        let has_file = self.of.backing != Backing::Anonymous;
        let kind = if mapping.flags.hugetlb {
            RegionKind::Hugetlb
        } else if line.shared {
            RegionKind::Shared
        } else if line.name == "[stack]" {
            RegionKind::Stack
        } else {
            RegionKind::Private
        };
        Region {
            start: self.start,
            len: self.end - self.start,
            offset: if has_file {
                self.file_offset(self.start)
            } else {
                0
            },
            protection: line.protection,
            kind,
            shared: line.shared,
            page_size: if mapping.flags.hugetlb {
                PageSize::Huge2M
            } else {
                PageSize::Small
            },
            name: line.name.clone(),
        }
    }

    /// The offset in the mapping's file that belongs to an address of the mapping.
    #[must_use]
    pub fn file_offset(&self, address: u64) -> u64 {
        let line = &self.of.mapping.line;
        line.offset.saturating_add(address - line.start)
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
