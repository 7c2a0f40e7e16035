//! A tree of processes that share memory until they write to it: some before the dump, some after the restore, and new
//! processes are forked while pages of all of them are missing.
#![expect(unsafe_code, reason = "fork, _exit and waitpid")]

use std::collections::HashSet;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use snapshot_format::{Content, Cursor, PageNo, Snapshot};

use super::board::{Board, Wrong};
use super::case::{Case, Fill, Run, Source};
use super::daemon::Kind;
use super::memory::{MIB, Memory, PAGE, Page, WORDS, mix};

/// Who wrote a page last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Root = 1,
    RootAlone,
    Child,
    ChildAlone,
    Grandchild,
    /// A process of the tree, after its new children were forked.
    Later,
    /// A new child.
    New,
}

/// A process at the time of the dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Root,
    Child,
    Grandchild,
}

/// How many processes there are after the dump, the zombie among them.
pub(crate) const PROCESSES: u64 = 4;
const NEW_CHILDREN: u64 = 3;
const MEMORY: u64 = 32 * MIB;
/// Pages that they all look at: each of those that are alive, its new children, and one of these.
pub(crate) const LOOKS: u64 = (PROCESSES - 1) * (1 + NEW_CHILDREN + 1) * MEMORY / PAGE;

impl Member {
    fn wrote(self, number: u64) -> Tag {
        match (self, number % 8) {
            (Self::Root, 2 | 6) => Tag::RootAlone,
            (Self::Child | Self::Grandchild, 1 | 5) => Tag::Child,
            (Self::Child, 4) => Tag::ChildAlone,
            (Self::Grandchild, 0) => Tag::Grandchild,
            _ => Tag::Root,
        }
    }

    /// Writes the pages that nobody but this process is to see.
    fn write(self, memory: Memory, tag: Tag) {
        write(memory, tag, |number| self.wrote(number) == tag);
    }
}

fn write(memory: Memory, tag: Tag, which: impl Fn(u64) -> bool) {
    for number in (0..memory.pages()).filter(|&number| which(number)) {
        let page = memory.page(number);
        page.fill(page.key(tag as u64), 0..WORDS);
    }
}

fn look(page: Page, tag: Tag) -> Result<(), Wrong> {
    page.holds(page.key(tag as u64), 0..WORDS)
}

/// Looks at all pages, in an order that depends on a number.
fn look_at_all(board: Board, memory: Memory, order: u64, wrote: impl Fn(u64) -> Tag) {
    let (first, step) = (mix(order), mix(order + 100) | 1);
    for round in 0..memory.pages() {
        let number = first.wrapping_add(round.wrapping_mul(step)) % memory.pages();
        board.note(look(memory.page(number), wrote(number)));
    }
}

/// Forks. The child uses nothing that another thread may have had locked, and ends when its work is done.
pub(crate) fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: the child uses memory of its own and atomics.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Errno::last());
    if pid == 0 {
        let code = i32::from(catch_unwind(AssertUnwindSafe(work)).is_err());
        // SAFETY: ends this process and nothing else.
        unsafe { libc::_exit(code) };
    }
    pid
}

pub(crate) fn ended_well(child: i32) -> bool {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let got = unsafe { libc::waitpid(child, &raw mut status, 0) };
    got == child && status == 0
}

/// The words: the board.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(MEMORY);
    write(memory, Tag::Root, |_| true);
    fork(|| child(board, memory));
    Member::Root.write(memory, Tag::RootAlone);
    live(board, memory, Member::Root);
}

fn child(board: Board, memory: Memory) {
    Member::Child.write(memory, Tag::Child);
    fork(|| {
        Member::Grandchild.write(memory, Tag::Grandchild);
        live(board, memory, Member::Grandchild);
    });
    Member::Child.write(memory, Tag::ChildAlone);
    let zombie = fork(|| {});
    super::support::wait_until("a zombie", || super::support::state(zombie) == 'Z');
    board.announce_other(zombie.cast_unsigned());
    live(board, memory, Member::Child);
}

fn live(board: Board, memory: Memory, member: Member) {
    board.ready();
    let forked: Vec<i32> = (0..NEW_CHILDREN)
        .map(|number| fork(|| grow_up(board, memory, member, number)))
        .collect();
    // The new ones do not see this.
    let later = |number| number % 8 == 3;
    write(memory, Tag::Later, later);
    look_at_all(board, memory, 10 * member as u64, |number| {
        if later(number) {
            Tag::Later
        } else {
            member.wrote(number)
        }
    });
    for child in forked {
        assert!(ended_well(child), "a new child of {member:?}");
    }
    board.done();
}

/// What a process does that is forked after the restore. The first of each three forks as well.
fn grow_up(board: Board, memory: Memory, member: Member, number: u64) {
    let child = (number == 0).then(|| {
        fork(|| {
            look_at_all(board, memory, 7 + member as u64, |number| {
                member.wrote(number)
            });
        })
    });
    let mine = |page: u64| page % 8 == 7;
    // To write may be the first thing that is done to a page.
    write(memory, Tag::New, mine);
    look_at_all(board, memory, 10 * member as u64 + number + 1, |number| {
        if mine(number) {
            Tag::New
        } else {
            member.wrote(number)
        }
    });
    assert!(child.is_none_or(ended_well), "a child of a new child");
}

#[test]
fn a_family_sees_what_each_of_it_wrote_and_grows_while_pages_are_missing() {
    let Some(mut case) = Case::start("family", "", PROCESSES) else {
        return;
    };
    case.in_all_ways(|run| {
        run.go(PROCESSES - 1);
        run.board().assert_right(LOOKS);
        let done = run.complete();
        let forks = (PROCESSES - 1) * (NEW_CHILDREN + 1);
        done.require("/events/fork", run.fill.certain(forks));
        done.require("/faults", run.fill.certain(1000));
    });
}

/// How many frames a snapshot has.
fn frames(snapshot: &Path) -> u64 {
    let snapshot = Snapshot::open(File::open(snapshot).expect("open")).expect("a snapshot");
    let pages = snapshot.pages();
    let mut cursor = Cursor::new(Arc::new(snapshot));
    let frames = (0..pages).filter_map(|page| match cursor.content(PageNo(page)) {
        Ok(Content::Frame { frame, .. }) => Some(frame),
        _ => None,
    });
    frames.collect::<HashSet<_>>().len() as u64
}

/// What the processes have in common is decoded for the first of them, and kept for the others.
#[test]
fn what_a_family_has_in_common_is_decoded_once() {
    let Some(mut case) = Case::start("family", "", PROCESSES) else {
        return;
    };
    case.dump("images");
    case.import();
    let frames = frames(&case.snapshot());
    for fill in [Fill::AtOnce, Fill::Late] {
        let mut run = Run::start(&mut case, Kind::Ours, Source::Snapshot, fill);
        run.go(PROCESSES - 1);
        let done = run.complete();
        let decoded = done.count("/frames_decoded");
        eprintln!("{fill:?}: {decoded} of {frames} frames");
        assert!(
            (1..=frames).contains(&decoded),
            "{decoded} of {frames} frames: {done:?}"
        );
        run.case.kill();
    }
}
