//! A target whose memory is owed, and which stands still until somebody lets it go.

use std::time::Duration;

use super::attach_error::AttachError;
use crate::serve::{Guard, Target, Watched};
use crate::tracee::{StoppedProcess, TraceError};

/// The target does not run as long as this exists. As long as it does not run the kernel kills it if this program ends.
#[derive(Debug)]
pub struct Standing {
    process: StoppedProcess,
    target: Target,
}

/// A target that runs.
#[derive(Debug)]
pub struct Released {
    /// As long as this exists the target must not outlive this program.
    pub watched: Option<Watched>,
    /// How long the target stood still.
    pub stood_still: Duration,
}

impl Standing {
    pub(super) fn new(process: StoppedProcess, target: Target) -> Self {
        Self { process, target }
    }

    /// Lets its threads go on. From now on somebody has to serve it; `guard` takes over the responsibility for it.
    ///
    /// # Errors
    /// [`AttachError`]: it has ended, or was killed, or, where its text says so, is to be killed. It must be served as long as it lives.
    pub fn release(self, guard: Option<&Guard>) -> Result<Released, AttachError> {
        let Self { process, target } = self;
        let watched = guard.and_then(|guard| guard.watch(&target));
        match process.release() {
            Ok(released) => Ok(Released {
                watched,
                stood_still: released.stood_still,
            }),
            Err(error @ TraceError::Ended { .. }) => Err(error.into()),
            Err(error) => {
                let (pid, killed) = (target.pid, target.kill().is_ok());
                if !killed {
                    // Some of its threads may run. The guard keeps its descriptor open, so that they wait, and kills it.
                    std::mem::forget((watched, target));
                }
                Err(AttachError::Destroyed {
                    pid,
                    why: Box::new(error.into()),
                    killed,
                })
            }
        }
    }
}
