//! How a restore went.

use std::time::Duration;

use crate::session::{Counts, Latency};

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is in place.
    Complete,
    /// The target, and all it forked, ended (or became other programs) before everything was.
    TargetEnded,
    /// Something was not served: poisoned, or the target was killed for it.
    Failed,
}

/// A restore that is over.
#[derive(Debug, Clone)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What happened.
    pub counts: Counts,
    /// From the fault's message to the installed page.
    pub latency: Latency,
    /// How long it took to install what was touched last time, if all of that was done.
    pub replayed_in: Option<Duration>,
    /// From the first moment of serving to the end.
    pub time: Duration,
}
