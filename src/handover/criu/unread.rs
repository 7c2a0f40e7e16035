//! What has come when nobody is left to read it. The userfaultfds in it are the only ones there are: with the connection they
//! would be closed, and the memory that they are of would read as zeros.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;

use crate::handover::peer::Credentials;
use crate::handover::scm;
use crate::serve::{Target, Unwatched};

/// The connections at a socket whose owner may be killed at any time: before it has accepted one, before it has read what came
/// over it, and before it has told anybody.
#[derive(Debug)]
pub struct Unread {
    /// The name that the socket is bound to, and so are its connections.
    name: PathBuf,
    connections: Vec<UnixStream>,
}

impl Unread {
    /// Those at this socket. From now on the kernel notes who sends what, as soon as somebody connects.
    ///
    /// # Errors
    /// It has no name.
    pub fn at(listener: &UnixListener) -> io::Result<Self> {
        scm::signed(listener)?;
        let address = listener.local_addr()?;
        let name = address.as_pathname().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self {
            name: name.to_path_buf(),
            connections: Vec::new(),
        })
    }

    fn is_ours(&self, socket: &UnixStream) -> bool {
        let address = socket.local_addr();
        address.is_ok_and(|address| address.as_pathname() == Some(&*self.name))
    }

    fn listen_to(&mut self, stream: UnixStream) {
        let allowed = Credentials::of(&stream).is_ok_and(|peer| peer.allowed(&[]).is_ok());
        // Nothing of anybody else is received.
        if allowed && scm::signed(&stream).is_ok() {
            self.connections.push(stream);
        }
    }
}

impl Unwatched for Unread {
    fn offer(&mut self, descriptor: OwnedFd) {
        let socket = UnixStream::from(descriptor);
        if !self.is_ours(&socket) {
            return;
        }
        if getsockopt(&socket, AcceptConn) != Ok(true) {
            return self.listen_to(socket);
        }
        let listener = UnixListener::from(OwnedFd::from(socket));
        // It does not block.
        while let Ok((stream, _)) = listener.accept() {
            self.listen_to(stream);
        }
    }

    /// Who restores, and whoever has sent something.
    fn come(&mut self) -> Vec<Target> {
        let mut come = Vec::new();
        self.connections.retain(|connection| {
            let host = Credentials::of(connection).and_then(|peer| peer.target(connection));
            come.extend(host);
            read_all(connection, &mut come)
        });
        come
    }

    fn more(&self) -> bool {
        !self.connections.is_empty()
    }
}

/// Reads what there is. True if there can be more.
fn read_all(connection: &UnixStream, senders: &mut Vec<Target>) -> bool {
    loop {
        match scm::receive_signed(connection.as_fd(), &mut [0; 64]) {
            Ok(piece) if piece.bytes == 0 => return false,
            Ok(piece) => {
                // They are found in the table of descriptors, as all others.
                std::mem::forget(piece.descriptors);
                let sender = piece.sender.and_then(|pid| Target::named(pid).ok());
                // It may have ended since, and its number be another's. As long as it has registered nothing it descends from who restores it.
                senders.extend(sender.filter(Target::misses_pages));
            }
            Err(Errno::EINTR) => {}
            Err(errno) => return errno == Errno::EAGAIN,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_known_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| UnixListener::bind(folder.path().join(name)).expect("a socket");
        let (ours, other) = (at("ours"), at("other"));
        ours.set_nonblocking(true).expect("a socket");
        let mut unread = Unread::at(&ours).expect("it has a name");
        let near = UnixStream::connect(folder.path().join("ours")).expect("connect");
        let elsewhere = UnixStream::connect(folder.path().join("other")).expect("connect");
        let (pair, _other_end) = UnixStream::pair().expect("sockets");
        for not_ours in [OwnedFd::from(elsewhere), other.into(), pair.into()] {
            unread.offer(not_ours);
            assert!(!unread.more());
        }
        unread.offer(ours.into());
        assert!(unread.more(), "it had not been accepted");
        let host = unread.come();
        assert_eq!(host.len(), 1);
        drop(near);
        unread.come();
        assert!(!unread.more(), "closed");
    }
}
