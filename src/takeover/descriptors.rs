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
    // That of the folder itself is not open any more, and is that of whatever is opened next.
    let is_open = |(number, link): &(RawFd, String)| {
        !is_a_table(link) || link_of(*number).as_ref() == Some(link)
    };
    let found = descriptors().into_iter().filter(is_open);
    found.map(|(number, _)| number).collect()
}

fn is_a_table(link: &str) -> bool {
    link.starts_with("/proc/") && link.ends_with("/fd")
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
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_opened_next_was_not_open() {
        let before = open_descriptors();
        let next = File::open("/dev/null").expect("open");
        assert!(!before.contains(&next.as_raw_fd()));
        assert!(open_descriptors().contains(&next.as_raw_fd()));
    }
}
