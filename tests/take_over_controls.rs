//! What a torture of take-over must be able to see: daemons that do one thing wrongly, and targets that notice.
//!
//! The daemon is a small one over the library, with a keeper and workers as those of `uffd-restore`. Killed as often, it serves no wrong page;
//! but when messages are read into the worker's own memory, or when the worker has its own table of descriptors, pages are wrong.
#![expect(unsafe_code, reason = "descriptors that a dead process has left")]

mod support;

use std::fs;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use support::child::{Child, fork_here, fork_with};
use support::plot::{PAGE, Plot, call, word};
use support::uffd::{number, own, taken_from, telling};
use support::{Target, say, wait_until};
use uffd_restore::addr::Addr;
use uffd_restore::session::{
    Block, Installer, Journal, OnFailure, Request, Session, SpaceId, Supplier, What,
};
use uffd_restore::space::{AddressSpace, Kind};
use uffd_restore::uffd::{Stop, Userfaultfd};

#[test]
fn role() {
    support::play_role(&[("keeper", keeper)]);
}

/// Pages that were looked at, those of them that were wrong, and kills.
fn tortured(how: &str, seconds: u64) -> [u64; 3] {
    let mut keeper = Target::start("keeper", &format!("{how} {seconds}"));
    let numbers = keeper.hear_numbers();
    keeper.finish();
    eprintln!("{how}: [checked, wrong, kills] = {numbers:?}");
    numbers.try_into().expect("three")
}

#[test]
fn no_page_is_wrong() {
    let [checked, wrong, kills] = tortured("sound", 4);
    assert!(checked > 1000 && kills > 10, "{checked} {kills}");
    assert_eq!(wrong, 0);
}

#[test]
fn messages_in_memory_of_the_workers_own_are_lost_with_it() {
    let [_, wrong, _] = tortured("private", 40);
    assert!(wrong > 0);
}

#[test]
fn descriptors_in_a_table_of_the_workers_own_are_lost_with_it() {
    let [_, wrong, _] = tortured("unshared", 40);
    assert!(wrong > 0);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// As it must be.
    Sound,
    /// The kernel writes messages to memory that goes with the worker.
    Private,
    /// What the worker opens is closed when it dies.
    Unshared,
}

// Words of memory that all share, each in a page of its own.
const UFFD: u64 = 0;
const GO: u64 = 1;
const OVER: u64 = 2;
const CHECKED: u64 = 3;
const WRONG: u64 = 4;
const FORWARD: u64 = 8;

const THREADS: u64 = 3;
/// Pages of each thread.
const PAGES: u64 = 1024;
/// The first word of each page that is owed: this, plus its number.
const CONTENT: u64 = 0xc0de_0000;

/// xorshift64*
#[derive(Debug, Clone, Copy)]
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % end
    }
}

/// In a role: tortures one target after the other. Until something was wrong, if that is what is wanted, or so many seconds have passed.
fn keeper(words: &[&str]) {
    let &[how, seconds] = words else {
        panic!("{words:?}")
    };
    let how = match how {
        "sound" => How::Sound,
        "private" => How::Private,
        "unshared" => How::Unshared,
        _ => panic!("{how}?"),
    };
    let until = Instant::now() + Duration::from_secs(seconds.parse().expect("seconds"));
    let mut sum = [0; 3];
    for round in 1.. {
        let found = Round::begin(how, round).torture();
        for (all, one) in sum.iter_mut().zip(found) {
            *all += one;
        }
        if Instant::now() > until || (how != How::Sound && sum[1] > 0) {
            break;
        }
    }
    say(&sum.map(|number| number.to_string()).join(" "));
}

/// A target, and what its keeper has of it.
struct Round {
    how: How,
    dice: Dice,
    shared: Plot,
    victim: Child,
    uffd: RawFd,
    journal: OwnedFd,
}

impl Round {
    fn begin(how: How, round: u64) -> Self {
        let (shared, plot) = (Plot::new(), Plot::new());
        shared.shared(0, FORWARD + THREADS);
        let dice = Dice(round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        // Lost messages of forks would leave children waiting for ever: without the other fault they are no sign.
        let forks = how != How::Private;
        let victim = fork_with(0, || be_victim(shared, plot, dice, forks));
        wait_until("the victim", || shared.read(UFFD) > 0);
        let uffd = taken_from(victim.0, shared.read(UFFD) - 1);
        let mut space = AddressSpace::new();
        let range = plot.range(0, THREADS * PAGES);
        space.register(range, Kind::PRIVATE);
        space.owe(range, snapshot_format::PageNo(0));
        let journal = Journal::new().expect("memory");
        let file = journal.as_fd().try_clone_to_owned().expect("a descriptor");
        let mut session = Session::new(OnFailure::Poison);
        session.keep_journal(journal);
        let number = uffd.as_fd().as_raw_fd();
        session.add(Arc::new(uffd), space);
        session.remember(Vec::new());
        // What it has open is for the workers.
        std::mem::forget(session);
        shared.write(GO, 1);
        Self {
            how,
            dice,
            shared,
            victim,
            uffd: number,
            journal: file,
        }
    }

    /// How much the target has done.
    fn forward(&self) -> u64 {
        let of = |thread| self.shared.read(FORWARD + thread);
        (0..THREADS).map(of).sum()
    }

    fn torture(mut self) -> [u64; 3] {
        let (mut kills, mut life, mut before) = (0, 8000, 0);
        while self.shared.read(OVER) == 0 {
            let table = match self.how {
                How::Unshared => 0,
                _ => libc::CLONE_FILES,
            };
            let worker = fork_with(table, || self.serve());
            std::thread::sleep(Duration::from_micros(self.dice.below(life)));
            worker.kill();
            kills += 1;
            // On a busy machine a life of milliseconds may be over before anything was done in it.
            if kills % 8 == 0 {
                let now = self.forward();
                life = match now - before {
                    0..32 => (life * 2).min(2_000_000),
                    _ => (life / 2).max(8000),
                };
                before = now;
            }
        }
        let found = [CHECKED, WRONG].map(|page| self.shared.read(page));
        assert_eq!(self.victim.code(), Some(0));
        // Unless a worker has noticed that it is gone.
        if is_userfaultfd(self.uffd) {
            drop(own(self.uffd));
        }
        [found[0], found[1], kills]
    }

    /// The worker: goes on until it is killed.
    fn serve(&self) -> i32 {
        // SAFETY: the keeper does not use it, and this process is killed before it would close it.
        let file = unsafe { OwnedFd::from_raw_fd(self.journal.as_raw_fd()) };
        let journal = Journal::open(file).expect("it was written");
        if self.how == How::Private {
            hide_inboxes();
        }
        let installer = |_, number| is_userfaultfd(number).then(|| Arc::new(own(number)));
        let recovered = Session::recover(journal, OnFailure::Poison, installer, Instant::now());
        let mut session = recovered.expect("it was written").session;
        loop {
            let spaces: Vec<SpaceId> = session.spaces().collect();
            for id in spaces {
                session.turn(id, &mut Numbers::default(), Instant::now());
                let uffd = session.installer_mut(id);
                let gone = uffd.is_some_and(|uffd| {
                    Installer::probe(uffd, Addr(PAGE), PAGE) == Some(Stop::Gone)
                });
                if gone {
                    drop(session.end(id));
                }
            }
            session.notices();
            let uffds = session.spaces().filter_map(|id| session.installer(id));
            let mut waited: Vec<PollFd<'_>> = uffds
                .map(|uffd| PollFd::new(uffd.as_fd(), PollFlags::POLLIN))
                .collect();
            let _ = poll(&mut waited, PollTimeout::from(1_u8));
        }
    }
}

fn is_userfaultfd(number: RawFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{number}"));
    link.is_ok_and(|link| link.to_str() == Some(Userfaultfd::LINK))
}

/// The page of journals to which messages are read. If it moves, nothing is lost any more, and the test says so.
const INBOX: u64 = 4096;

/// Puts other memory where inboxes are: this process's own.
fn hide_inboxes() {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let journals = maps
        .lines()
        .filter(|line| line.contains("uffd-restore-journal"));
    for journal in journals {
        let (start, _) = journal.split_once('-').expect("a range");
        let start = u64::from_str_radix(start, 16).expect("an address");
        let rights = word(libc::PROT_READ | libc::PROT_WRITE);
        let flags = word(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // Those that were hidden before begin with their first page as well.
        let arguments = [start + INBOX, PAGE, rights, flags, u64::MAX, 0];
        call(libc::SYS_mmap, &arguments).expect("mmap");
    }
}

/// Every page has its number.
#[derive(Default)]
struct Numbers(Block);

impl Supplier for Numbers {
    fn fetch(&mut self, request: &Request) -> Option<&Block> {
        let block = &mut self.0;
        block.clear();
        block.bytes.resize(4096, 0xa5);
        block.bytes[..8].copy_from_slice(&(CONTENT + request.page.0).to_le_bytes());
        block.push(request.page.0, What::Bytes(0));
        Some(block)
    }
}

/// The target: threads that look at pages, discard others, and fork children that look.
fn be_victim(shared: Plot, plot: Plot, dice: Dice, forks: bool) -> i32 {
    let uffd = telling();
    plot.private(0, THREADS * PAGES);
    uffd.register(plot.range(0, THREADS * PAGES))
        .expect("register");
    shared.write(UFFD, number(&uffd) + 1);
    wait_until("the keeper", || shared.read(GO) == 1);
    // From now on nobody but the keeper and its workers has it.
    drop(uffd);
    let found = std::thread::scope(|scope| {
        let start = |thread| {
            let mut victim = Victim {
                shared,
                plot,
                dice: Dice(dice.0 ^ (thread << 32)),
                thread,
                checked: 0,
                wrong: 0,
                kids: Vec::new(),
            };
            scope.spawn(move || {
                victim.suffer(forks);
                [victim.checked, victim.wrong]
            })
        };
        let threads: Vec<_> = (0..THREADS).map(start).collect();
        let found = threads
            .into_iter()
            .map(|thread| thread.join().expect("it ends"));
        found.fold([0; 2], |[a, b], [c, d]| [a + c, b + d])
    });
    shared.write(CHECKED, found[0]);
    shared.write(WRONG, found[1]);
    shared.write(OVER, 1);
    0
}

struct Victim {
    shared: Plot,
    plot: Plot,
    dice: Dice,
    thread: u64,
    checked: u64,
    wrong: u64,
    kids: Vec<Child>,
}

/// Pages that a child looks at.
const KIDS_PAGES: u64 = 24;

impl Victim {
    fn suffer(&mut self, forks: bool) {
        let end = (self.thread + 1) * PAGES;
        let mut page = self.thread * PAGES;
        while page < end {
            let run = (1 + self.dice.below(4)).min(end - page);
            if forks && self.dice.below(24) == 0 {
                self.fork(page, KIDS_PAGES.min(end - page));
            }
            let discarded = self.dice.below(8) < 5;
            if discarded {
                self.plot.discard(page, run);
            }
            for page in page..page + run {
                let wanted = if discarded { 0 } else { CONTENT + page };
                self.checked += 1;
                self.wrong += u64::from(self.plot.read(page) != wanted);
            }
            page += run;
            self.shared.write(FORWARD + self.thread, page);
        }
        while !self.kids.is_empty() {
            self.join();
        }
    }

    /// A child that looks at pages which nobody has touched.
    fn fork(&mut self, first: u64, pages: u64) {
        if self.kids.len() == 2 {
            self.join();
        }
        let plot = self.plot;
        self.kids.push(fork_here(move || {
            let wrong = (first..first + pages).filter(|&page| plot.read(page) != CONTENT + page);
            i32::try_from(wrong.count()).expect("few")
        }));
        self.checked += pages;
    }

    fn join(&mut self) {
        let code = self.kids.remove(0).code();
        let wrong = code.and_then(|code| u64::try_from(code).ok());
        self.wrong += wrong.expect("it ends by itself");
    }
}
