//! Which region of the snapshot goes where in the target: pure. Everything that can be known to fail fails here, before
//! anything of the target has been touched.
//!
//! A process that is rolled back gets everything back where it was. Another instance of a program gets only what is data
//! by its name or by the user's word: its own heap, stacks and libraries' data hold pointers into itself, and overwriting
//! them with another process's would destroy it.

mod choice;
mod error;
mod matching;

pub use choice::{Choice, ParseChoiceError, RegionName};
pub use error::PlacementError;

use snapshot_format::{PAGE_BYTES, PageNo, PlacedRegion, RegionKind};

use self::matching::{Spot, find};
use crate::addr::{Addr, AddrRange};
use crate::capture::backing::Backing;
use crate::capture::maps::MapsLine;
use crate::capture::select::Candidate;
use crate::space::{FileAt, Kind};

/// How memory gets into its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By fault.
    Lazy,
    /// Before the target goes on: the kernel tells of no faults there.
    Eager,
    /// By fault, in a mapping that is to be made: nothing is there.
    Mapped,
}

/// A piece of a region, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where.
    pub at: AddrRange,
    /// The page of the snapshot that belongs at its start.
    pub first: PageNo,
    /// The whole mapping that it lies in.
    pub mapping: AddrRange,
    /// How.
    pub way: Way,
    /// What kind of memory.
    pub kind: Kind,
    /// The mapping is locked into memory.
    pub locked: bool,
    /// A mapping that is to be made holds code.
    pub executable: bool,
    /// The mapping, for messages.
    pub name: String,
}

/// What is known of snapshot and target.
#[derive(Debug, Clone, Copy)]
pub struct Situation<'a> {
    /// The regions of the snapshot.
    pub regions: &'a [PlacedRegion],
    /// The target is the very process that was captured.
    pub same_process: bool,
    /// The target's mappings, in address order.
    pub mappings: &'a [Candidate],
    /// Pages that the target's threads use as they stand: tops of stacks, thread control blocks.
    pub in_use: &'a [Addr],
    /// What the user said. Empty: all regions, where they belong.
    pub choices: &'a [Choice],
}

/// Finds the place of every region that is to be restored.
///
/// # Errors
/// [`PlacementError`], which lists what was found.
pub fn place(situation: &Situation<'_>) -> Result<Vec<Place>, PlacementError> {
    let mut spots = Vec::new();
    if situation.choices.is_empty() {
        refuse_what_belongs_elsewhere(situation)?;
        refuse_half_a_rollback(situation)?;
        for region in situation.regions {
            spots.push(find(situation, region)?);
        }
    } else {
        for choice in situation.choices {
            spots.push(matching::chosen(situation, choice)?);
        }
    }
    let mut places = Vec::new();
    for spot in &spots {
        places.extend(pieces(situation, spot)?);
    }
    places.sort_by_key(|place| place.at.start);
    refuse_half_a_file(situation, &places)?;
    if let Some(pair) = places
        .windows(2)
        .find(|pair| pair[0].at.overlaps(pair[1].at))
    {
        return Err(PlacementError::Overlap {
            first: pair[0].at.to_string(),
            second: pair[1].at.to_string(),
        });
    }
    Ok(places)
}

/// True for memory that makes sense only in the process that it came from.
fn is_bound(region: &PlacedRegion) -> bool {
    let region = &region.region;
    let library = region.name.starts_with('/')
        && region.kind == RegionKind::Private
        && !region.name.starts_with("/memfd:")
        && !region.name.starts_with("/dev/shm/");
    region.kind == RegionKind::Stack
        || region.name == "[heap]"
        || region.name.starts_with("[stack")
        || region.name.starts_with("[anon:.bss")
        || library
}

fn refuse_what_belongs_elsewhere(situation: &Situation<'_>) -> Result<(), PlacementError> {
    if situation.same_process {
        return Ok(());
    }
    let bound: Vec<String> = situation
        .regions
        .iter()
        .filter(|region| is_bound(region))
        .map(error::describe)
        .collect();
    if bound.is_empty() {
        return Ok(());
    }
    Err(PlacementError::AnotherProcess {
        regions: error::shortened(&bound),
    })
}

/// The heap and the C library's record of it must be of the same moment.
fn refuse_half_a_rollback(situation: &Situation<'_>) -> Result<(), PlacementError> {
    let heap = situation
        .regions
        .iter()
        .any(|region| region.region.name == "[heap]");
    if !situation.same_process || !heap {
        return Ok(());
    }
    let missing: Vec<String> = situation
        .mappings
        .iter()
        .filter(|candidate| {
            let line = &candidate.mapping.line;
            candidate.backing == Backing::File && !line.shared && line.protection.write
        })
        .filter(|candidate| {
            let line = &candidate.mapping.line;
            !situation.regions.iter().any(|region| {
                region.region.start <= line.start
                    && line.end <= region.region.start + region.region.len
            })
        })
        .map(|candidate| candidate.mapping.line.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(PlacementError::WithoutData {
        mappings: error::shortened(&missing),
    })
}

/// Who looks at a page of a shared file through a mapping that is not registered finds zeros, and leaves them there for all.
fn refuse_half_a_file(situation: &Situation<'_>, places: &[Place]) -> Result<(), PlacementError> {
    for place in places {
        let Some(at) = place.kind.file else { continue };
        for candidate in situation.mappings {
            let line = &candidate.mapping.line;
            let mapping = AddrRange::new(line.start, line.end);
            let same = file_of(line) == at.file;
            let overlaps = line.offset < at.offset + place.mapping.len()
                && at.offset < line.offset + mapping.len();
            let restored = places.iter().any(|other| other.mapping == mapping);
            if same && overlaps && !restored {
                return Err(PlacementError::MappedElsewhere {
                    mapping: place.name.clone(),
                    other: line.to_string(),
                });
            }
        }
    }
    Ok(())
}

/// A spot, cut at the borders of the target's mappings. Where there is none, it is to be made.
fn pieces(situation: &Situation<'_>, spot: &Spot<'_>) -> Result<Vec<Place>, PlacementError> {
    let mut places = Vec::new();
    let mut rest = spot.at;
    for candidate in situation.mappings {
        let mapping = AddrRange::new(candidate.mapping.line.start, candidate.mapping.line.end);
        let at = mapping.common(spot.at);
        if at.is_empty() {
            continue;
        }
        let gap = AddrRange {
            end: at.start,
            ..rest
        };
        if !gap.is_empty() {
            places.push(mapped(spot, gap)?);
        }
        places.push(piece(spot, candidate, mapping, at)?);
        rest.start = at.end;
    }
    if !rest.is_empty() {
        places.push(mapped(spot, rest)?);
    }
    Ok(places)
}

fn piece(
    spot: &Spot<'_>,
    candidate: &Candidate,
    mapping: AddrRange,
    at: AddrRange,
) -> Result<Place, PlacementError> {
    let (line, flags) = (&candidate.mapping.line, candidate.mapping.flags);
    let region = error::describe(spot.region);
    let wrong = |why| PlacementError::WrongKind {
        region: region.clone(),
        mapping: line.to_string(),
        why,
    };
    let way = match candidate.backing {
        Backing::Special => return Err(wrong("it is a device or belongs to the kernel")),
        Backing::File if line.shared => {
            return Err(wrong("it is a file, which keeps its own content"));
        }
        _ if flags.droppable => return Err(wrong("the kernel may drop its content at any time")),
        _ if flags.userfault_missing => {
            return Err(PlacementError::AlreadyServed {
                mapping: line.to_string(),
            });
        }
        _ if line.shared && flags.locked => {
            return Err(wrong(
                "it is shared and locked into memory (mlock, mlockall), and cannot be emptied from outside",
            ));
        }
        // What the file has shows through without a fault, and what is written must be a whole page.
        Backing::Memory if !line.shared && flags.hugetlb => {
            return Err(wrong("it is a private mapping of a file of huge pages"));
        }
        Backing::Anonymous => Way::Lazy,
        Backing::Memory if line.shared => Way::Lazy,
        // What the file has shows through wherever nothing was written, without a fault.
        Backing::Memory | Backing::File => Way::Eager,
    };
    let page_bytes = candidate.mapping.page_kib * 1024;
    if flags.hugetlb && page_bytes != 2 << 20 {
        return Err(wrong("it has huge pages of a size other than 2 MiB"));
    }
    let kind = Kind {
        page_bytes: if flags.hugetlb {
            page_bytes
        } else {
            PAGE_BYTES
        },
        shared: line.shared,
        wiped_on_fork: flags.wiped_on_fork,
        file: line.shared.then_some(FileAt {
            file: file_of(line),
            offset: line.offset,
        }),
    };
    if !at.start.0.is_multiple_of(kind.page_bytes) || !at.len().is_multiple_of(kind.page_bytes) {
        return Err(wrong("the region would cover only a part of a huge page"));
    }
    Ok(Place {
        at,
        first: spot.page_at(at.start),
        mapping,
        way,
        kind,
        locked: flags.locked,
        executable: false,
        name: line.to_string(),
    })
}

/// What names the file behind a mapping.
fn file_of(line: &MapsLine) -> (u64, u64) {
    (line.device.major << 32 | line.device.minor, line.inode)
}

/// A part of a spot where nothing is mapped.
fn mapped(spot: &Spot<'_>, at: AddrRange) -> Result<Place, PlacementError> {
    let region = &spot.region.region;
    let can_be_made = matches!(region.kind, RegionKind::Private | RegionKind::Raw)
        || (region.kind == RegionKind::Hugetlb && !region.shared);
    if !can_be_made || region.shared {
        return Err(PlacementError::NotThere {
            region: error::describe(spot.region),
            at: at.to_string(),
        });
    }
    Ok(Place {
        at,
        first: spot.page_at(at.start),
        mapping: at,
        way: Way::Mapped,
        kind: Kind {
            page_bytes: region.page_size.bytes(),
            ..Kind::PRIVATE
        },
        locked: false,
        executable: region.protection.exec,
        name: format!("{:?}", region.name),
    })
}

/// The end of a region placed at an address, in whole pages.
fn range_at(start: u64, region: &PlacedRegion) -> AddrRange {
    AddrRange::at(Addr(start), region.pages() * PAGE_BYTES)
}

#[cfg(test)]
mod tests;
