//! What is open in this process's table.
#![expect(unsafe_code, reason = "closing descriptors whose owner is dead")]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

/// What is open, and what it is.
pub(crate) fn descriptors() -> Vec<(RawFd, String)> {
    let entries = fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, link_of(number)?))
        })
        .collect()
}

/// What a descriptor is.
pub(crate) fn link_of(descriptor: RawFd) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    Some(link.to_str()?.to_owned())
}

/// The numbers of all that is open.
pub(super) fn open_descriptors() -> BTreeSet<RawFd> {
    // That of the folder itself is gone before anybody looks.
    descriptors()
        .into_iter()
        .map(|(number, _)| number)
        .collect()
}

/// Closes descriptors that a dead worker has left: nobody else knows them.
pub(super) fn close_strays(strays: impl Iterator<Item = RawFd>) {
    for number in strays {
        // SAFETY: it belonged to a process that is dead, and nothing in this one has it: it was open before this one opened
        // anything. One that is closed already is no harm.
        unsafe { libc::close(number) };
    }
}
