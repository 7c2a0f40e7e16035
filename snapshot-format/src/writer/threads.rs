//! The writer's threads and the channels between them:
//!
//! ```text
//!            jobs                    answers
//!   writer ────────> compress × N ───────────> collect ──> output, index
//!     ^  free batches  │      ^  free encoded     │
//!     └────────────────┘      └───────────────────┘
//! ```
//!
//! Batches and results go round; there are only so many of either, which bounds the memory.

use super::WriterOptions;
use super::batch::{Batch, Job, MAX_BATCH_PAGES};
use super::collect::{Collected, Collector, Summary};
use super::encode::{BatchEncoder, Encoded};
use super::worker::Worker;
use crate::error::WriteError;
use crate::index::IndexBuilder;
use crate::page::PAGE_SIZE;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use std::io::Write;
use std::thread::JoinHandle;

/// An index up to this size (2 GiB of varied memory, in bytes) is kept in memory until it is written.
const INDEX_IN_MEMORY: usize = 8 << 20;

/// Most jobs that wait for a worker. Batches are bounded by their memory; this is for runs, which have none.
const MAX_WAITING_JOBS: usize = 4096;

/// The writer's end of everything.
pub(super) struct Threads<W> {
    /// Batches that may still be allocated.
    batches_left: usize,
    free_batches: Receiver<Batch>,
    jobs: Option<Sender<(u64, Job)>>,
    jobs_sent: u64,
    jobs_total: Sender<u64>,
    workers: Vec<JoinHandle<()>>,
    collector: Option<JoinHandle<Result<Collected<W>, WriteError>>>,
}

impl<W: Write + Send + 'static> Threads<W> {
    pub(super) fn start(out: W, options: &WriterOptions) -> Result<Self, WriteError> {
        let threads = options.jobs.max(1);
        let in_flight = 2 * threads + 2;
        let (jobs, jobs_out) = bounded(MAX_WAITING_JOBS);
        let (answers_in, answers) = unbounded();
        let (free_batches_in, free_batches) = unbounded();
        let (free_encoded, free_encoded_out) = bounded(in_flight);
        let (jobs_total, jobs_total_out) = bounded(1);
        for _ in 0..in_flight {
            drop(free_encoded.send(Encoded::new(options.compression)));
        }
        let mut batches_left = batches(options).max(in_flight);
        if options.touch_buffer {
            for _ in 0..std::mem::take(&mut batches_left) {
                drop(free_batches_in.send(Batch::touched()));
            }
        }
        let mut workers = Vec::with_capacity(threads);
        for _ in 0..threads {
            let worker = Worker {
                encoder: BatchEncoder::new(options.compression)?,
                jobs: jobs_out.clone(),
                answers: answers_in.clone(),
                free_batches: free_batches_in.clone(),
                free_encoded: free_encoded_out.clone(),
            };
            let on_start = options.on_thread_start;
            workers.push(spawn("compress", move || {
                on_start();
                worker.run();
            })?);
        }
        let spool = tempfile::spooled_tempfile_in(INDEX_IN_MEMORY, &options.spool_dir);
        let collector = Collector {
            collected: Collected {
                out,
                index: IndexBuilder::new(spool),
                summary: Summary::default(),
            },
            answers,
            free_encoded,
        };
        let collector = spawn("collect", move || collector.run(&jobs_total_out))?;
        Ok(Self {
            batches_left,
            free_batches,
            jobs: Some(jobs),
            jobs_sent: 0,
            jobs_total,
            workers,
            collector: Some(collector),
        })
    }

    /// A batch to fill.
    pub(super) fn batch(&mut self) -> Result<Batch, WriteError> {
        let free = match self.free_batches.try_recv() {
            Ok(batch) => Some(batch),
            Err(_) if self.batches_left > 0 => {
                self.batches_left -= 1;
                Some(Batch::new())
            }
            Err(_) => self.free_batches.recv().ok(),
        };
        free.ok_or_else(|| self.failure())
    }

    pub(super) fn send(&mut self, job: Job) -> Result<(), WriteError> {
        let jobs = self.jobs.as_ref().ok_or(WriteError::Worker)?;
        match jobs.send((self.jobs_sent, job)) {
            Ok(()) => {
                self.jobs_sent += 1;
                Ok(())
            }
            Err(_) => Err(self.failure()),
        }
    }

    /// Why the threads are gone.
    fn failure(&mut self) -> WriteError {
        self.join().err().unwrap_or(WriteError::Worker)
    }

    /// Wait for the threads, and take what the collector has.
    pub(super) fn join(&mut self) -> Result<Collected<W>, WriteError> {
        self.jobs = None;
        // The collector may have failed already; its own answer says why.
        let _ = self.jobs_total.try_send(self.jobs_sent);
        for worker in self.workers.drain(..) {
            worker.join().map_err(|_| WriteError::Worker)?;
        }
        let collector = self.collector.take().ok_or(WriteError::Worker)?;
        collector.join().map_err(|_| WriteError::Worker)?
    }
}

/// Batches that fit the buffer asked for.
fn batches(options: &WriterOptions) -> usize {
    let batch_len = (MAX_BATCH_PAGES * PAGE_SIZE) as u64;
    usize::try_from(options.buffer.div_ceil(batch_len)).unwrap_or(usize::MAX)
}

fn spawn<T: Send + 'static>(
    name: &str,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, WriteError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(WriteError::Output)
}
