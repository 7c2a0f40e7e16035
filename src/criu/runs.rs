//! Pages in order, cut where mappings end.

use snapshot_format::PAGE_BYTES;

use super::{LazyRun, Mapping, Stored};
use crate::addr::{Addr, AddrRange};

/// Cuts runs at the borders of mappings, and joins those that continue each other. Both are ascending.
///
/// # Errors
/// Pages that lie in no mapping.
pub(super) fn cut(runs: &[LazyRun], mappings: &[Mapping]) -> Result<Vec<LazyRun>, AddrRange> {
    let mut cut: Vec<LazyRun> = Vec::new();
    let mut mappings = mappings.iter().peekable();
    // Where the mapping of the last piece begins: pieces of different ones are not joined.
    let mut last_start = None;
    for run in runs {
        let mut rest = *run;
        while !rest.at.is_empty() {
            while mappings
                .next_if(|mapping| mapping.at.end <= rest.at.start)
                .is_some()
            {}
            let mapping = mappings
                .peek()
                .filter(|mapping| mapping.at.contains(rest.at.start))
                .ok_or(rest.at)?;
            let piece = split_off(&mut rest, mapping.at.end);
            let same = last_start.replace(mapping.at.start) == Some(mapping.at.start);
            match cut.last_mut() {
                Some(last) if same && continues(last, &piece) => last.at.end = piece.at.end,
                _ => cut.push(piece),
            }
        }
    }
    Ok(cut)
}

/// What lies before an address, which is behind the start. The rest remains.
fn split_off(rest: &mut LazyRun, border: Addr) -> LazyRun {
    let piece = LazyRun {
        at: AddrRange {
            start: rest.at.start,
            end: rest.at.end.min(border),
        },
        stored: rest.stored,
    };
    rest.at.start = piece.at.end;
    rest.stored = behind(&piece);
    piece
}

/// True when a run begins where another ends, in memory and in the file.
fn continues(run: &LazyRun, next: &LazyRun) -> bool {
    run.at.end == next.at.start && behind(run) == next.stored
}

/// Where the page behind a run would be stored.
fn behind(run: &LazyRun) -> Option<Stored> {
    run.stored.map(|stored| Stored {
        file: stored.file,
        page: stored.page.saturating_add(run.at.len() / PAGE_BYTES),
    })
}
