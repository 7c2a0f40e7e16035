//! The state of a session where it outlives the process that serves: what was read and not done, what was done since the
//! last checkpoint, and the checkpoint.
//!
//! * Messages are read by the kernel into an [`Inbox`] in shared memory, so none is lost between being read and being applied.
//! * What is done to the model is written down as a record (`op.rs`), after it was done. Done again in order, to the state of the
//!   checkpoint, the records give the same model. The record of an event says which message it was, so that a message is
//!   applied once, whether its process was killed before or after it marked the message as done.
//! * When the records have become many, the whole state is written (`state.rs`) to the other half, and a single word makes that
//!   the valid one.
//!
//! * What is installed the kernel itself writes down, into a [`Receipt`] in this memory, before the record is written. What others
//!   install in memory that is lent to them stands in a [`Loan`] until there is a record of it.
//!
//! What the kernel can be asked is not written down: a fault that was read, and not answered, is asked again after a WAKE.

mod error;
mod loan;
mod op;
mod state;

use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use twox_hash::XxHash3_64;

pub use self::error::JournalError;
pub use self::loan::Loan;
pub(in crate::session) use self::op::{Op, Origin, Record};
pub(in crate::session) use self::state::{MemberState, OwnedState, State};
use crate::session::{Counts, SpaceId};
use crate::shared_memory::{Room, SharedMemory, WORD};
use crate::uffd::{Event, Inbox, Message, Receipt};

/// Says that a file is a journal of this layout.
const MAGIC: u64 = u64::from_le_bytes(*b"uffdjrnl");
/// Changes with everything that makes old journals unreadable: words, records, and the state in a checkpoint.
pub(super) const VERSION: u64 = 2;

// The header's words, by offset.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = WORD;
/// Which half is valid: 1 or 2; 0 if none is.
const AT_VALID: usize = 2 * WORD;
/// The userfaultfd whose messages are in the inbox: the number of its address space; and the number of the read.
const AT_SPACE: usize = 3 * WORD;
const AT_READ: usize = 4 * WORD;
/// Of each half: bytes of records, bytes of the checkpoint, its checksum.
const AT_HALVES: usize = 8 * WORD;
const HALF_WORDS: usize = 3;
/// [`Counts`].
const AT_COUNTS: usize = 16 * WORD;
const AT_INBOX: usize = 4096;
/// Of the session itself.
const AT_RECEIPT: usize = AT_INBOX + Inbox::BYTES;
/// Memory that is lent.
const AT_LOANS: usize = 2 * 4096;
/// Most loans at a time.
const LOANS: usize = 64;
const LOAN: usize = Loan::WORDS * WORD;
const AT_RECORDS: usize = 1 << 16;
/// Most bytes of records.
const MOST_RECORDS: usize = 4 << 20;
const AT_CHECKPOINTS: usize = 16 << 20;
/// Most bytes of a checkpoint.
const MOST_STATE: usize = 64 << 20;
/// Room for records that is left when a checkpoint is due: nothing that is done between two looks makes more.
const SLACK: usize = 256 << 10;
/// Records are not worth a checkpoint before they take so much room.
const WORTH_IT: usize = 64 << 10;
const RECORD: usize = op::WORDS * WORD;
/// Bytes of records that room is made for at a time.
const RESERVE: usize = MOST_RECORDS / 16;

const _: () = assert!(AT_RECORDS + 2 * MOST_RECORDS <= AT_CHECKPOINTS);
const _: () = assert!(AT_RECEIPT + Receipt::WORDS * WORD <= AT_LOANS);
const _: () = assert!(AT_LOANS + LOANS * LOAN <= AT_RECORDS);
const _: () = assert!(AT_COUNTS + size_of::<Counts>() <= AT_INBOX);

/// The journal of one session.
#[derive(Debug)]
pub struct Journal {
    memory: Arc<SharedMemory>,
    /// The valid half; `None` if none is, and then nothing is written down.
    half: Option<usize>,
    /// Bytes of records, of those that there is room for, and of the checkpoint, in the valid half.
    records: usize,
    reserved: usize,
    state: usize,
    /// Where the message came from that is being applied.
    origin: Option<Origin>,
    read: u64,
}

impl Journal {
    /// Bytes of the file. It takes up as much room as has been written.
    pub const BYTES: NonZeroUsize =
        NonZeroUsize::new(AT_CHECKPOINTS + 2 * MOST_STATE).expect("not zero");

    /// An empty one, in a file of memory.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn new() -> Result<Self, Errno> {
        SharedMemory::new(c"uffd-restore-journal", Self::BYTES).and_then(Self::of)
    }

    /// An empty one, in a file that was just made.
    ///
    /// # Errors
    /// No memory, no room, or a file that cannot be mapped.
    pub fn of_new_file(file: OwnedFd) -> Result<Self, Errno> {
        SharedMemory::of_new_file(file, Self::BYTES).and_then(Self::of)
    }

    fn of(memory: SharedMemory) -> Result<Self, Errno> {
        memory.reserve(0, AT_RECORDS)?;
        memory.store(AT_VERSION, VERSION);
        memory.store(AT_MAGIC, MAGIC);
        Ok(Self {
            memory: Arc::new(memory),
            half: None,
            records: 0,
            reserved: 0,
            state: 0,
            origin: None,
            read: 0,
        })
    }

    /// One that another process wrote.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(file: OwnedFd) -> Result<Self, JournalError> {
        let memory = SharedMemory::of_file(file, Self::BYTES).map_err(|errno| match errno {
            Errno::EINVAL => JournalError::NotOne,
            errno => JournalError::System(errno),
        })?;
        if memory.load(AT_MAGIC) != MAGIC {
            return Err(JournalError::NotOne);
        }
        let found = memory.load(AT_VERSION);
        if found != VERSION {
            return Err(JournalError::Version { found });
        }
        let mut journal = Self {
            half: None,
            records: 0,
            reserved: 0,
            state: 0,
            origin: None,
            read: memory.load(AT_READ),
            memory: Arc::new(memory),
        };
        let half = match journal.memory.load(AT_VALID) {
            valid @ 1..=2 => usize::try_from(valid - 1).unwrap_or(0),
            _ => return Err(JournalError::NoState),
        };
        let bytes = |word| usize::try_from(journal.memory.load(at_half(half, word)));
        let (Ok(records), Ok(state)) = (bytes(0), bytes(1)) else {
            return Err(JournalError::Damaged);
        };
        if records > MOST_RECORDS || state > MOST_STATE {
            return Err(JournalError::Damaged);
        }
        (journal.half, journal.records, journal.state) = (Some(half), records, state);
        Ok(journal)
    }

    /// Where messages are read to.
    pub(in crate::session) fn inbox(&self) -> Inbox {
        Inbox::new(Arc::clone(&self.memory), AT_INBOX)
    }

    /// Where the kernel writes what the session installs.
    pub(in crate::session) fn receipt(&self) -> Receipt {
        Receipt::new(Room::shared(Arc::clone(&self.memory), AT_RECEIPT))
    }

    /// A loan, by number; `None` beyond the last one.
    pub(in crate::session) fn loan(&self, number: usize) -> Option<Loan> {
        let room = || Room::shared(Arc::clone(&self.memory), AT_LOANS + number * LOAN);
        (number < LOANS).then(|| Loan::new(room()))
    }

    /// All loans.
    pub(in crate::session) fn loans(&self) -> Vec<Loan> {
        (0..LOANS).filter_map(|number| self.loan(number)).collect()
    }

    /// From now on the inbox is for the messages of this address space.
    pub(in crate::session) fn begin_read(&mut self, space: SpaceId) {
        self.read += 1;
        self.memory.store(AT_SPACE, space.0);
        self.memory.store(AT_READ, self.read);
    }

    /// Whose messages are in the inbox.
    pub(in crate::session) fn being_read(&self) -> SpaceId {
        SpaceId(self.memory.load(AT_SPACE))
    }

    /// What is written down from now on is of the message in this cell.
    pub(in crate::session) fn applying(&mut self, cell: Option<usize>) {
        let cell = cell.and_then(|cell| u8::try_from(cell).ok());
        self.origin = cell.map(|cell| self.origin_of(cell));
    }

    pub(in crate::session) fn origin_of(&self, cell: u8) -> Origin {
        // The low bits tell one read from the few before it.
        let read = u32::try_from(self.read & u64::from(u32::MAX)).unwrap_or(0);
        Origin { read, cell }
    }

    /// Writes down what has been done.
    pub(in crate::session) fn note(&mut self, space: SpaceId, op: Op) {
        let Some(half) = self.half else {
            return;
        };
        if self.records + RECORD > self.reserved && !self.reserve_records(half) {
            // Nobody may go by what is not complete.
            self.give_up();
            return;
        }
        let event = matches!(
            op,
            Op::Remove(_) | Op::Unmap(_) | Op::Remap(_) | Op::Fork { .. }
        );
        let origin = self.origin.filter(|_| event);
        let record = Record { space, op, origin };
        let at = AT_RECORDS + half * MOST_RECORDS + self.records;
        for (index, word) in record.encode().into_iter().enumerate() {
            self.memory.store(at + index * WORD, word);
        }
        self.records += RECORD;
        self.memory.store(at_half(half, 0), self.records as u64);
    }

    /// True when it is time to write the whole state.
    pub(in crate::session) fn wants_checkpoint(&self) -> bool {
        // Whoever takes over reads both: the one is not to be much longer than the other.
        let worth_it = (self.state / 2).clamp(WORTH_IT, MOST_RECORDS - SLACK);
        self.half.is_some() && self.records > worth_it
    }

    /// Writes the whole state. When this returns it is valid, unless there is no room for it: then nothing is.
    pub(in crate::session) fn checkpoint(&mut self, state: &State<'_>) {
        let half = self.half.map_or(0, |half| 1 - half);
        let at = at_state(half);
        let Ok(bytes) = postcard::to_stdvec(state) else {
            return self.give_up();
        };
        let records = AT_RECORDS + half * MOST_RECORDS;
        let room = bytes.len() <= MOST_STATE
            && self.memory.reserve(records, RESERVE).is_ok()
            && self.memory.reserve(at, bytes.len().max(1)).is_ok();
        if !room {
            return self.give_up();
        }
        self.memory.write(at, &bytes);
        self.memory.store(at_half(half, 0), 0);
        self.memory.store(at_half(half, 1), bytes.len() as u64);
        self.memory
            .store(at_half(half, 2), XxHash3_64::oneshot(&bytes));
        self.memory.store(AT_VALID, half as u64 + 1);
        (self.half, self.records, self.state) = (Some(half), 0, bytes.len());
        self.reserved = RESERVE;
    }

    /// Room for more records; false if there is none.
    fn reserve_records(&mut self, half: usize) -> bool {
        let wanted = (self.records + RECORD).next_multiple_of(RESERVE);
        let records = AT_RECORDS + half * MOST_RECORDS;
        let room = wanted <= MOST_RECORDS && self.memory.reserve(records, wanted).is_ok();
        if room {
            self.reserved = wanted;
        }
        room
    }

    /// Whether somebody can go on by it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn check(&self) -> Result<(), JournalError> {
        self.read_state()?;
        self.read_records().map(drop)
    }

    /// What the checkpoint says.
    pub(in crate::session) fn read_state(&self) -> Result<OwnedState, JournalError> {
        let half = self.half.ok_or(JournalError::NoState)?;
        let bytes = self.memory.read(at_state(half), self.state);
        if XxHash3_64::oneshot(&bytes) != self.memory.load(at_half(half, 2)) {
            return Err(JournalError::Damaged);
        }
        postcard::from_bytes(&bytes).map_err(|_| JournalError::Damaged)
    }

    /// What has been done since.
    pub(in crate::session) fn read_records(&self) -> Result<Vec<Record>, JournalError> {
        let half = self.half.ok_or(JournalError::NoState)?;
        let start = AT_RECORDS + half * MOST_RECORDS;
        let record = |number: usize| {
            let word = |index| self.memory.load(start + number * RECORD + index * WORD);
            Record::decode(std::array::from_fn(word)).ok_or(JournalError::BadRecord { number })
        };
        (0..self.records / RECORD).map(record).collect()
    }

    /// Events that had been read, and not applied, when whoever wrote this was killed.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn unfinished(&self) -> Result<Vec<Event>, JournalError> {
        let inbox = self.inbox();
        let cells = self.unfinished_cells(&self.read_records()?).into_iter();
        let event = |cell| match inbox.message(cell) {
            Some(Message::Event(event)) => Some(event),
            _ => None,
        };
        Ok(cells.filter_map(event).collect())
    }

    /// The cells of the inbox with such events, given all records.
    pub(in crate::session) fn unfinished_cells(&self, records: &[Record]) -> Vec<usize> {
        let inbox = self.inbox();
        let last = records.iter().rev().find_map(|record| record.origin);
        let written_down = |cell: usize| {
            let origin = u8::try_from(cell).map(|cell| self.origin_of(cell));
            last.is_some_and(|last| {
                origin.is_ok_and(|origin| origin.read == last.read && origin.cell <= last.cell)
            })
        };
        let is_event = |cell| matches!(inbox.message(cell), Some(Message::Event(_)));
        let cells = 0..inbox.count();
        cells
            .filter(|&cell| is_event(cell) && !written_down(cell))
            .collect()
    }

    /// Writes down what happened so far, for people.
    pub(in crate::session) fn note_counts(&self, counts: &Counts) {
        for (index, count) in counts.words().into_iter().enumerate() {
            self.memory.store(AT_COUNTS + index * WORD, count);
        }
    }

    pub(in crate::session) fn read_counts(&self) -> Counts {
        Counts::of_words(std::array::from_fn(|index| {
            self.memory.load(AT_COUNTS + index * WORD)
        }))
    }

    /// From now on nobody can go by this journal.
    fn give_up(&mut self) {
        self.memory.store(AT_VALID, 0);
        self.half = None;
    }

    /// False when nothing is being written down: if this process dies nobody can take over.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.half.is_some()
    }
}

impl AsFd for Journal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

const fn at_half(half: usize, word: usize) -> usize {
    AT_HALVES + (half * HALF_WORDS + word) * WORD
}

const fn at_state(half: usize) -> usize {
    AT_CHECKPOINTS + half * MOST_STATE
}
