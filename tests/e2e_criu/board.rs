//! A page that a test and its targets write to and read: a file, so that it is not restored but only mapped again, and what the
//! test has written since the dump is there.
#![expect(unsafe_code, reason = "a mapping that others write to as well")]

use std::env;
use std::fmt;
use std::fs::File;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use super::support::{Role, wait_until};

const ROLE: &str = "UFFD_RESTORE_CRIU_TARGET";
const WORDS: &str = "UFFD_RESTORE_CRIU_WORDS";
const PAGE: usize = 4096;

/// What is in which word.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Slot {
    /// How many processes of the target wait for the dump.
    Ready,
    /// The target goes on when it is not 0.
    Go,
    /// How far the target has come; each target has its own steps.
    Step,
    /// How many of its threads or processes have done everything.
    Done,
    /// Pages looked at.
    Checked,
    /// Of them, those that were wrong.
    Wrong,
    /// Where the last of these was, what its first wrong word was, and which it should have been.
    WrongAt,
    WrongWord,
    WrongWanted,
    /// Where the target's memory is.
    Memory,
    /// What the test wants of it; each target knows what it means.
    Wish,
    /// How many processes there are; their pids follow.
    Pids,
}

/// Those that are 0 before a restore.
const SLOTS: [Slot; 9] = [
    Slot::Go,
    Slot::Step,
    Slot::Done,
    Slot::Checked,
    Slot::Wrong,
    Slot::WrongAt,
    Slot::WrongWord,
    Slot::WrongWanted,
    Slot::Wish,
];

#[derive(Clone, Copy)]
pub(crate) struct Board(&'static [AtomicU64; PAGE / 8]);

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for slot in SLOTS {
            map.entry(&slot, &format_args!("{:#x}", self.get(slot)));
        }
        map.finish()
    }
}

impl Board {
    /// An empty one, in a new file.
    pub(crate) fn create(path: &Path) -> Self {
        std::fs::write(path, [0; PAGE]).expect("a file for the board");
        Self::open(path)
    }

    pub(crate) fn open(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path);
        let file = file.expect("the board");
        let len = NonZeroUsize::new(PAGE).expect("not 0");
        let rights = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: without MAP_FIXED mmap touches no memory that exists.
        let base = unsafe { mmap(None, len, rights, MapFlags::MAP_SHARED, &file, 0) };
        let base = base.expect("map the board").cast();
        // SAFETY: a page that is never unmapped, of a file that is never cut, which everybody uses as atomics.
        Self(unsafe { base.as_ref() })
    }

    fn word(&self, slot: Slot) -> &AtomicU64 {
        &self.0[slot as usize]
    }

    pub(crate) fn get(&self, slot: Slot) -> u64 {
        self.word(slot).load(Ordering::SeqCst)
    }

    pub(crate) fn set(&self, slot: Slot, value: u64) {
        self.word(slot).store(value, Ordering::SeqCst);
    }

    pub(crate) fn add(&self, slot: Slot, value: u64) {
        self.word(slot).fetch_add(value, Ordering::SeqCst);
    }

    /// Waits until it is at least that.
    pub(crate) fn wait(&self, slot: Slot, value: u64) {
        let what = format!("{slot:?} to become {value}, {self:?}");
        wait_until(&what, || self.get(slot) >= value);
    }

    /// The pids of the target's processes, in the order in which they said that they were ready.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let count = usize::try_from(self.get(Slot::Pids)).expect("a few");
        let first = Slot::Pids as usize + 1;
        self.0[first..first + count]
            .iter()
            .map(|word| i32::try_from(word.load(Ordering::SeqCst)).expect("a pid"))
            .collect()
    }

    /// As it was when the target was dumped, for another restore.
    pub(crate) fn reset(&self) {
        for slot in SLOTS {
            self.set(slot, 0);
        }
    }

    /// In a target: says that this process can be dumped, and returns when the test says so, which is after a restore.
    pub(crate) fn ready(&self) {
        self.announce();
        self.wait_for_go();
    }

    /// In a target: one more process that can be dumped.
    pub(crate) fn announce(&self) {
        self.announce_other(std::process::id());
    }

    /// In a target: a process that is to be dumped too, and does not speak for itself.
    pub(crate) fn announce_other(&self, pid: u32) {
        let number = self.word(Slot::Pids).fetch_add(1, Ordering::SeqCst);
        let index = Slot::Pids as usize + 1 + usize::try_from(number).expect("a few");
        self.0[index].store(pid.into(), Ordering::SeqCst);
        self.add(Slot::Ready, 1);
    }

    pub(crate) fn wait_for_go(&self) {
        while self.get(Slot::Go) == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// In a target: waits to be killed.
    pub(crate) fn done(&self) -> ! {
        self.add(Slot::Done, 1);
        loop {
            nix::unistd::pause();
        }
    }

    /// In a target: what came of looking at a page.
    pub(crate) fn note(&self, found: Result<(), Wrong>) {
        self.add(Slot::Checked, 1);
        if let Err(wrong) = found {
            self.set(Slot::WrongAt, wrong.address);
            self.set(Slot::WrongWord, wrong.word);
            self.set(Slot::WrongWanted, wrong.wanted);
            self.add(Slot::Wrong, 1);
        }
    }

    /// So many pages have been looked at, or more, and none was wrong.
    #[track_caller]
    pub(crate) fn assert_right(&self, least: u64) {
        let (checked, wrong) = (self.get(Slot::Checked), self.get(Slot::Wrong));
        assert_eq!(
            wrong,
            0,
            "of {checked}; {:#x}: {:#x} instead of {:#x}",
            self.get(Slot::WrongAt),
            self.get(Slot::WrongWord),
            self.get(Slot::WrongWanted)
        );
        assert!(
            checked >= least,
            "{checked} of {least} pages were looked at"
        );
    }
}

/// A word that is not what it should be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrong {
    pub(crate) address: u64,
    pub(crate) word: u64,
    pub(crate) wanted: u64,
}

/// What is said to a process to make it a target, as `NAME=VALUE`.
pub(crate) fn target_words(role: &str, board: &Path, words: &str) -> [String; 2] {
    let board = board
        .to_str()
        .expect("a path that can be written in a line");
    [format!("{ROLE}={role}"), format!("{WORDS}={board} {words}")]
}

/// The first word of a target is the board's path. It does not die with its parent, as others do: it loses that at each restore.
pub(crate) fn play_target(roles: &[(&str, Role)]) {
    let Ok(name) = env::var(ROLE) else { return };
    // Whatever happens to the test, and to the namespace that it is in.
    nix::unistd::alarm::set(300);
    let words = env::var(WORDS).unwrap_or_default();
    let words: Vec<&str> = words.split_whitespace().collect();
    let (_, role) = roles
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a target of this file");
    role(&words);
}
