//! The process whose memory arrives lazily: a fork of this one that does what it is told.
#![expect(unsafe_code, reason = "fork(2)")]

use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};
use uffd_restore::handover::pidfd;
use uffd_restore::uffd::Userfaultfd;

use crate::area::Area;
use crate::crowd::Crowd;
use crate::measure::{Random, Series};
use crate::raw::{fetch, registered};

/// Which pages are touched.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Walk {
    /// Blocks of `around` pages of which something is touched, at most.
    pub(crate) blocks: usize,
    /// Pages that arrive together.
    pub(crate) around: usize,
    /// Of each block one page, or all.
    pub(crate) touched: usize,
    /// From the first block on, or blocks and pages from all over the memory.
    pub(crate) random: bool,
    /// How long the target works on something else after each touch.
    pub(crate) pause: Duration,
}

/// What a target can be told to do.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Touch pages, each of which must have its own [`stamp`].
    Touch(Walk),
    /// Read a word of a page.
    Read(usize, usize),
    /// Write a word of a page.
    Write(usize, usize, u64),
    /// madvise(2) for a page.
    Advise(usize, i32),
    /// Touch pages with several threads.
    Crowd(Crowd),
}

/// How a walk went.
#[derive(Debug)]
pub(crate) struct Walked {
    /// Microseconds of the first touch of every block.
    pub(crate) first: Series,
    /// Microseconds of all touches together, for each page.
    pub(crate) each: f64,
}

/// Registered for what, if at all.
pub(crate) type Mode = Option<u64>;

/// The process. It dies with this value.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    pid: Pid,
    socket: UnixStream,
    times: &'a Area,
}

/// What a page of a snapshot has in its first word.
pub(crate) fn stamp(page: usize) -> u64 {
    0x5eed_0000_0000_0001 | (page as u64) << 8
}

impl<'a> Target<'a> {
    /// Forks. The child has the same mappings: `area` is what it touches, `times` (shared) where it puts what it measures.
    /// With a mode it makes a userfaultfd and registers the area, and the descriptor moves here.
    pub(crate) fn start(area: &Area, times: &'a Area, mode: Mode) -> (Self, Option<Userfaultfd>) {
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        // SAFETY: this program has one thread, so the child may do all that the parent may.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => {
                drop(there);
                let mut target = Self {
                    pid: child,
                    socket: here,
                    times,
                };
                let [number, ..] = target.reply();
                let userfaultfd = mode.map(|_| {
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
                let lived = catch_unwind(AssertUnwindSafe(|| live(area, times, mode, there)));
                // Not back into the parent's code.
                std::process::exit(if lived.is_ok() { 0 } else { 101 });
            }
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Gives an order, and does not wait for it to be done.
    pub(crate) fn order(&mut self, order: Order) {
        let words = match order {
            Order::Touch(walk) => {
                let random = u64::from(walk.random);
                [
                    0,
                    walk.blocks as u64,
                    walk.around as u64,
                    walk.touched as u64,
                    random,
                    u64::try_from(walk.pause.as_nanos()).expect("short"),
                ]
            }
            Order::Read(page, word) => [1, page as u64, word as u64, 0, 0, 0],
            Order::Write(page, word, value) => [2, page as u64, word as u64, value, 0, 0],
            Order::Crowd(crowd) => crowd.words(),
            Order::Advise(page, advice) => {
                [3, page as u64, u64::from(advice.unsigned_abs()), 0, 0, 0]
            }
        };
        self.socket.write_all(&bytes(words)).expect("an order");
    }

    /// Waits until the order is done.
    pub(crate) fn reply(&mut self) -> [u64; 6] {
        receive(&mut self.socket).expect("the target's reply")
    }

    /// Waits for the end of [`Order::Touch`].
    pub(crate) fn walked(&mut self) -> Walked {
        let [blocks, pages, nanos, wrong, ..] = self.reply();
        assert_eq!(wrong, 0, "pages had another content than they should");
        let time = |at: u64| {
            let at = usize::try_from(at).expect("64 bits");
            self.times.read(at / 512, at % 512) as f64 / 1e3
        };
        Walked {
            first: (0..blocks).map(time).collect(),
            each: nanos as f64 / 1e3 / pages as f64,
        }
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
fn live(area: &Area, times: &Area, mode: Mode, mut socket: UnixStream) {
    set_pdeathsig(Signal::SIGKILL).expect("prctl");
    let mut userfaultfd = mode.map(|mode| registered(area.range(), mode));
    let number = userfaultfd
        .as_ref()
        .map_or(0, |made| made.as_fd().as_raw_fd());
    let mut reply = [u64::try_from(number).expect("a descriptor"), 0, 0, 0, 0, 0];
    loop {
        if socket.write_all(&bytes(reply)).is_err() {
            return;
        }
        let Some([what, page, word, value, random, pause]) = receive(&mut socket) else {
            return;
        };
        // The parent has it by now.
        drop(userfaultfd.take());
        let [page, word] = [page, word].map(|number| usize::try_from(number).expect("64 bits"));
        reply = [0; 6];
        match what {
            0 => {
                let touched = usize::try_from(value).expect("64 bits");
                reply = touch(
                    area,
                    times,
                    Walk {
                        blocks: page,
                        around: word,
                        touched,
                        random: random == 1,
                        pause: Duration::from_nanos(pause),
                    },
                );
            }
            1 => reply[0] = area.read(page, word),
            2 => area.write(page, word, value),
            4 => {
                let words = [page as u64, word as u64, value, random, pause];
                reply = Crowd::of(words).touch(area, times);
            }
            _ => area.advise(page, i32::try_from(word).expect("an advice")),
        }
    }
}

/// Touches pages by reading, and leaves in `times` how long the first touch of every block took.
fn touch(area: &Area, times: &Area, walk: Walk) -> [u64; 6] {
    let mut random = Random::new(1);
    let mut blocks: Vec<usize> = (0..area.pages / walk.around).collect();
    if walk.random {
        random.shuffle(&mut blocks);
    }
    blocks.truncate(walk.blocks);
    let mut pages: Vec<usize> = Vec::with_capacity(blocks.len() * walk.touched);
    for block in &blocks {
        let first = if walk.random && walk.touched == 1 {
            usize::try_from(random.next()).expect("64 bits") % walk.around
        } else {
            0
        };
        pages.extend((first..first + walk.touched).map(|page| block * walk.around + page));
    }
    if walk.random {
        random.shuffle(&mut pages);
    }
    let mut seen = vec![false; area.pages / walk.around];
    let (mut firsts, mut wrong) = (0, 0);
    let begun = Instant::now();
    for &page in &pages {
        let known = std::mem::replace(&mut seen[page / walk.around], true);
        let start = Instant::now();
        let found = area.read(page, 0);
        let took = start.elapsed();
        wrong += u64::from(found != stamp(page));
        if !known {
            times.write(
                firsts / 512,
                firsts % 512,
                u64::try_from(took.as_nanos()).expect("short"),
            );
            firsts += 1;
        }
        while start.elapsed() < took + walk.pause {
            std::hint::spin_loop();
        }
    }
    let all = u64::try_from(begun.elapsed().as_nanos()).expect("short");
    [firsts as u64, pages.len() as u64, all, wrong, 0, 0]
}

fn bytes(words: [u64; 6]) -> [u8; 48] {
    let mut bytes = [0; 48];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// None when the other end is gone.
fn receive(socket: &mut UnixStream) -> Option<[u64; 6]> {
    let mut bytes = [0; 48];
    socket.read_exact(&mut bytes).ok()?;
    let mut words = [0; 6];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    Some(words)
}
