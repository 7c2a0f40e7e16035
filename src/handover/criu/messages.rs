//! What comes over the connection. The other end is answered nothing.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::handover::scm::{self, Piece};
use crate::processes::number_of;
use crate::serve::Target;
use crate::uffd::Userfaultfd;

/// "Restore finished", as it comes: higher than any process id.
const FINISHED: i32 = 0x5253_5446;
/// `PID_MAX_LIMIT`: no process has such a number.
const NO_PID: i32 = 1 << 22;

/// What was told.
#[derive(Debug)]
pub enum Message {
    /// A process hands over: its userfaultfd comes next.
    Process(Announced),
    /// So does one that has ended, and has nothing to hand over.
    Zombie(i32),
    /// All have handed over, have registered everything, and are about to run.
    Finished,
}

/// Who hands over.
#[derive(Debug)]
pub struct Announced {
    /// Its number in the images.
    pub number: i32,
    /// The process, as the kernel says. `None` if it has no number here, or has ended.
    pub target: Option<Target>,
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
    /// Who would have said so has ended.
    #[error("criu restore has ended before it had finished: the restore failed, look into its log")]
    Ended,
    /// What is restored is not what is served.
    #[error(
        "criu restore restores {restored:?}, which is another dump than {served:?}: give both the same images"
    )]
    OtherImages {
        /// The directory of criu restore.
        restored: PathBuf,
        /// The directory of this program.
        served: PathBuf,
    },
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
pub struct Messages {
    stream: UnixStream,
    host: Arc<Target>,
}

impl Messages {
    /// What comes over this connection, which `host` has made.
    ///
    /// # Errors
    /// The kernel does not say who sends what.
    pub fn of(stream: UnixStream, host: Arc<Target>) -> Result<Self, Errno> {
        scm::signed(&stream)?;
        Ok(Self { stream, host })
    }

    /// The next message, however long it takes. Tasks that are restored share the connection, and send one after the other. The last
    /// word is the host's: when it has ended there is none, although tasks that wait for it may keep the connection open for ever.
    ///
    /// # Errors
    /// [`CriuError`].
    pub fn next(&self) -> Result<Message, CriuError> {
        // Four bytes and no more: the descriptor comes with the byte behind them.
        let mut number = [0; 4];
        let mut filled = 0;
        let mut sender = None;
        while let Some(rest) = number.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            let piece = self.receive(rest)?;
            if !piece.descriptors.is_empty() {
                // Whosever memory it is.
                std::mem::forget(piece.descriptors);
                let what = "a descriptor came where a process id should";
                return Err(CriuError::Protocol(what.into()));
            }
            filled += piece.bytes;
            sender = piece.sender;
        }
        match i32::from_le_bytes(number) {
            FINISHED => Ok(Message::Finished),
            pid @ 1..NO_PID => Ok(Message::Process(Announced {
                number: pid,
                target: sender.and_then(|sender| named(sender, pid)),
            })),
            zombie if zombie < 0 && zombie > -NO_PID => Ok(Message::Zombie(-zombie)),
            other => Err(CriuError::Protocol(format!("{other:#x} is no process id"))),
        }
    }

    /// What the process that has just announced itself hands over.
    ///
    /// # Errors
    /// [`CriuError`].
    pub fn descriptor_of(&self, number: i32) -> Result<Userfaultfd, CriuError> {
        let mut descriptors = self.receive(&mut [0])?.descriptors;
        let descriptor = descriptors.pop().filter(|_| descriptors.is_empty());
        let descriptor = descriptor.ok_or(CriuError::NoDescriptor(number))?;
        Ok(Userfaultfd::from(descriptor))
    }

    fn receive(&self, room: &mut [u8]) -> Result<Piece, CriuError> {
        loop {
            // Looked at first: what it has sent before is read.
            let is_over = self.host.ends_within(Duration::ZERO);
            match scm::receive_signed(self.stream.as_fd(), room) {
                Ok(piece) if piece.bytes == 0 => return Err(CriuError::Closed),
                Ok(piece) => return Ok(piece),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) if is_over => return Err(CriuError::Ended),
                Err(Errno::EAGAIN) => self.wait()?,
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Until there is something to read, or the host has ended.
    fn wait(&self) -> Result<(), Errno> {
        let waited = [self.stream.as_fd(), self.host.as_fd()];
        let mut waited = waited.map(|descriptor| PollFd::new(descriptor, PollFlags::POLLIN));
        match poll(&mut waited, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// The process with this pid, if its number in its own pid namespace is this one: otherwise the one that sent something has ended since.
fn named(pid: i32, number: i32) -> Option<Target> {
    let target = Target::named(pid).ok()?;
    (number_of(pid) == Some(number)).then_some(target)
}

#[cfg(test)]
mod tests {
    use std::io::{IoSlice, Write};
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn pair() -> (UnixStream, Messages) {
        let me = i32::try_from(std::process::id()).expect("a pid");
        from(me)
    }

    fn from(pid: i32) -> (UnixStream, Messages) {
        let (near, far) = UnixStream::pair().expect("sockets");
        let host = Target::open(pid, String::new()).expect("it exists");
        (near, Messages::of(far, Arc::new(host)).expect("a socket"))
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
        let me = i32::try_from(std::process::id()).expect("a pid");
        criu.write_all(&(-77_i32).to_le_bytes()).expect("room");
        criu.write_all(&me.to_le_bytes()).expect("room");
        send_descriptor(&criu);
        criu.write_all(&1234_i32.to_le_bytes()).expect("room");
        send_descriptor(&criu);
        criu.write_all(b"FT").expect("room");
        criu.write_all(b"SR").expect("room");
        drop(criu);
        assert!(matches!(messages.next(), Ok(Message::Zombie(77))));
        let announced = |wanted| match messages.next() {
            Ok(Message::Process(announced)) => {
                assert_eq!(announced.number, wanted);
                assert!(messages.descriptor_of(wanted).is_ok());
                announced.target.map(|target| target.pid)
            }
            other => panic!("{other:?}"),
        };
        assert_eq!(announced(me), Some(me), "the kernel says who sent it");
        assert_eq!(announced(1234), None, "that is not our number");
        assert!(matches!(messages.next(), Ok(Message::Finished)));
        assert!(matches!(messages.next(), Err(CriuError::Closed)));
    }

    /// Zombies that are being restored keep the connection, and wait for criu restore.
    #[test]
    fn nobody_is_waited_for_when_the_host_has_ended() {
        let mut host = Command::new("sleep").arg("1000").spawn().expect("sleep");
        let (mut criu, messages) = from(i32::try_from(host.id()).expect("a pid"));
        criu.write_all(&(-77_i32).to_le_bytes()).expect("room");
        let ended = std::thread::spawn(move || {
            assert!(matches!(messages.next(), Ok(Message::Zombie(77))));
            messages.next()
        });
        host.kill().expect("a child");
        host.wait().expect("a child");
        let ended = ended.join().expect("no panic");
        assert!(matches!(ended, Err(CriuError::Ended)), "{ended:?}");
        // What it has said is heard.
        let mut host = Command::new("true").spawn().expect("true");
        let (mut criu, messages) = from(i32::try_from(host.id()).expect("a pid"));
        host.wait().expect("a child");
        criu.write_all(b"FTSR").expect("room");
        assert!(matches!(messages.next(), Ok(Message::Finished)));
        assert!(matches!(messages.next(), Err(CriuError::Ended)));
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
            let received = match messages.next() {
                Ok(Message::Process(announced)) => {
                    messages.descriptor_of(announced.number).map(drop)
                }
                other => other.map(drop),
            };
            assert!(received.is_err(), "{bytes:?}");
        }
    }
}
