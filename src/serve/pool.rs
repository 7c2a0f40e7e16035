//! Threads that read and decode, for all sessions. They know nothing of address spaces.

use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, select_biased, unbounded};
use nix::sys::eventfd::EventFd;

use super::{ServeError, bell};
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

/// Work that is to be done.
struct Job {
    request: Request,
    block: Block,
    purpose: Purpose,
    client: Arc<Client>,
}

/// Where work goes when it is done.
#[derive(Debug)]
struct Client {
    done: Sender<Done>,
    /// Readable when something is done.
    bell: EventFd,
}

/// Work that is done.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) request: Request,
    pub(super) block: Block,
    pub(super) purpose: Purpose,
}

/// The threads, which all sessions share. Dropping the last of those who can ask ends them.
#[derive(Clone)]
pub struct Workers {
    demand: Sender<Job>,
    fill: Sender<Job>,
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl Workers {
    /// Starts `jobs` threads.
    ///
    /// # Errors
    /// [`ServeError::Thread`].
    pub fn start(source: &dyn PageSource, jobs: usize) -> Result<Self, ServeError> {
        let (demand, demands) = unbounded::<Job>();
        let (fill, fills) = unbounded::<Job>();
        for number in 0..jobs {
            let worker = Worker {
                reader: source.reader(),
                demands: demands.clone(),
                fills: fills.clone(),
            };
            let thread = thread::Builder::new().name(format!("decode-{number}"));
            let thread = thread.spawn(move || worker.work());
            // They end by themselves when nobody can ask any more.
            drop(thread.map_err(ServeError::Thread)?);
        }
        Ok(Self { demand, fill })
    }
}

/// One session's way to and from the threads.
pub(super) struct Pool {
    workers: Workers,
    client: Arc<Client>,
    done: Receiver<Done>,
    /// Blocks to be used again.
    spare: Vec<Block>,
}

impl Pool {
    pub(super) fn of(workers: Workers) -> Result<Self, ServeError> {
        let bell = bell()?;
        let (sender, done) = unbounded();
        Ok(Self {
            workers,
            client: Arc::new(Client { done: sender, bell }),
            done,
            spare: Vec::new(),
        })
    }

    /// Readable when [`Pool::take`] has something.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.client.bell.as_fd()
    }

    /// Hands over work. False if there is nobody to do it.
    pub(super) fn ask(&mut self, request: Request, purpose: Purpose) -> bool {
        let job = Job {
            request,
            block: self.spare.pop().unwrap_or_default(),
            purpose,
            client: Arc::clone(&self.client),
        };
        let way = match purpose {
            Purpose::Demand => &self.workers.demand,
            Purpose::Fill => &self.workers.fill,
        };
        way.send(job).is_ok()
    }

    /// Silences the bell; to be called before [`Pool::take`] until that returns nothing.
    pub(super) fn silence(&self) {
        // There may be nothing to silence.
        let _ = self.client.bell.read();
    }

    /// Work that is done.
    pub(super) fn take(&mut self) -> Option<Done> {
        self.done.try_recv().ok()
    }

    /// Gives back a block.
    pub(super) fn give_back(&mut self, block: Block) {
        const MOST: usize = 2;
        if self.spare.len() < MOST {
            self.spare.push(block);
        }
    }
}

struct Worker {
    reader: Box<dyn PageReader>,
    demands: Receiver<Job>,
    fills: Receiver<Job>,
}

impl Worker {
    /// What somebody waits for comes first.
    fn work(mut self) {
        loop {
            match self.demands.try_recv() {
                Ok(job) => {
                    self.do_it(job);
                    continue;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let job = select_biased! {
                recv(self.demands) -> job => job,
                recv(self.fills) -> job => job,
            };
            match job {
                Ok(job) => self.do_it(job),
                Err(_) => return,
            }
        }
    }

    fn do_it(&mut self, job: Job) {
        let Job {
            request,
            mut block,
            purpose,
            client,
        } = job;
        read(&mut *self.reader, &request, purpose, &mut block);
        // Nobody listens any more when the session is over.
        let _ = client.done.send(Done {
            request,
            block,
            purpose,
        });
        let _ = client.bell.write(1);
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
