//! The rules of serving: messages in, requests out, pages in, installs out.
//!
//! A [`Session`] is a target: its address space, and those of the children it forks. It does no I/O of its own. It reads
//! and installs through an [`Installer`] (a userfaultfd; a simulated kernel) and asks a [`Supplier`] for content, and
//! whoever calls it decides when. All of it runs on one thread, so that no page can be installed between reading an event
//! and applying it: a copy that is repeated after a REMOVE was read, but before it was applied, leaves stale data.
//!
//! The order in a turn: everything that can be read is read and its events applied, in order; then its faults are
//! answered. The kernel returns faults before older events, so answering first would be wrong.
//!
//! | file           | holds                                                                       |
//! |----------------|-----------------------------------------------------------------------------|
//! | `waiting.rs`   | the faults that have been read and not answered                             |
//! | `block.rs`     | [`Block`]: content on its way                                               |
//! | `member.rs`    | one address space of the target, with its installer                         |
//! | `events.rs`    | reading and applying messages                                               |
//! | `faulter.rs`   | whether one thread faults alone                                             |
//! | `install.rs`   | one page, or a run of pages, into an address space: every answer of the kernel |
//! | `answer.rs`    | answering a fault                                                           |
//! | `ahead.rs`     | who reads in order, and what comes next                                     |
//! | `fill.rs`      | pages that nobody waits for                                                 |
//! | `lend.rs`      | memory that others install in meanwhile                                     |
//! | `record.rs`    | which pages are touched, in order                                           |
//! | `journal/`     | [`Journal`]: the state where it outlives this process                       |
//! | `recovering.rs` | going on from there                                                        |
//! | `together.rs`  | a small frame in one go                                                     |
//! | `abandon.rs`   | giving up without turning anything into zeros                               |
//! | `counts.rs`    | what happened, for people                                                   |

mod abandon;
mod ahead;
mod answer;
mod block;
mod counts;
mod events;
mod faulter;
mod fill;
mod install;
mod journal;
mod lend;
mod member;
mod notice;
mod record;
mod recovering;
mod together;
mod waiting;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::RawFd;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use snapshot_format::PageNo;

pub use self::block::{Block, Piece, What};
pub use self::counts::{Counts, Latency};
pub use self::faulter::Faulter;
pub use self::journal::{Journal, JournalError, Loan};
pub use self::lend::Made;
pub use self::notice::{Notice, OnFailure};
pub use self::record::Touch;
pub use self::recovering::Recovered;

use self::journal::Op;
use self::member::Member;
use self::record::Recorder;
use crate::addr::{Addr, AddrRange};
use crate::space::AddressSpace;
use crate::uffd::{Inbox, Outcome, Put, ReadError, Receipt, Stop};

/// What a session does to an address space. [`crate::uffd::Userfaultfd`] says what each of these means.
pub trait Installer {
    /// Takes messages that wait, as many as fit; 0 if there are none.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read(&mut self, inbox: &Inbox) -> Result<usize, ReadError>;
    /// Installs pages, and says in the receipt what came of it.
    fn install(&mut self, range: AddrRange, put: Put<'_>, receipt: &Receipt) -> Outcome;
    /// Wakes those who wait in a range.
    fn wake(&mut self, range: AddrRange);
    /// What stands against installing a page, without doing so.
    fn probe(&mut self, at: Addr, page_bytes: u64) -> Option<Stop>;
    /// The installer of a child, from the descriptor in the message that told of it.
    fn of_child(&mut self, descriptor: RawFd) -> Self;
    /// The number of its descriptor.
    fn number(&self) -> RawFd;
}

/// One of the address spaces of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpaceId(pub u64);

impl SpaceId {
    /// That of the first one of each session.
    pub const FIRST: Self = Self(0);
}

/// Content that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For which address space.
    pub space: SpaceId,
    /// Where the page belongs.
    pub at: Addr,
    /// The page.
    pub page: PageNo,
    /// Pages that are needed together: those of one page of the mapping.
    pub needed: u64,
    /// Pages that may be had as well. They contain the needed ones.
    pub welcome: Range<u64>,
    /// Others wait for other pages.
    pub crowded: bool,
    /// Why those are installed that nobody waits for.
    pub purpose: Purpose,
}

/// Why pages are installed that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// They came with a page that somebody waited for.
    Neighbours,
    /// Somebody who reads in order is about to wait for them.
    Ahead,
    /// They were touched last time.
    Replay,
    /// To have all.
    Prefill,
}

/// Where content comes from.
pub trait Supplier {
    /// The content, if it can be had at once; otherwise it will come later, through [`Session::deliver`]. A block has a piece
    /// with all needed pages, whatever else it has.
    fn fetch(&mut self, request: &Request) -> Option<&Block>;
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing is left to do until the next message, or the next delivery.
    Idle,
    /// Something could not be done at this moment; another turn is needed soon, without a message.
    Soon,
    /// The kernel refuses for the moment: another turn first, and then the same again. Only of what is delivered.
    Later,
    /// The address space does not exist any more.
    Gone,
}

/// A target: an address space and its descendants.
#[derive(Debug)]
pub struct Session<I> {
    members: BTreeMap<SpaceId, Member<I>>,
    next_id: u64,
    on_failure: OnFailure,
    counts: Counts,
    latency: Latency,
    faulter: Faulter,
    notices: Vec<Notice>,
    /// Pages that are about to be touched.
    ahead: Vec<Request>,
    /// Most pages of them at a time.
    read_ahead: u64,
    /// What is touched is being recorded.
    recorder: Option<Recorder>,
    /// Nothing is installed that nobody waits for.
    answers_only: bool,
    /// A page that is waited for comes with others of so many, aligned, at most.
    around: Option<u64>,
    /// Where messages are read to.
    inbox: Inbox,
    /// Where the kernel writes what was installed.
    receipt: Receipt,
    /// What must not be lost if this process is killed.
    journal: Option<Journal>,
    /// What whoever runs the session has to remember, and who was forked since.
    about: Vec<u8>,
    forks: Vec<(SpaceId, SpaceId)>,
    /// As much as a page of zeros may need, where there is no other way.
    zeros: Vec<u8>,
}

impl<I: Installer> Session<I> {
    /// A session without address spaces.
    #[must_use]
    pub fn new(on_failure: OnFailure) -> Self {
        Self {
            members: BTreeMap::new(),
            next_id: SpaceId::FIRST.0,
            on_failure,
            counts: Counts::default(),
            latency: Latency::default(),
            faulter: Faulter::default(),
            notices: Vec::new(),
            ahead: Vec::new(),
            read_ahead: 0,
            recorder: None,
            answers_only: false,
            around: None,
            inbox: Inbox::default(),
            receipt: Receipt::default(),
            journal: None,
            about: Vec::new(),
            forks: Vec::new(),
            zeros: Vec::new(),
        }
    }

    /// The same, which looks ahead by so many pages at most when somebody reads in order.
    #[must_use]
    pub fn reading_ahead(mut self, pages: u64) -> Self {
        self.read_ahead = pages;
        self
    }

    /// From now on only what is waited for is installed, page by page, and nothing beside it; or no longer so. For as long as memory may not be
    /// registered yet that is taken for registered.
    pub fn answer_only(&mut self, only: bool) {
        self.answers_only = only;
    }

    /// From now on a page that is waited for comes with others of so many, aligned, at most; `None` for as many as the source likes to give. While all
    /// is being installed anyway, more of them only let the next fault wait.
    pub fn bring_along(&mut self, around: Option<u64>) {
        self.around = around;
    }

    /// Who faults in an address space, as far as anybody knows, where the kernel does not say: its only thread; 0 for nobody knows.
    pub fn assume_thread(&mut self, id: SpaceId, thread: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.only_thread = thread;
        }
    }

    /// Adds the address space of the target itself.
    pub fn add(&mut self, installer: I, space: AddressSpace) -> SpaceId {
        self.add_member(Member::new(installer, space))
    }

    fn add_member(&mut self, member: Member<I>) -> SpaceId {
        let id = SpaceId(self.next_id);
        self.next_id += 1;
        self.members.insert(id, member);
        id
    }

    /// Reads and applies everything that an address space has to say, and answers its faults.
    pub fn turn(&mut self, id: SpaceId, supplier: &mut impl Supplier, now: Instant) -> Turn {
        self.drain(id, now);
        let turn = self.answer_all(id, supplier, now);
        self.note_counts();
        turn
    }

    /// What has been noticed since the last call.
    pub fn notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Pages to fetch because somebody who reads in order is about to touch them. For [`Session::deliver_fill`].
    pub fn ahead(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.ahead)
    }

    /// The address spaces that there are.
    pub fn spaces(&self) -> impl Iterator<Item = SpaceId> + '_ {
        self.members.keys().copied()
    }

    /// What is owed to an address space; `None` if it does not exist.
    #[must_use]
    pub fn space(&self, id: SpaceId) -> Option<&AddressSpace> {
        self.members.get(&id).map(|member| &member.space)
    }

    /// The installer of an address space.
    #[must_use]
    pub fn installer(&self, id: SpaceId) -> Option<&I> {
        self.members.get(&id).map(|member| &member.installer)
    }

    /// The same, to be used.
    pub fn installer_mut(&mut self, id: SpaceId) -> Option<&mut I> {
        self.members
            .get_mut(&id)
            .map(|member| &mut member.installer)
    }

    /// Bytes owed to all address spaces.
    #[must_use]
    pub fn owes(&self) -> u64 {
        self.members
            .values()
            .map(|member| member.space.owes())
            .sum()
    }

    /// Pages that threads of an address space wait for.
    #[must_use]
    pub fn waiting(&self, id: SpaceId) -> usize {
        self.members
            .get(&id)
            .map_or(0, |member| member.waiting.len())
    }

    /// True when nothing is owed to an address space, and nothing that it has yet to say can change that, or concerns another
    /// one.
    #[must_use]
    pub fn is_finished(&self, id: SpaceId) -> bool {
        self.members.get(&id).is_none_or(Member::is_finished)
    }

    /// Ends an address space: it is finished, or gone. The installer is returned; dropping it lets go of the memory.
    pub fn end(&mut self, id: SpaceId) -> Option<I> {
        let member = self.members.remove(&id)?;
        // Before its descriptor is closed: the number may come to mean another.
        self.note(id, Op::Ended);
        // What it was in the middle of telling will never be told.
        for child in member.open_children {
            if let Some(child) = self.members.get_mut(&child) {
                child.orphaned();
            }
        }
        Some(member.installer)
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A process is about to be ended because it cannot be served. Whoever takes over is to know.
    pub fn note_unserved(&mut self) {
        self.counts.unserved += 1;
        self.note_counts();
    }

    /// A process that was handed over has ended before everything was in place. Whoever takes over is to know.
    pub fn note_ended_owing(&mut self) {
        self.counts.ended_owing += 1;
        self.note_counts();
    }

    fn note_counts(&self) {
        if let Some(journal) = &self.journal {
            journal.note_counts(&self.counts);
        }
    }

    /// Who faulted last, and how often in a row.
    #[must_use]
    pub fn faulter(&self) -> Faulter {
        self.faulter
    }

    /// How long threads have waited for pages, as far as this program can know: from the message to the installed page.
    #[must_use]
    pub fn latency(&self) -> &Latency {
        &self.latency
    }
}
