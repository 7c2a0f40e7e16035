//! Where a pagemap has some pages.

use snapshot_format::PAGE_BYTES;

use super::pagemap::{Entry, Flags, Pagemap};
use crate::addr::{Addr, AddrRange};

/// Where pages are.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Those that this pagemap knows, and the number of their first one in the file. `None`: in no file.
    pub(super) here: Vec<(AddrRange, Option<u64>)>,
    /// Those that the pagemap in the `parent` directory knows.
    pub(super) in_parent: Vec<AddrRange>,
}

/// Finds pages, given in ascending order, each once.
///
/// # Errors
/// The address of the first one that the pagemap does not have.
pub(super) fn find(pagemap: &Pagemap, wanted: &[AddrRange]) -> Result<Found, Addr> {
    let mut found = Found::default();
    let mut entries = with_first_page(&pagemap.entries).peekable();
    for want in wanted {
        let mut at = want.start;
        while at < want.end {
            while entries
                .next_if(|(entry, _)| entry.range().end <= at)
                .is_some()
            {}
            let (entry, first) = entries
                .peek()
                .filter(|(entry, _)| entry.at <= at)
                .ok_or(at)?;
            let piece = AddrRange {
                start: at,
                end: want.end.min(entry.range().end),
            };
            if entry.flags.has(Flags::PARENT) {
                found.in_parent.push(piece);
            } else {
                let page = first.saturating_add(at.since(entry.at) / PAGE_BYTES);
                let is_present = entry.flags.has(Flags::PRESENT);
                found.here.push((piece, is_present.then_some(page)));
            }
            at = piece.end;
        }
    }
    Ok(found)
}

/// Entries, and how many pages there are in the file before theirs.
fn with_first_page(entries: &[Entry]) -> impl Iterator<Item = (&Entry, u64)> {
    entries.iter().scan(0u64, |sum, entry| {
        let first = *sum;
        if entry.flags.has(Flags::PRESENT) {
            *sum = sum.saturating_add(entry.pages);
        }
        Some((entry, first))
    })
}
