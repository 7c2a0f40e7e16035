//! The process whose memory arrives lazily: a fork of this one that touches what it is told.
#![expect(unsafe_code, reason = "fork(2)")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use snapshot_format::bulk::{self, Piece};
use snapshot_format::{Error, PAGE_SIZE, Snapshot};
use uffd_restore::handover::pidfd;
use uffd_restore::uffd::{Userfaultfd, abi};

use crate::area::{Area, memfd};
use crate::image::Image;
use crate::measure::Series;
use crate::raw::{fetch, registered};

const PER_PAGE: usize = PAGE_SIZE / 8;

/// Memory that both sides see: which pages to touch, and how long that took.
#[derive(Debug)]
pub(crate) struct Board {
    area: Area,
    most: usize,
}

impl Board {
    /// For so many touches at most.
    pub(crate) fn new(most: usize) -> Self {
        let pages = (2 * most).div_ceil(PER_PAGE);
        let area = Area::map(pages, Some(&memfd(pages)));
        Self { area, most }
    }

    fn get(&self, at: usize) -> usize {
        usize::try_from(self.area.read(at / PER_PAGE, at % PER_PAGE)).expect("64 bits")
    }

    fn set(&self, at: usize, value: u64) {
        self.area.write(at / PER_PAGE, at % PER_PAGE, value);
    }

    fn write(&self, pages: &[usize]) {
        assert!(pages.len() <= self.most, "the board is too small");
        for (at, &page) in pages.iter().enumerate() {
            self.set(at, page as u64);
        }
    }

    /// Microseconds of the first so many touches.
    fn times(&self, touches: usize) -> Series {
        let nanos = (self.most..self.most + touches).map(|at| self.get(at));
        nanos.map(|nanos| nanos as f64 / 1e3).collect()
    }
}

/// What a target is made of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scene<'a> {
    pub(crate) area: &'a Area,
    pub(crate) board: &'a Board,
    /// What the memory must have; of a bigger area the first pages.
    pub(crate) image: &'a Image,
    /// Where to have it all from before anything is touched, if that is wanted.
    pub(crate) eager: Option<&'a Path>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Touched {
    /// Microseconds of every touch.
    pub(crate) each: Series,
    /// Seconds of all of them, with the work in between.
    pub(crate) all: f64,
    /// Microseconds of the first.
    pub(crate) first: f64,
}

impl Touched {
    /// Microseconds of the touches that waited: no fault takes less than that, and no access to a page that is there more.
    pub(crate) fn waited(&self) -> Series {
        self.each.above(2.0)
    }
}

/// The process. It dies with this value.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pid: Pid,
    socket: UnixStream,
    scene: Scene<'a>,
    touches: usize,
}

const TOUCH: u64 = 0;
const TOUCH_UNCHECKED: u64 = 1;
const CHECK: u64 = 2;
const LOAD: u64 = 3;

impl<'a> Target<'a> {
    /// Forks. The child has the same mappings.
    pub(crate) fn start(scene: Scene<'a>) -> Self {
        Self::fork(scene, false).0
    }

    /// The same, with its area registered to a userfaultfd that moves here.
    pub(crate) fn start_registered(scene: Scene<'a>) -> (Self, Userfaultfd) {
        let (target, userfaultfd) = Self::fork(scene, true);
        (target, userfaultfd.expect("it was asked for"))
    }

    fn fork(scene: Scene<'a>, registers: bool) -> (Self, Option<Userfaultfd>) {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: this program has one thread now, so the child may do all that the parent may.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => {
                drop(there);
                let mut target = Self {
                    pid: child,
                    socket: here,
                    scene,
                    touches: 0,
                };
                let [number, _] = target.reply();
                let userfaultfd = registers.then(|| {
                    let process = pidfd(child.as_raw()).expect("a pidfd");
                    fetch(
                        process.as_fd(),
                        RawFd::try_from(number).expect("a descriptor"),
                    )
                });
                (target, userfaultfd)
            }
            ForkResult::Child => {
                drop(here);
                let lived = catch_unwind(AssertUnwindSafe(|| live(scene, registers, there)));
                // Not back into the parent's code.
                std::process::exit(if lived.is_ok() { 0 } else { 101 });
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Lets it touch pages, and work for so long after each. Does not wait.
    pub(crate) fn touch(&mut self, pages: &[usize], work: Duration) {
        self.scene.board.write(pages);
        self.touches = pages.len();
        let nanos = u64::try_from(work.as_nanos()).expect("short");
        self.order([TOUCH, pages.len() as u64, nanos]);
    }

    /// The same for pages whose content is made up.
    pub(crate) fn touch_unchecked(&mut self, pages: &[usize]) {
        self.scene.board.write(pages);
        self.touches = pages.len();
        self.order([TOUCH_UNCHECKED, pages.len() as u64, 0]);
    }

    /// Waits for the end of touching, and lets the target look at everything on these pages.
    pub(crate) fn touched(&mut self) -> Touched {
        let [nanos, wrong] = self.reply();
        assert_eq!(
            wrong, 0,
            "touched pages had another content than they should"
        );
        Touched {
            first: self.scene.board.get(self.scene.board.most) as f64 / 1e3,
            each: self.scene.board.times(self.touches),
            all: nanos as f64 / 1e9,
        }
    }

    /// Lets the target read the touched pages completely. The first wrong bit ends the benchmark.
    pub(crate) fn check(&mut self) {
        self.order([CHECK, self.touches as u64, 0]);
        let [_, wrong] = self.reply();
        assert_eq!(wrong, 0, "pages had another content than they should");
    }

    /// Lets it fill its memory by itself.
    pub(crate) fn load(&mut self, jobs: usize) {
        self.order([LOAD, jobs as u64, 0]);
        self.reply();
    }

    fn order(&mut self, words: [u64; 3]) {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.socket.write_all(&bytes).expect("an order");
    }

    fn reply(&mut self) -> [u64; 2] {
        receive(&mut self.socket).expect("the target's reply")
    }
}

impl AsFd for Target<'_> {
    /// Readable when there is a reply.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// The child's life.
fn live(scene: Scene<'_>, registers: bool, mut socket: UnixStream) {
    set_pdeathsig(Signal::SIGKILL).expect("prctl");
    let missing = abi::UFFDIO_REGISTER_MODE_MISSING;
    let mut userfaultfd = registers.then(|| registered(scene.area.range(), missing));
    let number = userfaultfd
        .as_ref()
        .map_or(0, |made| made.as_fd().as_raw_fd());
    let mut reply = [u64::try_from(number).expect("a descriptor"), 0];
    loop {
        let bytes: Vec<u8> = reply.iter().flat_map(|word| word.to_le_bytes()).collect();
        if socket.write_all(&bytes).is_err() {
            return;
        }
        let Some([what, number, nanos]) = receive(&mut socket) else {
            return;
        };
        // The parent has it by now.
        drop(userfaultfd.take());
        let count = usize::try_from(number).expect("64 bits");
        reply = match what {
            CHECK => [0, check(scene, count)],
            LOAD => {
                load(scene, count);
                [0; 2]
            }
            _ => {
                let (took, wrong) = touch(scene, count, Duration::from_nanos(nanos));
                [took, if what == TOUCH { wrong } else { 0 }]
            }
        };
    }
}

/// Reads a word of every page of the board. Returns the time in nanoseconds, and how many were wrong.
fn touch(scene: Scene<'_>, count: usize, work: Duration) -> (u64, u64) {
    let Scene {
        area, board, image, ..
    } = scene;
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).expect("short");
    let mut wrong = 0;
    let begun = Instant::now();
    let mut last = begun;
    for at in 0..count {
        let page = board.get(at);
        let found = area.read(page, Image::word_of(page));
        let now = Instant::now();
        board.set(board.most + at, nanos(now - last));
        wrong += u64::from(found != image.word(page));
        last = now;
        while !work.is_zero() && last < now + work {
            std::hint::spin_loop();
            last = Instant::now();
        }
    }
    (nanos(begun.elapsed()), wrong)
}

/// How many of the board's pages are wrong.
fn check(scene: Scene<'_>, count: usize) -> u64 {
    let pages = (0..count).map(|at| scene.board.get(at));
    let wrong = pages.filter(|&page| scene.area.sum(page) != scene.image.sum(page));
    wrong.count() as u64
}

/// Decodes the whole snapshot into the memory.
fn load(scene: Scene<'_>, jobs: usize) {
    let path = scene.eager.expect("a snapshot");
    let snapshot = Snapshot::open(File::open(path).expect("the snapshot"));
    let snapshot = Arc::new(snapshot.expect("a snapshot"));
    let pages = 0..snapshot.pages();
    bulk::read(&snapshot, pages, jobs, |piece| -> Result<(), Error> {
        if let Piece::Bytes(page, bytes) = piece {
            scene
                .area
                .fill(usize::try_from(page.0).expect("64 bits"), bytes);
        }
        Ok(())
    })
    .expect("to decode it");
}

/// None when the other end is gone.
fn receive<const WORDS: usize>(socket: &mut UnixStream) -> Option<[u64; WORDS]> {
    let mut words = [0; WORDS];
    for word in &mut words {
        let mut bytes = [0; 8];
        socket.read_exact(&mut bytes).ok()?;
        *word = u64::from_le_bytes(bytes);
    }
    Some(words)
}
