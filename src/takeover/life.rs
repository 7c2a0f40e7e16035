//! What a worker knows of those that were before it.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::time::Instant;

use super::descriptors::{close_strays, link_of, open_descriptors};
use super::{Directory, Stored};
use crate::uffd::Userfaultfd;

/// A worker's place among those that serve the same sessions, one after the other.
#[derive(Debug)]
pub struct Life {
    /// Workers before this one.
    pub(super) before: u32,
    /// Too many of them died for reasons of their own: nothing is to be tried again.
    pub(super) hopeless: bool,
    /// When it was found that the last of them had died.
    pub(super) since: Instant,
    /// What the keeper has open.
    pub(super) kept: BTreeSet<RawFd>,
    /// What was open when this one began.
    pub(super) found: BTreeSet<RawFd>,
    /// The sessions.
    pub(super) directory: Directory,
    /// What an earlier run has left.
    pub(super) stored: Stored,
    /// That was what there is to go on with when the first worker began.
    pub(super) resumed: bool,
}

impl Life {
    /// True for the first worker of this run.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.before == 0
    }

    /// True when there may be sessions of others to go on with: of a worker that was killed, or of an earlier run.
    #[must_use]
    pub fn takes_over(&self) -> bool {
        self.before > 0 || self.resumed
    }

    /// Workers that have died.
    #[must_use]
    pub fn deaths(&self) -> u32 {
        self.before
    }

    /// True when what is owed is to be given up, because workers die of it.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// When it was found that the last worker had died.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The sessions.
    #[must_use]
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Closes what the worker before has left open, but for what has been taken over from it. To be called when all of that is
    /// known.
    pub fn close_strays(&self, taken_over: &BTreeSet<RawFd>) {
        close_strays(self.strays(taken_over));
    }

    /// True when the worker before had a userfaultfd that belongs to no session.
    pub(super) fn has_stray_userfaultfd(&self, taken_over: &BTreeSet<RawFd>) -> bool {
        self.strays(taken_over).any(is_userfaultfd)
    }

    /// What the worker before has left. A descriptor of the keeper's that the first one was to close may be another's by now; and the
    /// keeper has no userfaultfd.
    fn strays(&self, taken_over: &BTreeSet<RawFd>) -> impl Iterator<Item = RawFd> {
        let found = self.found.iter().copied();
        let found = found.filter(|number| !taken_over.contains(number));
        found.filter(|&number| !self.kept.contains(&number) || is_userfaultfd(number))
    }

    pub(super) fn look_around(&mut self) {
        self.found = open_descriptors();
    }
}

fn is_userfaultfd(number: RawFd) -> bool {
    link_of(number).as_deref() == Some(Userfaultfd::LINK)
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use super::*;
    use crate::uffd::new_for_this_process;

    /// Left open, it would have its process wait for ever.
    #[test]
    fn a_userfaultfd_is_nobodys_who_keeps() {
        let userfaultfd = new_for_this_process().expect("allowed");
        let number = userfaultfd.as_fd().as_raw_fd();
        let all = BTreeSet::from([number, 0]);
        let life = Life {
            before: 1,
            hopeless: false,
            since: Instant::now(),
            kept: all.clone(),
            found: all.clone(),
            directory: Directory::new().expect("memory"),
            stored: Stored::default(),
            resumed: false,
        };
        assert!(life.has_stray_userfaultfd(&BTreeSet::new()));
        assert!(life.strays(&BTreeSet::new()).eq([number]));
        assert!(!life.has_stray_userfaultfd(&all));
    }
}
