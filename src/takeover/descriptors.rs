//! What is open in this process's table.
#![expect(unsafe_code, reason = "closing descriptors whose owner is dead")]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

/// The numbers of all that is open.
pub(super) fn open_descriptors() -> BTreeSet<RawFd> {
    let Ok(folder) = fs::read_dir("/proc/self/fd") else {
        return BTreeSet::new();
    };
    let numbers = folder.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        // That of the folder itself is gone before anybody looks.
        fs::read_link(entry.path()).ok().map(|_| number)
    });
    numbers.collect()
}

/// Closes descriptors that a dead worker has left: nobody else knows them.
pub(super) fn close_strays(strays: impl Iterator<Item = RawFd>) {
    for number in strays {
        // SAFETY: it belonged to a process that is dead, and nothing in this one has it: it was open before this one opened
        // anything. One that is closed already is no harm.
        unsafe { libc::close(number) };
    }
}
