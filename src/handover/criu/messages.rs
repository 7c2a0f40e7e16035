//! What comes over the connection. The other end is answered nothing.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;

use crate::handover::scm;
use crate::readable::readable_within;
use crate::uffd::Userfaultfd;

/// "Restore finished", as it comes: higher than any process id.
const FINISHED: i32 = 0x5253_5446;
/// `PID_MAX_LIMIT`: no process has such a number.
const NO_PID: i32 = 1 << 22;

/// What was told.
#[derive(Debug)]
pub enum Message {
    /// A process with this number in the images hands over.
    Process(i32, Userfaultfd),
    /// So does one that has ended, and has nothing to hand over.
    Zombie(i32),
    /// All have handed over, have registered everything, and are about to run.
    Finished,
}

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CriuError {
    /// The connection was closed.
    #[error(
        "criu restore closed the connection before it had finished: the restore failed, look into its log"
    )]
    Closed,
    /// That is not the protocol.
    #[error("what came from criu restore is not understood: {0}")]
    Protocol(String),
    /// No descriptor came where one should.
    #[error(
        "process {0} of the images sent no userfaultfd: this program may have too many files open (ulimit -n), or something forbids passing it \
         (SELinux, AppArmor)"
    )]
    NoDescriptor(i32),
    /// The connection is broken.
    #[error("cannot receive from criu restore: {0}")]
    Receive(io::Error),
}

impl From<Errno> for CriuError {
    fn from(errno: Errno) -> Self {
        match errno {
            // What is left of a connection whose other end closed before it had read everything.
            Errno::ECONNRESET => Self::Closed,
            errno => Self::Receive(errno.into()),
        }
    }
}

/// A connection of criu restore.
#[derive(Debug)]
pub struct Messages(UnixStream);

impl Messages {
    /// What comes over this connection.
    #[must_use]
    pub const fn of(stream: UnixStream) -> Self {
        Self(stream)
    }

    /// The next message, however long it takes. Tasks that are restored share the connection, and send one after the other.
    ///
    /// # Errors
    /// [`CriuError`].
    pub fn next(&self) -> Result<Message, CriuError> {
        // Four bytes and no more: the descriptor comes with the byte behind them.
        let mut number = [0; 4];
        let mut filled = 0;
        while let Some(rest) = number.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let (bytes, descriptors) = self.receive(rest)?;
            if !descriptors.is_empty() {
                let what = "a descriptor came where a process id should";
                return Err(CriuError::Protocol(what.into()));
            }
            filled += bytes;
        }
        match i32::from_le_bytes(number) {
            FINISHED => Ok(Message::Finished),
            pid @ 1..NO_PID => self.descriptor_of(pid),
            zombie if zombie < 0 && zombie > -NO_PID => Ok(Message::Zombie(-zombie)),
            other => Err(CriuError::Protocol(format!("{other:#x} is no process id"))),
        }
    }

    fn descriptor_of(&self, pid: i32) -> Result<Message, CriuError> {
        let (_, mut descriptors) = self.receive(&mut [0])?;
        let descriptor = descriptors.pop().filter(|_| descriptors.is_empty());
        let descriptor = descriptor.ok_or(CriuError::NoDescriptor(pid))?;
        Ok(Message::Process(pid, Userfaultfd::from(descriptor)))
    }

    fn receive(&self, room: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), CriuError> {
        const A_WHILE: Duration = Duration::from_secs(3600);
        loop {
            match scm::receive(self.0.as_fd(), room) {
                Ok(piece) if piece.bytes == 0 => return Err(CriuError::Closed),
                Ok(piece) => return Ok((piece.bytes, piece.descriptors)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    readable_within(&self.0, A_WHILE);
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::fd::AsRawFd;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, Messages) {
        let (near, far) = UnixStream::pair().expect("sockets");
        (near, Messages::of(far))
    }

    fn send_descriptor(stream: &UnixStream) {
        let descriptor = [stream.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptor)];
        let byte = [IoSlice::new(&[0])];
        sendmsg::<()>(stream.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).expect("room");
    }

    #[test]
    fn processes_zombies_and_the_end() {
        let (mut criu, messages) = pair();
        criu.write_all(&(-77_i32).to_le_bytes()).expect("room");
        criu.write_all(&1234_i32.to_le_bytes()).expect("room");
        send_descriptor(&criu);
        criu.write_all(b"FT").expect("room");
        criu.write_all(b"SR").expect("room");
        drop(criu);
        assert!(matches!(messages.next(), Ok(Message::Zombie(77))));
        assert!(matches!(messages.next(), Ok(Message::Process(1234, _))));
        assert!(matches!(messages.next(), Ok(Message::Finished)));
        assert!(matches!(messages.next(), Err(CriuError::Closed)));
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for (bytes, with_descriptor) in [
            (&[0_u8, 0, 0, 0][..], false),
            (&[0xff, 0xff, 0xff, 0x7f], false),
            (&[0, 0, 0, 0x80], false),
            (&[7, 0, 0, 0, 0], false),
            (&[7, 0], true),
            (&[7, 0, 0], false),
        ] {
            let (mut criu, messages) = pair();
            criu.write_all(bytes).expect("room");
            if with_descriptor {
                send_descriptor(&criu);
            }
            drop(criu);
            assert!(messages.next().is_err(), "{bytes:?}");
        }
    }
}
