//! Taking over is tried again, when it could not even be begun: there was no memory, no process, no thread.

use std::collections::BTreeSet;
use std::os::fd::RawFd;
use std::time::Duration;

use super::Directory;
use super::descriptors::{close_strays, open_descriptors};

/// What is waited after the first time; after each that follows, so much longer.
const PAUSE: Duration = Duration::from_millis(20);
const LONGEST: u32 = 50;
/// After so many, a minute in all, it is given up.
const MOST: u32 = 85;

/// How often nobody could take over, in a row.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    failed: u32,
    /// What was open before the last one.
    open: Option<BTreeSet<RawFd>>,
}

impl Attempts {
    /// Waits a little, if somebody waits for it to be tried again.
    pub(super) fn again(&mut self, directory: &Directory) -> bool {
        let again = self.failed < MOST && directory.has_sessions();
        if again {
            self.failed += 1;
            if let Some(open) = &self.open {
                // Nobody knows of them. Those that the first one has left are closed when somebody has taken over.
                close_strays(open_descriptors().difference(open).copied());
            }
            self.open = Some(open_descriptors());
            std::thread::sleep(PAUSE * self.failed.min(LONGEST));
        }
        again
    }

    /// How often it has failed.
    pub(super) fn failed(&self) -> u32 {
        self.failed
    }
}
