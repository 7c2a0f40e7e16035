//! Of what workers die: when it is a page, and when it is too often.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Directory;
use crate::terminal::mention;

/// Deaths at the same page before it is taken for the cause.
const PATIENCE: u32 = 3;
/// Deaths, not by SIGKILL, before nothing is tried any more.
const MANY_DEATHS: u32 = 20;
/// They are forgotten when nobody has died for so long.
const FORGIVEN: Duration = Duration::from_secs(60);

/// Of what workers have died.
#[derive(Default)]
pub(super) struct Deaths {
    /// In a row, of reasons of their own.
    count: u32,
    last: Option<Instant>,
    /// How often while working at a page.
    at: BTreeMap<u64, u32>,
}

impl Deaths {
    /// SIGKILL comes from outside, and says nothing about the page that was being worked at.
    pub(super) fn note(
        &mut self,
        signal: Signal,
        work: &[u64],
        now: Instant,
        directory: &Directory,
    ) {
        if signal == Signal::SIGKILL {
            return;
        }
        if self
            .last
            .is_some_and(|last| now.duration_since(last) > FORGIVEN)
        {
            *self = Self::default();
        }
        self.last = Some(now);
        self.count += 1;
        directory.crashed();
        if !work.is_empty() {
            directory.be_careful();
        }
        self.at.retain(|page, _| work.contains(page));
        for &page in work {
            let count = self.at.entry(page).or_default();
            *count += 1;
            if *count == PATIENCE {
                directory.is_bad(page);
                mention(&format!(
                    "uffd-restore: page {page} of the snapshot was being decoded each time: it is not tried again"
                ));
                self.count = 0;
            }
        }
    }

    /// True when nothing is to be tried any more.
    pub(super) fn are_many(&self) -> bool {
        self.count >= MANY_DEATHS
    }
}
