//! How a restore went.

use std::sync::Arc;
use std::time::Duration;

use super::Target;
use crate::session::{Counts, Latency, Session};
use crate::takeover::Entry;
use crate::uffd::Userfaultfd;

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
    /// As long as this exists whoever takes over says again how it went.
    #[expect(dead_code, reason = "held")]
    pub(super) unsaid: Option<Arc<Unsaid>>,
}

/// A session that is over. It must be possible to go on with it until that has been said.
#[derive(Debug)]
#[expect(
    dead_code,
    reason = "held, and dropped in this order: nobody is to find what is closed"
)]
pub(super) struct Unsaid {
    pub(super) entry: Entry,
    pub(super) session: Session<Arc<Userfaultfd>>,
    pub(super) target: Arc<Target>,
}
