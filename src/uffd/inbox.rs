//! Where messages are read to: memory that outlives this process.
//!
//! A message is delivered once. If the process that read it is killed before it has done what the message says, the event
//! is lost for ever, and pages would be served wrongly; unless the kernel wrote it where somebody else can find it.
#![expect(unsafe_code, reason = "read(2) into shared memory")]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::errno::Errno;

use super::abi::UffdMsg;
use super::descriptor::{ReadError, Userfaultfd};
use super::message::Message;
use crate::shared_memory::{Room, SharedMemory, WORD};

/// Messages that it has room for: the most that one read takes.
const CELLS: usize = Userfaultfd::READ_AT_ONCE;
const CELL: usize = size_of::<UffdMsg>();
/// What stands for an event of which everything has been done. No kernel sends it.
const DONE: u8 = 0xff;

const CELL_WORDS: usize = CELL / WORD;

/// Room for the messages of one read.
#[derive(Debug, Clone)]
pub struct Inbox(Room);

impl Default for Inbox {
    /// In this process's own memory, for who need not outlive it.
    fn default() -> Self {
        Self(Room::private(CELLS * CELL_WORDS))
    }
}

impl Inbox {
    /// Bytes that it takes up.
    pub const BYTES: usize = CELLS * CELL;

    /// The inbox at an offset, a multiple of a word.
    #[must_use]
    pub const fn new(memory: Arc<SharedMemory>, at: usize) -> Self {
        Self(Room::shared(memory, at))
    }

    /// Takes the messages that wait in a userfaultfd, as many as fit. To be called when it is empty. 0 means that there are none.
    ///
    /// # Errors
    /// [`ReadError`]. Nothing has been taken then.
    pub fn take_from(&self, userfaultfd: &Userfaultfd) -> Result<usize, ReadError> {
        let number = userfaultfd.as_raw_fd();
        let room = self.0.address(0, CELLS * CELL_WORDS);
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
            self.0.store(cell * CELL_WORDS + 1 + index, word);
        }
        self.set_event(cell, raw.event);
    }

    /// The message in a cell; `None` if there is none, or all of it has been done.
    #[must_use]
    pub fn message(&self, cell: usize) -> Option<Message> {
        let mut raw = UffdMsg::default();
        raw.event = self.event(cell);
        for (index, word) in raw.word.iter_mut().enumerate() {
            *word = self.0.load(cell * CELL_WORDS + 1 + index);
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

    #[expect(clippy::host_endian_bytes, reason = "the kernel's structure")]
    fn event(&self, cell: usize) -> u8 {
        let [event, ..] = self.0.load(cell * CELL_WORDS).to_ne_bytes();
        event
    }

    #[expect(clippy::host_endian_bytes, reason = "the kernel's structure")]
    fn set_event(&self, cell: usize, event: u8) {
        let word = u64::from_ne_bytes([event, 0, 0, 0, 0, 0, 0, 0]);
        self.0.store(cell * CELL_WORDS, word);
    }
}
