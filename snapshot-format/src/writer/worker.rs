//! The worker threads.

use super::batch::{Batch, Job};
use super::collect::{Answer, Done};
use super::encode::{BatchEncoder, Encoded};
use crate::error::WriteError;
use crossbeam_channel::{Receiver, Sender};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A worker: jobs in, answers out, buffers back to where they came from.
pub(super) struct Worker {
    pub(super) encoder: BatchEncoder,
    pub(super) jobs: Receiver<(u64, Job)>,
    pub(super) answers: Sender<Answer>,
    pub(super) free_batches: Sender<Batch>,
    pub(super) free_encoded: Receiver<Encoded>,
}

impl Worker {
    /// Work until there are no more jobs, or nobody wants the answers.
    pub(super) fn run(mut self) {
        // The room for the answer comes before the job: so the oldest job always has room, and the collector, which waits
        // for it, always gets on. Runs take room too, for it bounds the answers that wait for an older one.
        while let Ok(encoded) = self.free_encoded.recv() {
            let Ok((number, job)) = self.jobs.recv() else {
                return;
            };
            let answer = match job {
                Job::Run(said, pages) => Ok(Done::Run(said, pages, encoded)),
                Job::Batch(batch) => catch_unwind(AssertUnwindSafe(|| self.encode(batch, encoded)))
                    .unwrap_or(Err(WriteError::Worker)),
            };
            if self.answers.send((number, answer)).is_err() {
                return;
            }
        }
    }

    fn encode(&mut self, mut batch: Batch, mut encoded: Encoded) -> Result<Done, WriteError> {
        self.encoder.encode(&batch, &mut encoded)?;
        batch.clear();
        // The writer may be gone; then nobody needs the batch.
        drop(self.free_batches.send(batch));
        Ok(Done::Frames(encoded))
    }
}
