//! Memory of a stopped target: making it, emptying it, and what is left in it.

use nix::errno::Errno;
use snapshot_format::PAGE_BYTES;

use super::attach_error::AttachError;
use super::placement::{Place, Way};
use crate::addr::AddrRange;
use crate::capture::pagemap::{PageState, Pagemap};
use crate::tracee::{RemoteCallError, RemoteCaller, StoppedProcess};

/// `MADV_DONTNEED_LOCKED` of `<asm-generic/mman-common.h>`, Linux 5.18: also where pages are locked.
const MADV_DONTNEED_LOCKED: i32 = 24;

/// Maps the places where nothing is. If one cannot be mapped, none is.
pub(super) fn map_missing(
    process: &mut StoppedProcess,
    places: &[Place],
) -> Result<(), AttachError> {
    let missing: Vec<&Place> = places
        .iter()
        .filter(|place| place.way == Way::Mapped)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let pid = process.pid();
    let mut caller = process.caller()?;
    for (done, place) in missing.iter().enumerate() {
        if let Err(error) = map(&mut caller, place) {
            for place in missing.iter().take(done) {
                // The failure that matters is the first one.
                let _ = caller.unmap(place.at.start.0, place.at.len());
            }
            return Err(AttachError::remote("map memory", pid, error));
        }
    }
    caller.finish()?;
    Ok(())
}

fn map(caller: &mut RemoteCaller<'_>, place: &Place) -> Result<(), RemoteCallError> {
    let huge = if place.kind.page_bytes > PAGE_BYTES {
        libc::MAP_HUGETLB | libc::MAP_HUGE_2MB
    } else {
        0
    };
    let execute = if place.executable { libc::PROT_EXEC } else { 0 };
    let rights = libc::PROT_READ | libc::PROT_WRITE | execute;
    // Huge pages are reserved now: that there are too few must be found out before anything is lost.
    let reserve = if huge == 0 { libc::MAP_NORESERVE } else { 0 };
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED_NOREPLACE | reserve | huge;
    let at = caller.map_anonymous(place.at.start.0, place.at.len(), rights, flags)?;
    if at != place.at.start.0 {
        // Before Linux 4.17 the flag is not known, and the address only a wish.
        caller.unmap(at, place.at.len())?;
        return Err(RemoteCallError::Refused(Errno::EEXIST));
    }
    Ok(())
}

/// Drops what is in the places that are to be filled lazily. `lost` becomes true when something may be gone: a kernel that
/// refuses the very first drop has harmed nothing.
pub(super) fn drop_content(
    process: &mut StoppedProcess,
    places: &[Place],
    lost: &mut bool,
) -> Result<(), AttachError> {
    let pid = process.pid();
    let mut caller = process.caller()?;
    for place in places.iter().filter(|place| place.way == Way::Lazy) {
        let advice = match (place.kind.shared, place.locked) {
            // The file's pages as well, not only their mapping.
            (true, _) => libc::MADV_REMOVE,
            (false, true) => MADV_DONTNEED_LOCKED,
            (false, false) => libc::MADV_DONTNEED,
        };
        let dropped = caller.advise(place.at.start.0, place.at.len(), advice);
        *lost |= !matches!(dropped, Err(RemoteCallError::Refused(_)));
        dropped
            .map_err(|error| AttachError::remote("drop the old content of memory", pid, error))?;
    }
    // Places that were mapped just now, and those that are written at once.
    *lost = true;
    caller.finish()?;
    Ok(())
}

/// Pages that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) range: AddrRange,
    /// They are guard pages (MADV_GUARD_INSTALL).
    pub(super) guard: bool,
}

/// What is present in a place, in whole pages of its mapping.
pub(super) fn present_pages(
    process: &StoppedProcess,
    place: &Place,
) -> Result<Vec<Present>, AttachError> {
    let pid = process.pid();
    let failed = |source| AttachError::own("look at the memory of", pid, source);
    let pagemap = Pagemap::open(process.memory_tid()).map_err(failed)?;
    let mut present = Vec::new();
    pagemap
        .for_each_run(place.at.start.0, place.at.end.0, |run| {
            if run.state != PageState::Absent {
                present.push(Present {
                    range: AddrRange::new(run.start, run.end),
                    guard: run.state == PageState::Guard,
                });
            }
            Ok::<(), std::io::Error>(())
        })
        .map_err(failed)?;
    Ok(present)
}
