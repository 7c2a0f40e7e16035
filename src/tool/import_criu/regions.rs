//! The lazy pages of a dump as regions of a snapshot.

use crate::addr::AddrRange;
use crate::criu::{Images, LazyRun, Mapping, Process};
use snapshot_format::{PAGE_BYTES, PageSize, Protection, Region, RegionKind};

/// Most regions of a snapshot.
const MOST: usize = 1 << 20;

/// A region and the runs of lazy pages in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned<'a> {
    /// Position in [`Images::processes`].
    pub(super) process: usize,
    pub(super) mapping: &'a Mapping,
    pub(super) at: AddrRange,
    /// Ascending. What lies between them is zero.
    pub(super) runs: &'a [LazyRun],
}

impl Planned<'_> {
    pub(super) fn region(&self) -> Region {
        let allows = |bit: i32| self.mapping.protection & bit.unsigned_abs() != 0;
        Region {
            start: self.at.start.0,
            len: self.at.len(),
            offset: 0,
            protection: Protection {
                read: allows(libc::PROT_READ),
                write: allows(libc::PROT_WRITE),
                exec: allows(libc::PROT_EXEC),
            },
            kind: match self.mapping.name {
                "[stack]" => RegionKind::Stack,
                _ => RegionKind::Private,
            },
            shared: false,
            page_size: PageSize::Small,
            name: self.mapping.name.into(),
        }
    }
}

/// The regions of all processes, one process behind the other: runs of lazy pages, over gaps of less than `bridged` pages. Frames
/// do not reach from one region into the next, so a gap of a few pages is better bridged than left. `None` if there are too many.
pub(super) fn plan(images: &Images, bridged: u64) -> Option<Vec<Planned<'_>>> {
    let mut bridged = bridged.max(1);
    loop {
        let regions = with_bridges(images, bridged);
        if regions.len() <= MOST {
            return Some(regions);
        }
        // Wider bridges help until only the borders of mappings are left.
        bridged = bridged.checked_mul(16)?;
    }
}

fn with_bridges(images: &Images, bridged: u64) -> Vec<Planned<'_>> {
    let mut regions = Vec::new();
    for (number, process) in images.processes.iter().enumerate() {
        of_process(number, process, bridged, &mut regions);
    }
    regions
}

fn of_process<'a>(
    number: usize,
    process: &'a Process,
    bridged: u64,
    regions: &mut Vec<Planned<'a>>,
) {
    let mut mappings = process.mappings.iter().peekable();
    let mut rest = process.lazy.as_slice();
    while let Some(first) = rest.first() {
        while mappings
            .next_if(|mapping| mapping.at.end <= first.at.start)
            .is_some()
        {}
        // Every lazy run lies in a mapping: the images were refused otherwise.
        let Some(mapping) = mappings.peek() else {
            return;
        };
        let gap = |pair: &[LazyRun]| match pair {
            [one, next] => next.at.start.since(one.at.end) / PAGE_BYTES,
            _ => u64::MAX,
        };
        let follows = |pair: &&[LazyRun]| {
            gap(pair) < bridged && pair.iter().all(|run| mapping.at.covers(run.at))
        };
        let runs = 1 + rest.windows(2).take_while(follows).count();
        let (runs, behind) = rest.split_at(runs);
        let end = runs.last().map_or(first.at.end, |last| last.at.end);
        regions.push(Planned {
            process: number,
            mapping,
            at: AddrRange {
                start: first.at.start,
                end,
            },
            runs,
        });
        rest = behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::Stored;

    fn mapping(start: u64, end: u64, name: &'static str) -> Mapping {
        Mapping {
            at: AddrRange::new(start << 12, end << 12),
            protection: 3,
            wiped_on_fork: false,
            name,
        }
    }

    fn run(start: u64, end: u64) -> LazyRun {
        LazyRun {
            at: AddrRange::new(start << 12, end << 12),
            stored: Some(Stored { file: 0, page: 0 }),
        }
    }

    fn images(mappings: Vec<Mapping>, lazy: Vec<LazyRun>) -> Images {
        Images {
            folder: "x".into(),
            inventory: 0,
            processes: vec![Process {
                pid: 1,
                parent: 0,
                mappings,
                lazy,
                has_memory: true,
                arguments: AddrRange::default(),
                stack_top: None,
                pagemap: 0,
                eager_pages: 0,
                stripped: false,
                can_be_marked: true,
            }],
            files: Vec::new(),
        }
    }

    fn ranges(images: &Images, bridged: u64) -> Vec<(u64, u64, usize)> {
        let planned = plan(images, bridged).expect("few");
        let pages = |planned: &Planned<'_>| {
            let (start, end) = (planned.at.start.0 >> 12, planned.at.end.0 >> 12);
            (start, end, planned.runs.len())
        };
        planned.iter().map(pages).collect()
    }

    #[test]
    fn runs_over_small_gaps_are_a_region_and_mappings_are_not_crossed() {
        let mappings = vec![mapping(10, 40, "[heap]"), mapping(40, 90, "[stack]")];
        let lazy = vec![
            run(10, 12),
            run(14, 20),
            run(39, 40),
            run(40, 41),
            run(80, 81),
        ];
        let images = images(mappings, lazy);
        let split = [
            (10, 12, 1),
            (14, 20, 1),
            (39, 40, 1),
            (40, 41, 1),
            (80, 81, 1),
        ];
        assert_eq!(ranges(&images, 1), split);
        assert_eq!(ranges(&images, 2), split);
        assert_eq!(
            ranges(&images, 3),
            [(10, 20, 2), (39, 40, 1), (40, 41, 1), (80, 81, 1)]
        );
        assert_eq!(ranges(&images, 1000), [(10, 40, 3), (40, 81, 2)]);
        let planned = plan(&images, 1000).expect("few");
        let kinds: Vec<_> = planned
            .iter()
            .map(|planned| planned.region().kind)
            .collect();
        assert_eq!(kinds, [RegionKind::Private, RegionKind::Stack]);
    }

    #[test]
    fn a_million_gaps_are_bridged_rather_than_refused() {
        let lazy: Vec<_> = (0..3 << 20).map(|n| run(2 * n, 2 * n + 1)).collect();
        let images = images(vec![mapping(0, 8 << 20, "")], lazy);
        assert_eq!(ranges(&images, 1).len(), 1);
    }
}
