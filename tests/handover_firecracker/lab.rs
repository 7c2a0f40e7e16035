//! A pair of sockets, what is sent over it, and the descriptors that are left open.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use uffd_restore::addr::Addr;
use uffd_restore::handover::firecracker::{Region, receive};
use uffd_restore::handover::receive::{Received, Refused};
use uffd_restore::uffd::{Features, Userfaultfd};

use crate::support::PATIENCE;
use crate::support::uffd::agreed;

pub(crate) const MESSAGE: &str = r#"[{"base_host_virt_addr":140130690007040,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#;

pub(crate) fn regions() -> Vec<Region> {
    vec![Region {
        base: Addr(140_130_690_007_040),
        size: 128 << 20,
        offset: 0,
        page_bytes: 4096,
    }]
}

/// Tests take turns: they count the descriptors of the process.
pub(crate) struct Lab {
    pub(crate) near: Option<UnixStream>,
    pub(crate) far: UnixStream,
    before: usize,
    _turn: MutexGuard<'static, ()>,
}

pub(crate) fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

impl Lab {
    pub(crate) fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = open_descriptors();
        let (near, far) = UnixStream::pair().expect("sockets");
        Self {
            near: Some(near),
            far,
            before,
            _turn: turn,
        }
    }

    pub(crate) fn send(&self, bytes: &[u8], descriptors: &[RawFd]) {
        let near = self.near.as_ref().expect("open");
        send(near, bytes, descriptors);
    }

    pub(crate) fn close(&mut self) {
        self.near = None;
    }

    pub(crate) fn receive(&self) -> Result<Received<Vec<Region>>, Refused> {
        self.receive_within(PATIENCE)
    }

    pub(crate) fn receive_within(&self, time: Duration) -> Result<Received<Vec<Region>>, Refused> {
        receive(&self.far, Instant::now() + time)
    }

    /// Descriptors of this process that are neither the lab's nor were there before.
    pub(crate) fn more(&self) -> usize {
        open_descriptors() - self.before - 1 - usize::from(self.near.is_some())
    }

    pub(crate) fn refused(&self, time: Duration) -> Refused {
        let refused = self.receive_within(time).expect_err("refused");
        assert!(!refused.to_string().is_empty());
        refused
    }
}

pub(crate) fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let bytes = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &bytes, control, flags, None).expect("sendmsg");
}

pub(crate) fn numbers(descriptors: &[impl AsFd]) -> Vec<RawFd> {
    let number = |descriptor: &_| AsFd::as_fd(descriptor).as_raw_fd();
    descriptors.iter().map(number).collect()
}

/// What Firecracker agrees on.
pub(crate) fn userfaultfd() -> Userfaultfd {
    agreed(Features::from_bits(8))
}

pub(crate) fn null() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null").into()
}
