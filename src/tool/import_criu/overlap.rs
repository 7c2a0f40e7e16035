//! Which addresses several processes of a dump have lazy pages at.

use crate::addr::{Addr, AddrRange};
use crate::criu::Process;
use std::collections::BTreeSet;

/// Addresses at which the same processes have lazy pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Overlap {
    pub(super) at: AddrRange,
    /// Position of the first of them.
    pub(super) first: usize,
    /// Position of the last of them.
    pub(super) last: usize,
}

/// The addresses that more than one process has lazy pages at, ascending.
pub(super) fn overlaps(processes: &[Process]) -> Vec<Overlap> {
    let mut borders: Vec<(Addr, bool, usize)> = Vec::new();
    for (number, process) in processes.iter().enumerate() {
        for run in &process.lazy {
            borders.push((run.at.start, true, number));
            borders.push((run.at.end, false, number));
        }
    }
    // Ends before beginnings at the same address: runs of a process that follow each other do not end the second one.
    borders.sort_unstable();
    let mut overlaps: Vec<Overlap> = Vec::new();
    let mut here = BTreeSet::new();
    let mut from = Addr(0);
    for (at, begins, number) in borders {
        let who = here.first().copied().zip(here.last().copied());
        if let Some((first, last)) = who
            && first < last
            && from < at
        {
            push(
                &mut overlaps,
                AddrRange {
                    start: from,
                    end: at,
                },
                first,
                last,
            );
        }
        from = at;
        if begins {
            here.insert(number);
        } else {
            here.remove(&number);
        }
    }
    overlaps
}

fn push(overlaps: &mut Vec<Overlap>, at: AddrRange, first: usize, last: usize) {
    match overlaps.last_mut() {
        Some(before) if (before.at.end, before.first, before.last) == (at.start, first, last) => {
            before.at.end = at.end;
        }
        _ => overlaps.push(Overlap { at, first, last }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::LazyRun;

    fn process(runs: &[(u64, u64)]) -> Process {
        let run = |&(start, end)| LazyRun {
            at: AddrRange::new(start, end),
            stored: None,
        };
        Process {
            pid: 1,
            parent: 0,
            mappings: Vec::new(),
            lazy: runs.iter().map(run).collect(),
            has_memory: true,
            arguments: AddrRange::default(),
            stack_top: None,
            pagemap: 0,
            eager_pages: 0,
            stripped: false,
            can_be_marked: true,
        }
    }

    #[test]
    fn addresses_of_several_processes_are_found_and_who_they_are() {
        let processes = [
            process(&[(10, 20), (20, 30), (50, 60)]),
            process(&[]),
            process(&[(15, 55)]),
            process(&[(25, 26), (90, 99)]),
        ];
        let found: Vec<_> = overlaps(&processes)
            .iter()
            .map(|overlap| {
                let at = overlap.at;
                (at.start.0, at.end.0, overlap.first, overlap.last)
            })
            .collect();
        assert_eq!(
            found,
            [
                (15, 25, 0, 2),
                (25, 26, 0, 3),
                (26, 30, 0, 2),
                (50, 55, 0, 2)
            ]
        );
        assert!(overlaps(&processes[..1]).is_empty());
    }
}
