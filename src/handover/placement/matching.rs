//! Finding the place of one region.

use bytesize::ByteSize;
use snapshot_format::{PAGE_BYTES, PageNo, PlacedRegion, RegionKind};

use super::choice::{Choice, without_suffix};
use super::error::{PlacementError, describe, shortened};
use super::{Situation, is_bound, range_at};
use crate::addr::{Addr, AddrRange};
use crate::capture::backing::Backing;
use crate::capture::select::{Candidate, list};

/// Where a region goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spot<'a> {
    pub(super) region: &'a PlacedRegion,
    pub(super) at: AddrRange,
}

impl Spot<'_> {
    /// The page of the snapshot that belongs at an address of the spot.
    pub(super) fn page_at(&self, address: Addr) -> PageNo {
        PageNo(self.region.first_page.0 + address.since(self.at.start) / PAGE_BYTES)
    }
}

/// The place that a region has by itself.
pub(super) fn find<'a>(
    situation: &Situation<'a>,
    region: &'a PlacedRegion,
) -> Result<Spot<'a>, PlacementError> {
    let home = range_at(region.region.start, region);
    if situation.same_process {
        return at(situation, region, home);
    }
    let named = by_name(situation, region);
    if let Some(exact) = named.iter().find(|candidate| range_of(candidate) == home) {
        return Ok(Spot {
            region,
            at: range_of(exact),
        });
    }
    if !named.is_empty() {
        return one_of(situation, region, &named);
    }
    // Memory without a name is recognised only where it is all there is: a VM's. Among a process's own memory, a stack of
    // a thread may have the same size as another.
    if situation.regions.len() == 1 {
        let sized = by_size(situation, region);
        if !sized.is_empty() {
            return one_of(situation, region, &sized);
        }
    }
    // Its old place may be free, but memory made there would be nobody's: a VM whose RAM has another size would run on
    // zeros. The user has to say so.
    Err(PlacementError::Missing {
        region: describe(region),
        mappings: list(situation.mappings),
    })
}

/// The place that a user chose.
pub(super) fn chosen<'a>(
    situation: &Situation<'a>,
    choice: &Choice,
) -> Result<Spot<'a>, PlacementError> {
    let found = choice.region.find(situation.regions);
    let several = |regions: &[&PlacedRegion]| {
        shortened(
            &regions
                .iter()
                .map(|region| describe(region))
                .collect::<Vec<_>>(),
        )
    };
    let region = match found.as_slice() {
        [one] => *one,
        [] => {
            return Err(PlacementError::NoSuchRegion {
                name: choice.region.to_string(),
                regions: several(&situation.regions.iter().collect::<Vec<_>>()),
            });
        }
        more => {
            return Err(PlacementError::SeveralRegions {
                name: choice.region.to_string(),
                regions: several(more),
            });
        }
    };
    match choice.address {
        Some(address) => at(situation, region, range_at(address, region)),
        None if !situation.same_process && is_bound(region) => {
            Err(PlacementError::AnotherProcess {
                regions: shortened(&[describe(region)]),
            })
        }
        None => {
            // Chosen alone, it is all there is to be restored.
            let alone = Situation {
                regions: std::slice::from_ref(region),
                ..*situation
            };
            find(&alone, region)
        }
    }
}

/// This very place: wholly mapped, or wholly free. Of a process that is rolled back parts may have been unmapped since: they
/// are mapped again.
fn at<'a>(
    situation: &Situation<'a>,
    region: &'a PlacedRegion,
    place: AddrRange,
) -> Result<Spot<'a>, PlacementError> {
    let there: Vec<&Candidate> = situation
        .mappings
        .iter()
        .filter(|candidate| range_of(candidate).overlaps(place))
        .collect();
    let covered: u64 = there
        .iter()
        .map(|candidate| range_of(candidate).common(place).len())
        .sum();
    if covered == 0 || covered == place.len() || situation.same_process {
        return Ok(Spot { region, at: place });
    }
    Err(PlacementError::TooSmall {
        region: describe(region),
        at: place.to_string(),
        covered: ByteSize(covered).display().iec().to_string(),
        mappings: shortened(
            &there
                .iter()
                .map(|candidate| candidate.mapping.line.to_string())
                .collect::<Vec<_>>(),
        ),
    })
}

fn one_of<'a>(
    situation: &Situation<'a>,
    region: &'a PlacedRegion,
    found: &[&Candidate],
) -> Result<Spot<'a>, PlacementError> {
    match found {
        [one] => at(situation, region, range_at(one.mapping.line.start, region)),
        several => Err(PlacementError::Ambiguous {
            region: describe(region),
            mappings: shortened(
                &several
                    .iter()
                    .map(|candidate| candidate.mapping.line.to_string())
                    .collect::<Vec<_>>(),
            ),
        }),
    }
}

/// Mappings of the same name, size and kind, and of the same place in their file.
fn by_name<'a>(situation: &Situation<'a>, region: &PlacedRegion) -> Vec<&'a Candidate> {
    let name = without_suffix(&region.region.name);
    if name.is_empty() {
        return Vec::new();
    }
    situation
        .mappings
        .iter()
        .filter(|candidate| {
            let line = &candidate.mapping.line;
            without_suffix(&line.name) == name
                && (line.inode == 0 || line.offset == region.region.offset)
                && is_alike(candidate, region)
        })
        .collect()
}

/// Anonymous mappings of the same size and kind, large enough for a VM, that no thread stands on.
fn by_size<'a>(situation: &Situation<'a>, region: &PlacedRegion) -> Vec<&'a Candidate> {
    /// No VM has less memory. The stack of a thread usually has.
    const SMALLEST_VM: u64 = 16 << 20;
    situation
        .mappings
        .iter()
        .filter(|candidate| candidate.backing == Backing::Anonymous && is_alike(candidate, region))
        .filter(|candidate| candidate.mapping.line.len() >= SMALLEST_VM)
        .filter(|candidate| {
            let range = range_of(candidate);
            !situation.in_use.iter().any(|&page| range.contains(page))
        })
        .filter(|candidate| {
            candidate.mapping.line.name != "[heap]" && !candidate.mapping.flags.grows_down
        })
        .collect()
}

fn is_alike(candidate: &Candidate, region: &PlacedRegion) -> bool {
    let (line, wanted) = (&candidate.mapping.line, &region.region);
    let huge = wanted.kind == RegionKind::Hugetlb;
    let same_kind = wanted.kind == RegionKind::Raw
        || (line.shared == wanted.shared && candidate.mapping.flags.hugetlb == huge);
    line.len() == range_at(0, region).len() && same_kind
}

fn range_of(candidate: &Candidate) -> AddrRange {
    AddrRange::new(candidate.mapping.line.start, candidate.mapping.line.end)
}
