//! Regions of a snapshot as people name them.

use crate::failure::Failure;
use crate::terminal::printable;
use snapshot_format::{PAGE_BYTES, PageNo, PlacedRegion, RegionMap};

/// A region's name, or what stands for it when it has none.
pub(super) fn name(region: &PlacedRegion) -> String {
    match region.region.name.as_str() {
        "" if region.region.kind == snapshot_format::RegionKind::Raw => "raw memory".into(),
        "" => "anonymous memory".into(),
        name => printable(name),
    }
}

/// Where pages are: "[heap] 0x1000-0x3000". For a raw file the numbers are offsets.
pub(super) fn place(regions: &RegionMap, first: PageNo, pages: u64) -> String {
    match regions.region_of(first) {
        Some(region) => {
            let start = region.address_of(first);
            let end = start.saturating_add(pages.saturating_mul(PAGE_BYTES));
            format!("{} {start:#x}-{end:#x}", name(region))
        }
        None => "no region".into(),
    }
}

/// The regions that `wanted` names, by name or by start address; all if nothing is wanted.
pub(super) fn select<'a>(
    regions: &'a RegionMap,
    wanted: &[String],
) -> Result<Vec<&'a PlacedRegion>, Failure> {
    for text in wanted {
        if !regions.as_slice().iter().any(|region| is(region, text)) {
            return Err(Failure::Usage(format!(
                "the snapshot has no region {text:?}; it has {}",
                listed(regions)
            )));
        }
    }
    let chosen =
        |region: &&PlacedRegion| wanted.is_empty() || wanted.iter().any(|text| is(region, text));
    Ok(regions.as_slice().iter().filter(chosen).collect())
}

fn is(region: &PlacedRegion, text: &str) -> bool {
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16);
    // START, or START-END as `create` and /proc/PID/maps have it.
    let (start, end) = text.split_once('-').unwrap_or((text, ""));
    let region_end = region.region.start.checked_add(region.region.len);
    let ends_there = end.is_empty() || number(end).ok() == region_end;
    (!region.region.name.is_empty() && region.region.name == text)
        || (number(start) == Ok(region.region.start) && ends_there)
}

fn listed(regions: &RegionMap) -> String {
    const MOST: usize = 10;
    let mut listed: Vec<String> = regions
        .as_slice()
        .iter()
        .take(MOST)
        .map(|region| format!("{:?} at {:#x}", name(region), region.region.start))
        .collect();
    let more = regions.as_slice().len().saturating_sub(MOST);
    if more > 0 {
        listed.push(format!("{more} more (see inspect)"));
    }
    listed.join(", ")
}
