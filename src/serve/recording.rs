//! Which pages the target touches, until it has touched enough.

use std::fmt;
use std::time::{Duration, Instant};

use super::engine::Engine;
use crate::session::Touch;

/// What is recorded of a restore, and who gets it.
pub struct Recording {
    /// How long at most, from the first moment of serving.
    pub most: Duration,
    /// It is over when nothing was touched for so long.
    pub idle: Duration,
    /// Gets it, once, on the loop's thread: it must not take long.
    pub done: Box<dyn FnOnce(Vec<Touch>) + Send>,
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("most", &self.most)
            .field("idle", &self.idle)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// From now on.
    pub(super) fn begin_recording(&mut self, now: Instant) {
        if self.recording.is_some() {
            let pages = self.session.owes() / snapshot_format::PAGE_BYTES;
            self.session.record(now, pages);
        }
    }

    pub(super) fn check_recording(&mut self, now: Instant) {
        let enough = self.recording.as_ref().is_some_and(|recording| {
            self.session
                .recorded_enough(now, recording.most, recording.idle)
        });
        if enough {
            self.end_recording();
        }
    }

    /// Hands over what there is.
    pub(super) fn end_recording(&mut self) {
        if let Some(recording) = self.recording.take()
            && let Some(touches) = self.session.end_recording()
        {
            (recording.done)(touches);
        }
    }
}
