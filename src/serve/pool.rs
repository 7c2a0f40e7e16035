//! Threads that read and decode. They know nothing of address spaces.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TryRecvError, select_biased, unbounded};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{ServeError, cannot};
use crate::session::{Block, Request, What};
use crate::source::{PageReader, PageSource};

/// Why content is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A thread waits.
    Demand,
    /// Nobody waits.
    Fill,
}

/// Work: a request, and a block to put the content into.
type Job = (Request, Block);

/// Work that is done.
pub(super) struct Done {
    pub(super) request: Request,
    pub(super) block: Block,
    pub(super) purpose: Purpose,
}

/// The threads, and the way to and from them. Dropping it ends them.
pub(super) struct Pool {
    demand: Option<Sender<Job>>,
    fill: Option<Sender<Job>>,
    done: Receiver<Done>,
    /// Readable when something is done.
    bell: Arc<EventFd>,
    threads: Vec<JoinHandle<()>>,
    /// Blocks to be used again.
    spare: Vec<Block>,
}

impl Pool {
    /// Starts `jobs` threads.
    pub(super) fn start(source: &dyn PageSource, jobs: usize) -> Result<Self, ServeError> {
        let (demand, demands) = unbounded::<Job>();
        let (fill, fills) = unbounded::<Job>();
        let (done_sender, done) = unbounded();
        let bell = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let bell = Arc::new(bell.map_err(cannot("wait for events"))?);
        let mut pool = Self {
            demand: Some(demand),
            fill: Some(fill),
            done,
            bell: Arc::clone(&bell),
            threads: Vec::new(),
            spare: Vec::new(),
        };
        for number in 0..jobs {
            let worker = Worker {
                reader: source.reader(),
                demands: demands.clone(),
                fills: fills.clone(),
                done: done_sender.clone(),
                bell: Arc::clone(&bell),
            };
            let thread = thread::Builder::new().name(format!("decode-{number}"));
            let thread = thread.spawn(move || worker.work());
            pool.threads.push(thread.map_err(ServeError::Thread)?);
        }
        Ok(pool)
    }

    /// Readable when [`Pool::take`] has something.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Hands over work. False if there is nobody to do it.
    pub(super) fn ask(&mut self, request: Request, purpose: Purpose) -> bool {
        let block = self.spare.pop().unwrap_or_default();
        let way = match purpose {
            Purpose::Demand => &self.demand,
            Purpose::Fill => &self.fill,
        };
        way.as_ref()
            .is_some_and(|way| way.send((request, block)).is_ok())
    }

    /// Silences the bell; to be called before [`Pool::take`] until that returns nothing.
    pub(super) fn silence(&self) {
        // There may be nothing to silence.
        let _ = self.bell.read();
    }

    /// Work that is done.
    pub(super) fn take(&mut self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Gives back a block.
    pub(super) fn give_back(&mut self, block: Block) {
        const MOST: usize = 16;
        if self.spare.len() < MOST {
            self.spare.push(block);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.demand = None;
        self.fill = None;
        for thread in self.threads.drain(..) {
            // A worker does not panic: see `Worker::work`.
            let _ = thread.join();
        }
    }
}

struct Worker {
    reader: Box<dyn PageReader>,
    demands: Receiver<Job>,
    fills: Receiver<Job>,
    done: Sender<Done>,
    bell: Arc<EventFd>,
}

impl Worker {
    /// What somebody waits for comes first.
    fn work(mut self) {
        loop {
            match self.demands.try_recv() {
                Ok(job) => {
                    self.do_it(job, Purpose::Demand);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let (job, purpose) = select_biased! {
                recv(self.demands) -> job => (job, Purpose::Demand),
                recv(self.fills) -> job => (job, Purpose::Fill),
            };
            match job {
                Ok(job) => self.do_it(job, purpose),
                Err(_) => return,
            }
        }
    }

    fn do_it(&mut self, (request, mut block): Job, purpose: Purpose) {
        read(&mut *self.reader, &request, purpose, &mut block);
        // Nobody listens any more when the pool is being dropped.
        let _ = self.done.send(Done {
            request,
            block,
            purpose,
        });
        let _ = self.bell.write(1);
    }
}

/// Reads what is asked for. What a reader panics at is bad, like any other content that cannot be had.
pub(super) fn read(
    reader: &mut dyn PageReader,
    request: &Request,
    purpose: Purpose,
    block: &mut Block,
) {
    let read = catch_unwind(AssertUnwindSafe(|| match purpose {
        // Pages of huge mappings come one by one, each as a whole.
        Purpose::Fill if request.needed == 1 => reader.read_all(&request.welcome, block),
        Purpose::Fill | Purpose::Demand => {
            reader.read(request.page, request.needed, &request.welcome, block);
        }
    }));
    if read.is_err() {
        block.clear();
        for page in request.page.0..request.page.0 + request.needed {
            block.push(
                page,
                What::Bad("this program failed to decode it (please report it)".into()),
            );
        }
    }
}
