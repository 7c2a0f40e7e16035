//! Receiving what a VMM hands over: a message, in pieces of any size, and a userfaultfd with any of them. What the message
//! means is the protocol's business; a second protocol is a parser more.

use std::error::Error;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::scm;
use crate::uffd::{Features, Userfaultfd};

/// Most bytes of a message. Firecracker's has about 110 for each region.
pub const MAX_MESSAGE: usize = 64 << 10;

/// A hand-over, complete.
#[derive(Debug)]
pub struct Received<M> {
    /// What the message says.
    pub message: M,
    /// The userfaultfd, non-blocking and closed on exec.
    pub userfaultfd: Userfaultfd,
}

/// Why there was no hand-over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// Not everything came in time.
    #[error(
        "the peer has not handed over in time: {bytes} bytes came, {}: look whether it hangs, or give it more time",
        missing(*complete, *userfaultfd)
    )]
    TimedOut {
        /// Bytes of the message so far.
        bytes: usize,
        /// The message is complete.
        complete: bool,
        /// The userfaultfd has come.
        userfaultfd: bool,
    },
    /// The peer closed the connection, or has ended.
    #[error(
        "the peer closed the connection after {bytes} bytes, {}: look into its log; it may have ended, or not be a VMM",
        missing(*complete, *userfaultfd)
    )]
    Closed {
        /// Bytes of the message.
        bytes: usize,
        /// The message is complete.
        complete: bool,
        /// The userfaultfd has come.
        userfaultfd: bool,
    },
    /// More than a message may have.
    #[error("the peer sent {MAX_MESSAGE} bytes, {}: that is no hand-over of a VMM", missing(*complete, *userfaultfd))]
    TooLong {
        /// The message is complete.
        complete: bool,
        /// The userfaultfd has come.
        userfaultfd: bool,
    },
    /// Descriptors were lost.
    #[error(
        "the peer sent more descriptors at once than can be taken, and some are lost: {limit} are allowed, and this program may \
         have too many files open: raise its limit (ulimit -n), or look at what the peer sends",
        limit = scm::ROOM
    )]
    DescriptorsLost,
    /// Two userfaultfds.
    #[error(
        "the peer sent {0} userfaultfds: a VM has one: let each process that is to be restored connect by itself"
    )]
    Several(usize),
    /// A system call failed.
    #[error("cannot {doing}: {errno}{}", advice(*errno))]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// The message cannot be understood.
    #[error(transparent)]
    Message(Box<dyn Error + Send + Sync>),
}

fn missing(complete: bool, userfaultfd: bool) -> &'static str {
    match (complete, userfaultfd) {
        (false, false) => "which is no complete message, and no userfaultfd",
        (false, true) => "which is no complete message, and a userfaultfd",
        (true, false) => "a complete message, but no userfaultfd",
        (true, true) => "all of it",
    }
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::ENOENT | Errno::EACCES => ": /proc must be mounted and readable for this program",
        _ => "",
    }
}

/// A hand-over that failed, and what had come by then.
///
/// **End the peer before this is dropped, if `descriptors` is not empty** (and unless it keeps its userfaultfd, as Firecracker is known to
/// do): when the last descriptor of a userfaultfd is closed, memory that was registered with it and is missing turns into zeros,
/// and a guest that runs would go on with them.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct Refused {
    /// Why.
    pub error: HandshakeError,
    /// The userfaultfds that came, or what may be one.
    pub descriptors: Vec<OwnedFd>,
}

/// What has come so far.
#[derive(Debug)]
struct SoFar<M> {
    bytes: Vec<u8>,
    message: Option<M>,
    userfaultfds: Vec<OwnedFd>,
}

/// Receives a message, which `parse` says the end of, and a userfaultfd, both until `deadline`. `parse` gets all that has come, and says
/// `None` when more must come.
///
/// Other descriptors are closed, as soon as they come: forks of VMMs send them, and this program has no use for them.
///
/// # Errors
/// [`Refused`], with every userfaultfd that came.
pub fn receive<M, E: Error + Send + Sync + 'static>(
    socket: &UnixStream,
    deadline: Instant,
    parse: impl FnMut(&[u8]) -> Result<Option<M>, E>,
) -> Result<Received<M>, Refused> {
    let mut so_far = SoFar {
        bytes: Vec::new(),
        message: None,
        userfaultfds: Vec::new(),
    };
    match so_far.complete(socket, deadline, parse) {
        Ok((message, userfaultfd)) => Ok(Received {
            message,
            userfaultfd: Userfaultfd::from(userfaultfd),
        }),
        Err(error) => Err(Refused {
            error,
            descriptors: so_far.userfaultfds,
        }),
    }
}

impl<M> SoFar<M> {
    fn complete<E: Error + Send + Sync + 'static>(
        &mut self,
        socket: &UnixStream,
        deadline: Instant,
        mut parse: impl FnMut(&[u8]) -> Result<Option<M>, E>,
    ) -> Result<(M, OwnedFd), HandshakeError> {
        let mut buffer = vec![0; MAX_MESSAGE];
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                return Err(self.timed_out());
            };
            let room = MAX_MESSAGE - self.bytes.len();
            if room == 0 {
                return Err(HandshakeError::TooLong {
                    complete: self.message.is_some(),
                    userfaultfd: !self.userfaultfds.is_empty(),
                });
            }
            if !wait(socket.as_fd(), left)? {
                continue;
            }
            let piece = match scm::receive(socket.as_fd(), &mut buffer[..room]) {
                Ok(piece) => piece,
                Err(Errno::EAGAIN | Errno::EINTR) => continue,
                // What a peer leaves that closes before it has read everything.
                Err(Errno::ECONNRESET) => return Err(self.closed()),
                Err(errno) => return Err(kernel("receive from the peer", errno)),
            };
            let (bytes, truncated) = (piece.bytes, piece.truncated);
            self.keep_userfaultfds(piece.descriptors)?;
            if truncated {
                return Err(HandshakeError::DescriptorsLost);
            }
            if self.userfaultfds.len() > 1 {
                return Err(HandshakeError::Several(self.userfaultfds.len()));
            }
            if bytes == 0 {
                return Err(self.closed());
            }
            self.bytes.extend_from_slice(&buffer[..bytes]);
            // Also when it was complete before: what has come since may not belong to it.
            self.message =
                parse(&self.bytes).map_err(|error| HandshakeError::Message(Box::new(error)))?;
            if self.message.is_some()
                && let Some(userfaultfd) = self.userfaultfds.first()
            {
                make_nonblocking(userfaultfd.as_fd())?;
                if let (Some(message), Some(userfaultfd)) =
                    (self.message.take(), self.userfaultfds.pop())
                {
                    return Ok((message, userfaultfd));
                }
            }
        }
    }

    /// Keeps what is a userfaultfd and closes the rest. What cannot be looked at is kept.
    fn keep_userfaultfds(&mut self, descriptors: Vec<OwnedFd>) -> Result<(), HandshakeError> {
        let mut result = Ok(());
        for descriptor in descriptors {
            match is_userfaultfd(descriptor.as_fd()) {
                Ok(true) => self.userfaultfds.push(descriptor),
                Ok(false) => drop(descriptor),
                Err(errno) => {
                    self.userfaultfds.push(descriptor);
                    result = Err(kernel("look at a descriptor in /proc/self/fd", errno));
                }
            }
        }
        result
    }

    fn timed_out(&self) -> HandshakeError {
        HandshakeError::TimedOut {
            bytes: self.bytes.len(),
            complete: self.message.is_some(),
            userfaultfd: !self.userfaultfds.is_empty(),
        }
    }

    fn closed(&self) -> HandshakeError {
        HandshakeError::Closed {
            bytes: self.bytes.len(),
            complete: self.message.is_some(),
            userfaultfd: !self.userfaultfds.is_empty(),
        }
    }
}

fn kernel(doing: &'static str, errno: Errno) -> HandshakeError {
    HandshakeError::Kernel { doing, errno }
}

/// Waits until there is something to receive; false when that may not be so.
fn wait(socket: BorrowedFd<'_>, left: Duration) -> Result<bool, HandshakeError> {
    // Rounded up: what ends too early would be asked again at once, a thousand times.
    let milliseconds = i32::try_from(left.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
    let timeout = PollTimeout::try_from(milliseconds).unwrap_or(PollTimeout::MAX);
    let mut waited = [PollFd::new(socket, PollFlags::POLLIN)];
    match poll(&mut waited, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR | Errno::EAGAIN) => Ok(false),
        Err(errno) => Err(kernel("wait for the peer", errno)),
    }
}

/// Makes sure that a descriptor that came by another way can be served: it is a userfaultfd, and reading it never waits.
///
/// # Errors
/// [`HandshakeError::Kernel`].
pub fn make_ready(descriptor: &impl AsFd) -> Result<(), HandshakeError> {
    match is_userfaultfd(descriptor.as_fd()) {
        Ok(true) => make_nonblocking(descriptor.as_fd()),
        Ok(false) => Err(kernel(
            "serve a descriptor that is no userfaultfd",
            Errno::EINVAL,
        )),
        Err(errno) => Err(kernel("look at a descriptor in /proc/self/fd", errno)),
    }
}

fn is_userfaultfd(descriptor: BorrowedFd<'_>) -> Result<bool, Errno> {
    let link = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    match fs::read_link(link) {
        Ok(name) => Ok(name.as_os_str() == Userfaultfd::LINK),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
    }
}

/// The loop must never wait in read(2). Firecracker's are non-blocking already; the flag belongs to the open file, so the peer has it
/// too, who does not read.
fn make_nonblocking(descriptor: BorrowedFd<'_>) -> Result<(), HandshakeError> {
    let cannot = |errno| kernel("make the userfaultfd non-blocking", errno);
    let flags = fcntl(descriptor, FcntlArg::F_GETFL).map_err(cannot)?;
    let flags = OFlag::from_bits_retain(flags);
    if !flags.contains(OFlag::O_NONBLOCK) {
        fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map_err(cannot)?;
    }
    Ok(())
}

/// What a userfaultfd's owner asked the kernel for: which events it tells. `None` when that cannot be known, for want of /proc or because
/// it is not a userfaultfd.
#[must_use]
pub fn features(userfaultfd: &impl AsFd) -> Option<Features> {
    let number = userfaultfd.as_fd().as_raw_fd();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{number}")).ok()?;
    features_in(&text)
}

/// The line is `API:\taa:FEATURES:IOCTLS`, in hexadecimal (fs/userfaultfd.c, `userfaultfd_show_fdinfo`).
fn features_in(fdinfo: &str) -> Option<Features> {
    /// `UFFD_FEATURE_INITIALIZED`, the kernel's own.
    const AGREED: u64 = 1 << 31;
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("API:"))?;
    let bits = line.trim().split(':').nth(1)?;
    let bits = u64::from_str_radix(bits, 16).ok()?;
    Some(Features::from_bits(bits & !AGREED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_stand_in_the_middle_of_the_line() {
        let text = "pos:\t0\npending:\t0\ntotal:\t0\nAPI:\taa:80000008:180000000000003f\n";
        assert_eq!(features_in(text), Some(Features::from_bits(8)));
        assert_eq!(features_in("API:\taa:0:3f"), Some(Features::default()));
        assert_eq!(features_in("pos:\t0\nflags:\t02\n"), None);
        assert_eq!(features_in("API:\taa"), None);
        assert_eq!(features_in("API:\taa:x:1"), None);
    }

    #[test]
    fn errors_say_what_is_missing() {
        let error = HandshakeError::TimedOut {
            bytes: 107,
            complete: true,
            userfaultfd: false,
        };
        assert!(
            error
                .to_string()
                .contains("107 bytes came, a complete message, but no userfaultfd")
        );
    }
}
