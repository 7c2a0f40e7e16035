//! What is open in this process's table.
#![expect(
    unsafe_code,
    reason = "asking for descriptors by number, and closing those whose owner is dead"
)]

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::RawFd;

/// What is open, and what it is.
pub(crate) fn descriptors() -> Vec<(RawFd, String)> {
    let its = |number| Some((number, link_of(number)?));
    numbers().into_iter().filter_map(its).collect()
}

/// The numbers of what is open, and that of the folder that says so, which is closed when this returns.
fn numbers() -> Vec<RawFd> {
    let entries = fs::read_dir("/proc/self/fd");
    let entries = entries.into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// What a descriptor is.
pub(crate) fn link_of(descriptor: RawFd) -> Option<String> {
    let link = fs::read_link(format!("/proc/self/fd/{descriptor}")).ok()?;
    Some(link.to_str()?.to_owned())
}

/// The numbers of all that is open.
pub(super) fn open_descriptors() -> BTreeSet<RawFd> {
    let mut numbers = numbers();
    // Not that of the folder: what this process opens next gets its number.
    numbers.retain(|&number| is_open(number));
    numbers.into_iter().collect()
}

fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD only says whether there is such a number.
    unsafe { libc::fcntl(number, libc::F_GETFD) != -1 }
}

/// Closes descriptors that a dead worker has left: nobody else knows them.
pub(super) fn close_strays(strays: impl Iterator<Item = RawFd>) {
    for number in strays {
        // SAFETY: it belonged to a process that is dead, and nothing in this one has it: it was open before this one opened
        // anything. One that is closed already is no harm.
        unsafe { libc::close(number) };
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_opened_next_is_none_of_what_was_open() {
        // Other tests may open something at the same time, but not every time.
        let is_new = || {
            let open = open_descriptors();
            let next = fs::File::open("/proc/self/stat").expect("open");
            !open.contains(&next.as_raw_fd())
        };
        assert!((0..100).all(|_| is_new()));
    }
}
