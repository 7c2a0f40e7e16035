//! Who is at the other end.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};

use uffd_restore::handover::peer::{Credentials, PeerError};

use crate::lab::Lab;
use crate::support::{self, Target, say};

/// Connects, says so, and waits to be ended.
pub(crate) fn peer(words: &[&str]) {
    let _socket = UnixStream::connect(words[0]).expect("connect");
    say("connected");
    while support::hear().is_some() {}
}

#[test]
fn who_connected() {
    let _lab = Lab::new();
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    let listener = UnixListener::bind(&path).expect("bind");
    let mut process = Target::start("peer", path.to_str().expect("text"));
    let (socket, _) = listener.accept().expect("accept");
    assert_eq!(process.hear(), "connected");
    let peer = Credentials::of(&socket).expect("credentials");
    assert_eq!(
        (peer.pid, peer.uid),
        (process.pid(), nix::unistd::getuid().as_raw())
    );
    assert_eq!(peer.allowed(&[]), Ok(()));
    let target = peer.target(&socket).expect("a target");
    assert_eq!(target.pid, process.pid());
    let name = fs::read_to_string(format!("/proc/{}/comm", peer.pid)).expect("comm");
    assert_eq!(target.name, name.trim_end());
    // The descriptor is of that process: it ends it.
    target.kill().expect("kill");
    process.end();
    let error = peer.target(&socket).expect_err("ended");
    assert_eq!(error, PeerError::Ended { pid: peer.pid });
    // The descriptor says so as well.
    let mut ended = [nix::poll::PollFd::new(
        target.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(nix::poll::poll(&mut ended, 0_u8), Ok(1));
}
