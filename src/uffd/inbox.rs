//! Where messages are read to: memory that outlives this process.
//!
//! A message is delivered once. If the process that read it is killed before it has done what the message says, the event
//! is lost for ever, and pages would be served wrongly; unless the kernel wrote it where somebody else can find it.
#![expect(unsafe_code, reason = "read(2) into shared memory")]

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::abi::UffdMsg;
use super::descriptor::{ReadError, Userfaultfd};
use super::message::Message;
use crate::shared_memory::{SharedMemory, WORD};

/// Messages that it has room for: the most that one read takes.
const CELLS: usize = Userfaultfd::READ_AT_ONCE;
const CELL: usize = size_of::<UffdMsg>();
/// What stands for an event of which everything has been done. No kernel sends it.
const DONE: u8 = 0xff;

const CELL_WORDS: usize = CELL / WORD;

/// Room for the messages of one read.
#[derive(Debug, Clone)]
pub struct Inbox(Room);

#[derive(Debug, Clone)]
enum Room {
    Shared(Arc<SharedMemory>, usize),
    Private(Arc<[AtomicU64]>),
}

impl Default for Inbox {
    /// In this process's own memory, for who need not outlive it.
    fn default() -> Self {
        let words = (0..CELLS * CELL_WORDS).map(|_| AtomicU64::new(0));
        Self(Room::Private(words.collect()))
    }
}

impl Inbox {
    /// Bytes that it takes up.
    pub const BYTES: usize = CELLS * CELL;

    /// The inbox at an offset, a multiple of a word.
    #[must_use]
    pub const fn new(memory: Arc<SharedMemory>, at: usize) -> Self {
        Self(Room::Shared(memory, at))
    }

    /// Takes the messages that wait in a userfaultfd, as many as fit. To be called when it is empty. 0 means that there are none.
    ///
    /// # Errors
    /// [`ReadError`]. Nothing has been taken then.
    pub fn take_from(&self, userfaultfd: &Userfaultfd) -> Result<usize, ReadError> {
        let number = userfaultfd.as_raw_fd();
        let room: *mut libc::c_void = match &self.0 {
            Room::Shared(memory, at) => memory.address(*at, Self::BYTES).as_ptr(),
            Room::Private(words) => words.as_ptr().cast_mut().cast(),
        };
        // SAFETY: read(2) writes at most so many bytes, to atomic words, to which nobody has other references.
        let got = unsafe { libc::read(number, room, Self::BYTES) };
        match Errno::result(got) {
            Ok(bytes) => Ok(usize::try_from(bytes).unwrap_or(0) / CELL),
            Err(Errno::EAGAIN) => Ok(0),
            Err(errno @ (Errno::EMFILE | Errno::ENFILE)) => Err(ReadError::NoDescriptor(errno)),
            Err(errno) => Err(ReadError::Other(errno)),
        }
    }

    /// Puts a message into a cell, as the kernel would.
    pub fn put(&self, cell: usize, message: &Message) {
        let raw = UffdMsg::from(*message);
        for (index, word) in raw.word.into_iter().enumerate() {
            self.word(cell, 1 + index).store(word, Ordering::Release);
        }
        self.set_event(cell, raw.event);
    }

    /// The message in a cell; `None` if there is none, or all of it has been done.
    #[must_use]
    pub fn message(&self, cell: usize) -> Option<Message> {
        let mut raw = UffdMsg::default();
        raw.event = self.event(cell);
        for (index, word) in raw.word.iter_mut().enumerate() {
            *word = self.word(cell, 1 + index).load(Ordering::Acquire);
        }
        (raw.event != 0 && raw.event != DONE).then(|| raw.into())
    }

    /// Cells with messages, those of which everything has been done among them.
    #[must_use]
    pub fn count(&self) -> usize {
        let filled = (0..CELLS).take_while(|&cell| self.event(cell) != 0);
        filled.count()
    }

    /// All of a message has been done.
    pub fn done(&self, cell: usize) {
        self.set_event(cell, DONE);
    }

    /// Empties so many cells, the last one first: what is left at any moment is what had been read, from the first on.
    pub fn clear(&self, count: usize) {
        for cell in (0..count.min(CELLS)).rev() {
            self.set_event(cell, 0);
        }
    }

    fn word(&self, cell: usize, index: usize) -> &AtomicU64 {
        match &self.0 {
            Room::Shared(memory, at) => memory.word(at + cell * CELL + index * WORD),
            Room::Private(words) => &words[cell * CELL_WORDS + index],
        }
    }

    #[expect(clippy::host_endian_bytes, reason = "the kernel's structure")]
    fn event(&self, cell: usize) -> u8 {
        let [event, ..] = self.word(cell, 0).load(Ordering::Acquire).to_ne_bytes();
        event
    }

    #[expect(clippy::host_endian_bytes, reason = "the kernel's structure")]
    fn set_event(&self, cell: usize, event: u8) {
        let word = u64::from_ne_bytes([event, 0, 0, 0, 0, 0, 0, 0]);
        self.word(cell, 0).store(word, Ordering::Release);
    }
}
