//! Threads that read and decode, for all sessions. They know nothing of address spaces.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, select_biased, unbounded};
use nix::sys::eventfd::EventFd;
use snapshot_format::working_set::{Frames, WorkingSet};

use super::elsewhere::Elsewhere;
use super::lease::Lease;
use super::replay::Plan;
use super::{ServeError, bell};
use crate::session::{Block, Request, What};
use crate::source::{PageReader, PageSource};

/// What is wanted.
#[derive(Debug)]
pub(super) enum Work {
    /// Pages that a thread waits for.
    Demand(Request),
    /// Pages that nobody waits for.
    Fill(Request),
    /// The same, to be installed as far as it is lent. What is not is sent back as [`Work::Rest`], and then this, without content.
    Install(Request, Arc<Lease>),
    /// A part of what was to be installed, which the loop is to look at.
    Rest(Request),
    /// A frame of a working set.
    Frame {
        set: Arc<WorkingSet<File>>,
        plan: Arc<Plan>,
    },
}

/// Work that is to be done.
struct Job {
    work: Work,
    block: Block,
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
    pub(super) work: Work,
    pub(super) block: Block,
    /// Why a frame of a working set could not be had. Of pages the block says so.
    pub(super) failed: Option<String>,
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
        let (workers, threads) = Self::to_be_started(source, jobs);
        threads.start()?;
        Ok(workers)
    }

    /// The way to `jobs` threads that are to be started. They can be asked before they are.
    pub fn to_be_started(source: &dyn PageSource, jobs: usize) -> (Self, Threads) {
        let (demand, demands) = unbounded::<Job>();
        let (fill, fills) = unbounded::<Job>();
        let worker = |_| Worker {
            reader: source.reader(),
            frames: None,
            part: PART.max(source.granularity()),
            demands: demands.clone(),
            fills: fills.clone(),
        };
        let threads = Threads((0..jobs).map(worker).collect());
        (Self { demand, fill }, threads)
    }
}

/// Threads that are to be started.
#[must_use]
pub struct Threads(Vec<Worker>);

impl std::fmt::Debug for Threads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Threads").finish_non_exhaustive()
    }
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// [`ServeError::Thread`].
    pub fn start(self) -> Result<(), ServeError> {
        for (number, worker) in self.0.into_iter().enumerate() {
            let thread = thread::Builder::new().name(format!("decode-{number}"));
            let thread = thread.spawn(move || worker.work());
            // They end by themselves when nobody can ask any more.
            drop(thread.map_err(ServeError::Thread)?);
        }
        Ok(())
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
    pub(super) fn ask(&mut self, work: Work) -> bool {
        let way = match work {
            Work::Demand(_) => &self.workers.demand,
            _ => &self.workers.fill,
        };
        let job = Job {
            work,
            block: self.spare.pop().unwrap_or_default(),
            client: Arc::clone(&self.client),
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
        const MOST: usize = 8;
        if self.spare.len() < MOST {
            self.spare.push(block);
        }
    }

    /// There will be less to do.
    pub(super) fn let_go_of_room(&mut self) {
        const FEW: usize = 2;
        self.spare.truncate(FEW);
    }
}

impl Client {
    fn tell(&self, done: Done) {
        // Nobody listens any more when the session is over.
        let _ = self.done.send(done);
        let _ = self.bell.write(1);
    }
}

/// Pages that are read in one go to be installed, where frames are not larger.
const PART: u64 = 32;

struct Worker {
    reader: Box<dyn PageReader>,
    /// Of the working set that was read last.
    frames: Option<(Arc<WorkingSet<File>>, Frames<File>)>,
    /// Pages that are read in one go to be installed.
    part: u64,
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
            work,
            mut block,
            client,
        } = job;
        let mut failed = None;
        match &work {
            Work::Demand(request) => read(&mut *self.reader, request, &mut block),
            Work::Fill(request) | Work::Rest(request) => {
                read_ahead(&mut *self.reader, request, &mut block);
            }
            Work::Install(request, lease) => {
                self.install(request, lease, &mut block, &client);
            }
            Work::Frame { set, plan } => failed = self.read_frame(set, plan, &mut block).err(),
        }
        client.tell(Done {
            work,
            block,
            failed,
        });
    }

    /// Reads and installs in parts, which fit into a processor's cache; and whoever waits for a page does not wait for all of them.
    fn install(&mut self, request: &Request, lease: &Lease, block: &mut Block, client: &Client) {
        if !lease.is_asked() {
            self.reader.announce(&request.welcome);
        }
        let mut elsewhere = Elsewhere::default();
        let mut next = request.welcome.start;
        while next < request.welcome.end && !lease.is_over() {
            while let Ok(job) = self.demands.try_recv() {
                self.do_it(job);
            }
            // Where frames end, too.
            let end = (next - next % self.part).saturating_add(self.part);
            let pages = next..end.min(request.welcome.end);
            next = pages.end;
            if !lease.wants(&pages) {
                continue;
            }
            elsewhere.keep_off(lease.kept_off());
            let part = Request {
                welcome: pages.clone(),
                ..request.clone()
            };
            read_ahead(&mut *self.reader, &part, block);
            if !lease.install(block, &pages) {
                client.tell(Done {
                    work: Work::Rest(part),
                    block: std::mem::take(block),
                    failed: None,
                });
            }
        }
    }

    fn read_frame(
        &mut self,
        set: &Arc<WorkingSet<File>>,
        plan: &Plan,
        block: &mut Block,
    ) -> Result<(), String> {
        // Its bytes are replaced, and need not be zero before.
        block.pieces.clear();
        let known = self.frames.take();
        let mut frames = match known {
            Some((of, frames)) if Arc::ptr_eq(&of, set) => frames,
            _ => Frames::new(Arc::clone(set)),
        };
        let read = catch_unwind(AssertUnwindSafe(|| {
            frames.read(plan.frame, &mut block.bytes)
        }));
        match read {
            Ok(read) => read.map_err(|error| error.to_string())?,
            Err(_) => return Err("this program failed to decode it (please report it)".into()),
        }
        self.frames = Some((Arc::clone(set), frames));
        block.pieces.extend_from_slice(&plan.pieces);
        Ok(())
    }
}

/// Reads what a thread waits for.
pub(super) fn read(reader: &mut dyn PageReader, request: &Request, block: &mut Block) {
    guarded(request, block, |block| {
        reader.read(request.page, request.needed, &request.welcome, block);
    });
}

/// Reads what nobody waits for.
fn read_ahead(reader: &mut dyn PageReader, request: &Request, block: &mut Block) {
    guarded(request, block, |block| match request.needed {
        1 => reader.read_all(&request.welcome, block),
        // Pages of huge mappings come one by one, each as a whole.
        _ => reader.read(request.page, request.needed, &request.welcome, block),
    });
}

/// What a reader panics at is bad, like any other content that cannot be had.
fn guarded(request: &Request, block: &mut Block, read: impl FnOnce(&mut Block)) {
    if catch_unwind(AssertUnwindSafe(|| read(block))).is_err() {
        block.clear();
        for page in request.page.0..request.page.0 + request.needed {
            block.push(
                page,
                What::Bad("this program failed to decode it (please report it)".into()),
            );
        }
    }
}
