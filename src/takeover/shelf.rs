//! A socket that keeps descriptors open.
//!
//! It is connected to itself: a descriptor that is sent stays in its queue, and what it is of stays open, as long as anybody has the
//! socket, in whatever process, and nobody receives it. Nobody else can send to it (unix(7), and `unix_may_send` of the kernel).
#![expect(
    unsafe_code,
    reason = "descriptors that come as numbers, and SO_PEEK_OFF"
)]

use std::collections::BTreeSet;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{SndBuf, SndBufForce};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
    bind, connect, getsockname, recvmsg, sendmsg, setsockopt, socket,
};

use crate::service::StoredName;

/// Bytes of messages that wait: some twenty thousand.
const ROOM: usize = 8 << 20;
/// How often it is looked until that gives the same twice.
const LOOKS: u32 = 100;
/// Messages that are looked at.
const MOST: usize = 1 << 16;
/// Longest name.
const NAME: usize = 64;

/// The socket, and what is known to be in its queue.
#[derive(Debug)]
pub(crate) struct Shelf {
    socket: OwnedFd,
    names: Mutex<BTreeSet<StoredName>>,
}

/// What a message is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Read {
    /// It leaves the queue.
    Take,
    /// It stays, and its descriptor is wanted.
    Copy,
    /// It stays, and its name is wanted.
    Look,
}

impl Shelf {
    /// An empty one.
    ///
    /// # Errors
    /// No descriptor.
    pub(super) fn new() -> Result<Self, Errno> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let made = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        // Any name that is free.
        bind(made.as_raw_fd(), &UnixAddr::new_unnamed())?;
        let name: UnixAddr = getsockname(made.as_raw_fd())?;
        connect(made.as_raw_fd(), &name)?;
        if setsockopt(&made, SndBufForce, &ROOM).is_err() {
            // For whoever may not: as much as there is.
            let _ = setsockopt(&made, SndBuf, &ROOM);
        }
        Ok(Self::of(made))
    }

    /// One that another process has filled.
    pub(super) fn of(socket: OwnedFd) -> Self {
        let shelf = Self {
            socket,
            names: Mutex::default(),
        };
        shelf.look();
        shelf
    }

    /// Looks what is there. Other processes may have put something there, or taken it; one that was killed may have left it there twice.
    pub(super) fn look(&self) {
        let all = self.all(Read::Look);
        let mut seen = BTreeSet::new();
        let again = all.iter().filter(|(name, _)| !seen.insert(*name));
        let again: Vec<StoredName> = again.map(|(name, _)| *name).collect();
        *self.names() = seen;
        for name in again {
            self.forget(name);
            self.names().insert(name);
        }
    }

    /// A copy of each descriptor that is there.
    pub(super) fn contents(&self) -> Vec<(StoredName, OwnedFd)> {
        let mut found = Vec::new();
        // Where it is looked is the socket's, not the process's: somebody who is just dying may look as well.
        for _ in 0..LOOKS {
            let before = self.all(Read::Look);
            found = self.all(Read::Copy);
            if before
                .iter()
                .map(|(name, _)| name)
                .eq(found.iter().map(|(name, _)| name))
            {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let found = found.into_iter();
        found
            .filter_map(|(name, descriptor)| Some((name, descriptor?)))
            .collect()
    }

    /// Keeps a descriptor open under a name, if there is none of that name.
    ///
    /// # Errors
    /// EAGAIN when there is no more room; ETOOMANYREFS when this user may not have more on their way.
    pub(super) fn put(&self, name: StoredName, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut names = self.names();
        if names.insert(name)
            && let Err(errno) = self.send(name, descriptor)
        {
            names.remove(&name);
            return Err(errno);
        }
        Ok(())
    }

    /// No longer keeps what is under a name.
    pub(super) fn forget(&self, name: StoredName) {
        let mut names = self.names();
        if !names.remove(&name) {
            return;
        }
        // Those that were put before it go behind those that were put after it, and are there at any moment.
        for _ in 0..=names.len() {
            match self.receive(Read::Copy) {
                Some((found, _)) if found == name => {
                    drop(self.receive(Read::Take));
                    return;
                }
                Some((other, Some(descriptor))) => {
                    if self.send(other, descriptor.as_fd()).is_err() {
                        names.remove(&other);
                    }
                    drop(self.receive(Read::Take));
                }
                Some((_, None)) => drop(self.receive(Read::Take)),
                None => return,
            }
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<StoredName>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self, read: Read) -> Vec<(StoredName, Option<OwnedFd>)> {
        if self.peek_from(0).is_err() {
            return Vec::new();
        }
        // Whoever else has the socket may go on putting something there.
        let all = std::iter::from_fn(|| self.receive(read))
            .take(MOST)
            .collect();
        let _ = self.peek_from(-1);
        all
    }

    /// What is looked at next is what is so far from the first message, and then what follows; with -1 it is always the first message
    /// (socket(7), `SO_PEEK_OFF`).
    fn peek_from(&self, place: libc::c_int) -> Result<(), Errno> {
        let len = libc::socklen_t::try_from(size_of_val(&place)).map_err(|_| Errno::EINVAL)?;
        // SAFETY: the option is a number of this length, which lives until the call returns.
        let set = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEEK_OFF,
                (&raw const place).cast(),
                len,
            )
        };
        Errno::result(set).map(drop)
    }

    fn send(&self, name: StoredName, descriptor: BorrowedFd<'_>) -> Result<(), Errno> {
        let name = name.to_string();
        let descriptors = [descriptor.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let bytes = [IoSlice::new(name.as_bytes())];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(self.socket.as_raw_fd(), &bytes, &rights, flags, None).map(drop)
    }

    /// The next message; `None` if there is none.
    fn receive(&self, read: Read) -> Option<(StoredName, Option<OwnedFd>)> {
        let mut buffer = [0; NAME];
        let mut bytes = [IoSliceMut::new(&mut buffer)];
        let mut room = cmsg_space!(RawFd);
        // Without room for it the descriptor is not opened.
        let room = (read != Read::Look).then_some(room.as_mut_slice());
        let mut flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        if read != Read::Take {
            flags |= MsgFlags::MSG_PEEK;
        }
        let message = recvmsg::<()>(self.socket.as_raw_fd(), &mut bytes, room, flags).ok()?;
        let mut descriptor = None;
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                // SAFETY: the kernel just opened it for this process.
                descriptor = numbers
                    .first()
                    .map(|&number| unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        let len = message.bytes;
        let name = std::str::from_utf8(buffer.get(..len)?).ok()?;
        Some((name.parse().ok()?, descriptor))
    }
}

impl AsFd for Shelf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn space(space: u64) -> StoredName {
        StoredName::Space { session: 0, space }
    }

    fn end(shelf: &Shelf, number: u64) -> std::io::PipeReader {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        shelf.put(space(number), writer.as_fd()).expect("room");
        reader
    }

    fn numbers(contents: &[(StoredName, OwnedFd)]) -> Vec<StoredName> {
        contents.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn what_is_put_stays_open_until_it_is_forgotten() {
        let shelf = Shelf::new().expect("a socket");
        let mut readers: Vec<_> = (0..4).map(|number| end(&shelf, number)).collect();
        assert_eq!(numbers(&shelf.contents()), [0, 1, 2, 3].map(space));
        // Looked at by another process, twice.
        let other = Shelf::of(shelf.socket.try_clone().expect("a descriptor"));
        assert_eq!(numbers(&other.contents()), [0, 1, 2, 3].map(space));
        let found = other.contents();
        let (_, writer) = found.into_iter().nth(1).expect("four");
        std::io::PipeWriter::from(writer)
            .write_all(b"x")
            .expect("open");
        shelf.forget(space(1));
        shelf.forget(space(1));
        let mut read = Vec::new();
        readers.remove(1).read_to_end(&mut read).expect("closed");
        assert_eq!(read, b"x");
        assert_eq!(numbers(&shelf.contents()), [2, 3, 0].map(space));
        drop((shelf, other));
        for mut reader in readers {
            assert_eq!(reader.read_to_end(&mut read).ok(), Some(0), "closed");
        }
    }

    #[test]
    fn a_name_is_there_once() {
        let shelf = Shelf::new().expect("a socket");
        drop(end(&shelf, 7));
        let again = Shelf::of(shelf.socket.try_clone().expect("a descriptor"));
        drop(end(&again, 7));
        assert_eq!(again.contents().len(), 1);
    }

    /// Whoever goes on finds what somebody has left who was killed while putting it behind the others.
    #[test]
    fn what_is_there_twice_goes_at_once() {
        let shelf = Shelf::new().expect("a socket");
        let mut reader = end(&shelf, 7);
        drop(end(&shelf, 8));
        let (_, descriptor) = shelf.contents().remove(0);
        shelf.send(space(7), descriptor.as_fd()).expect("room");
        drop(descriptor);
        shelf.look();
        assert_eq!(numbers(&shelf.contents()).len(), 2);
        shelf.forget(space(7));
        assert_eq!(numbers(&shelf.contents()), [space(8)]);
        assert_eq!(reader.read_to_end(&mut Vec::new()).ok(), Some(0), "closed");
    }

    #[test]
    fn there_is_room_for_thousands_and_an_end_to_it() {
        let shelf = Shelf::new().expect("a socket");
        let null = std::fs::File::open("/dev/null").expect("null");
        let full = (0..1 << 20).find(|&number| shelf.put(space(number), null.as_fd()).is_err());
        let full = full.expect("an end");
        assert!(full > 200, "{full}");
        shelf.forget(space(0));
        shelf.put(space(full), null.as_fd()).expect("room again");
    }
}
