//! What is dumped and restored, seen by the rounds.

use std::path::Path;

use crate::criu::Restoring;
use crate::daemon::{Daemon, Ended};
use crate::measure::Series;

/// A process that can be dumped, and looked at while it comes back.
pub(crate) trait Workload {
    /// In a word.
    fn name(&self) -> &'static str;

    /// What is touched first, and how each later touch is meant.
    fn unit(&self) -> &'static str;

    /// What is touched as long as the fill lasts.
    fn during(&self) -> &'static str;

    /// What it does between two touches while it touches as long as the fill lasts, in microseconds: a case for each.
    fn pauses(&self) -> &'static [u64];

    /// Starts it, fills it, and dumps it. Returns its pid.
    fn dump(&self, into: &Path, run: &Path) -> i32;

    /// Says what it shall do in its next life.
    fn order(&self, order: Order);

    /// Follows a restore from its beginning to its end, checking everything that comes back.
    fn watch(
        &self,
        order: Order,
        restoring: &mut Restoring,
        daemon: Option<Daemon>,
        run: &Path,
    ) -> Seen;
}

/// One restore's task.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Order {
    /// Touch as long as the fill lasts, and not only in the beginning, and work so many microseconds after each touch.
    pub(crate) pause: Option<u64>,
    /// Another order of touching.
    pub(crate) seed: u64,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// When the first touches were over.
    pub(crate) first: u64,
    /// Microseconds of the touches during the fill.
    pub(crate) each: Series,
    /// The daemon's end, or the end of `criu restore` where there is none.
    pub(crate) ended: Ended,
}
