//! A VMM, as far as a page-fault handler can tell: it does to its memory and says on its socket what Firecracker does.
//!
//! | file           | what is in it                                                  |
//! |----------------|----------------------------------------------------------------|
//! | `content.rs`   | what the memory file has in each page                          |
//! | `memory.rs`    | guest memory, and what must be in it now                       |
//! | `handshake.rs` | the userfaultfd, and the message that brings it                |
//! | `role.rs`      | the process: what it is told on its standard input, it does    |
//! | `races.rs`     | a balloon and the guest's processors at once                   |
//! | `mod.rs`       | the same process as the test sees it                           |
//!
//! A program that uses it has the role `("peer", peer::play)`.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

pub mod content;
mod handshake;
mod memory;
mod races;
mod role;

use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::support::{Target, state};

pub use crate::support::area::PAGE;
pub use role::play;

pub const SMALL_IN_HUGE: usize = 512;

/// Writes a memory file of so many pages.
pub fn memory_file(pages: usize) -> Vec<u8> {
    (0..pages)
        .flat_map(|page| content::Content::of_file(page).bytes())
        .collect()
}

/// The VMM. Killed when dropped.
pub struct Peer {
    pub target: Target,
    /// Address and pages of each region.
    pub regions: Vec<(u64, usize)>,
}

/// How many pages there are of each kind.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Survey {
    pub right: usize,
    pub poisoned: usize,
    /// Zero, and should not be.
    pub zero: usize,
    /// Neither right nor zero.
    pub wrong: usize,
}

impl Peer {
    /// With regions of so many pages, like `64,32`, and these words: `huge`, `split`, `slots=N`, `uid=N`.
    pub fn start(regions: &str, words: &str) -> Self {
        let this = std::env::current_exe().expect("this program");
        Self::start_by(Command::new(this), regions, words)
    }

    /// The same, by a command that runs this test program in another place.
    pub fn start_by(command: Command, regions: &str, words: &str) -> Self {
        let mut target = Target::start_by(command, "peer", &format!("{regions} {words}"));
        let numbers = target.hear_numbers();
        let regions = numbers
            .chunks(2)
            .map(|pair| (pair[0], usize::try_from(pair[1]).expect("pages")))
            .collect();
        Self { target, regions }
    }

    /// Started, and handed over to a daemon in the manner of the newest version.
    pub fn served(regions: &str, words: &str, socket: &Path) -> Self {
        let mut this = Self::start(regions, words);
        this.hand_over(socket, "");
        this
    }

    /// Hands the memory over; see [`handshake::Manner`] for the words.
    #[track_caller]
    pub fn hand_over(&mut self, socket: &Path, words: &str) {
        self.tell_to_hand_over(socket, words);
        assert_eq!(self.target.hear(), "sent");
    }

    pub fn tell_to_hand_over(&mut self, socket: &Path, words: &str) {
        self.target
            .tell(&format!("hand-over {} {words}", socket.display()));
    }

    pub fn pid(&self) -> i32 {
        self.target.pid()
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.target.tell(line);
        self.target.hear()
    }

    /// Does something that must end well.
    #[track_caller]
    pub fn must(&mut self, line: &str) {
        let answer = self.ask(line);
        assert_eq!(answer, "right", "{line}");
    }

    pub fn pages(&self) -> usize {
        self.regions.iter().map(|(_, pages)| pages).sum()
    }

    /// Every page is what it must be, whoever of two threads touches it first.
    #[track_caller]
    pub fn check_all(&mut self) {
        let pages = self.pages();
        self.must(&format!("check 0 {pages} 2"));
    }

    /// What every page is, without a signal for those that are poisoned.
    pub fn survey(&mut self) -> Survey {
        self.target.tell("survey");
        let numbers = self.target.hear_numbers();
        let number = |index: usize| usize::try_from(numbers[index]).expect("pages");
        Survey {
            right: number(0),
            poisoned: number(1),
            zero: number(2),
            wrong: number(3),
        }
    }

    /// Some memory of it still is registered with a userfaultfd.
    pub fn is_registered(&self) -> bool {
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", self.pid()));
        let smaps = smaps.expect("smaps of a process that runs");
        let mut flags = smaps
            .lines()
            .filter_map(|line| line.strip_prefix("VmFlags:"));
        flags.any(|flags| flags.split_whitespace().any(|flag| flag == "um"))
    }

    /// It has ended, though nobody may have waited for it.
    pub fn has_ended(&self) -> bool {
        matches!(state(self.pid()), 'Z' | 'X' | '?')
    }

    /// A thread of it waits for a page, or for an event to be read.
    pub fn waits(&self) -> bool {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid()));
        let mut tasks = tasks.into_iter().flatten().map_while(Result::ok);
        tasks.any(|task| {
            std::fs::read_to_string(task.path().join("wchan"))
                .is_ok_and(|place| place.contains("userfault"))
        })
    }

    /// Waits for its end, however it comes.
    pub fn end(mut self) -> ExitStatus {
        self.target.end()
    }

    /// Lets it run to a good end.
    pub fn finish(self) {
        self.target.finish();
    }
}
