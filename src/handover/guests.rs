//! Descriptors that a stopped process has for a moment, and how they get in and out. Whatever happens, they are closed
//! before the process goes on.
#![expect(unsafe_code, reason = "sendmsg with a descriptor")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::error::HandoverError;
use crate::pidfd::{fetch, pidfd, pidfd_of_thread};
use crate::tracee::{RemoteCallError, RemoteCaller, Scratch};

/// Offsets in the scratch memory, all of them multiples of 8 as the kernel wants them.
const PAIR: u64 = 0;
const HEADER: u64 = 64;
const VECTOR: u64 = 128;
const CONTROL: u64 = 192;
const BYTE: u64 = 256;
const SCRATCH_LEN: u64 = 4096;

/// Sizes of the structures of recvmsg(2) on x86-64.
const HEADER_LEN: usize = size_of::<libc::msghdr>();
/// `CMSG_SPACE` of one descriptor: a header of 16 bytes, the number, and 4 bytes to fill up.
const CONTROL_LEN: usize = 24;
/// `CMSG_LEN` of one descriptor.
const CONTROL_USED: u64 = 20;

const _: () = assert!(HEADER_LEN == 56 && size_of::<libc::iovec>() == 16);
const _: () = assert!(size_of::<libc::cmsghdr>() == 16);

/// A thread that makes calls, scratch memory, and the descriptors that have been opened so far.
#[derive(Debug)]
pub(super) struct Guests<'c, 'p> {
    scratch: Scratch<'c, 'p>,
    process: OwnedFd,
    open: Vec<RawFd>,
    pid: i32,
}

impl<'c, 'p> Guests<'c, 'p> {
    pub(super) fn new(caller: &'c mut RemoteCaller<'p>) -> Result<Self, HandoverError> {
        let (pid, tid) = (caller.pid(), caller.tid());
        // Threads may have descriptors of their own: those of the thread that makes the calls are meant.
        let process = if tid == pid {
            pidfd(pid)
        } else {
            pidfd_of_thread(tid)
        };
        let process = process.map_err(|errno| HandoverError::own("open a pidfd of", pid, errno))?;
        let scratch = caller
            .scratch(SCRATCH_LEN)
            .map_err(|error| HandoverError::remote("map memory", pid, error))?;
        Ok(Self {
            scratch,
            process,
            open: Vec::new(),
            pid,
        })
    }

    /// A call that returns a new descriptor of the target.
    pub(super) fn open(
        &mut self,
        number: i64,
        arguments: [u64; 6],
    ) -> Result<RawFd, RemoteCallError> {
        let descriptor = self.scratch.call(number, arguments)?;
        let descriptor =
            RawFd::try_from(descriptor).map_err(|_| RemoteCallError::Refused(Errno::EBADF))?;
        self.open.push(descriptor);
        Ok(descriptor)
    }

    /// Closes a descriptor of the target.
    pub(super) fn close(&mut self, descriptor: RawFd) -> Result<(), HandoverError> {
        self.open.retain(|open| *open != descriptor);
        self.scratch
            .call(libc::SYS_close, [argument(descriptor), 0, 0, 0, 0, 0])
            .map(drop)
            .map_err(|error| HandoverError::remote("close a descriptor", self.pid, error))
    }

    /// Our own descriptor for what `descriptor` is in the target.
    pub(super) fn fetch(&self, descriptor: RawFd) -> Result<OwnedFd, HandoverError> {
        fetch(self.process.as_fd(), descriptor)
            .map_err(|errno| HandoverError::own("fetch a descriptor of", self.pid, errno))
    }

    /// Gives the target a descriptor of ours. It never has more than two open for this.
    pub(super) fn give(&mut self, gift: BorrowedFd<'_>) -> Result<RawFd, HandoverError> {
        let (near, far) = self.socket_pair()?;
        let socket = self.fetch(near)?;
        self.close(near)?;
        send(&socket, gift)
            .map_err(|errno| HandoverError::own("send a descriptor to", self.pid, errno))?;
        let gift = self.receive(far)?;
        self.close(far)?;
        Ok(gift)
    }

    fn socket_pair(&mut self) -> Result<(RawFd, RawFd), HandoverError> {
        const DOING: &str = "open a socket";
        let address = self.scratch.address() + PAIR;
        let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let arguments = [argument(libc::AF_UNIX), argument(kind), 0, address, 0, 0];
        self.scratch
            .call(libc::SYS_socketpair, arguments)
            .map_err(|error| HandoverError::remote(DOING, self.pid, error))?;
        let mut pair = [0; 8];
        self.scratch.read(PAIR, &mut pair)?;
        let (near, far) = (number(&pair[..4]), number(&pair[4..]));
        self.open.extend([near, far]);
        Ok((near, far))
    }

    fn receive(&mut self, socket: RawFd) -> Result<RawFd, HandoverError> {
        const DOING: &str = "receive a descriptor";
        let at = self.scratch.address();
        // struct iovec: base, len. struct msghdr: name, its length, vector, its length, control, its length, flags.
        let vector = [at + BYTE, 1];
        let header = [0, 0, at + VECTOR, 1, at + CONTROL, CONTROL_LEN as u64, 0];
        self.scratch.write(VECTOR, &bytes_of(&vector))?;
        self.scratch.write(HEADER, &bytes_of(&header))?;
        let flags = argument(libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC);
        self.scratch
            .call(
                libc::SYS_recvmsg,
                [argument(socket), at + HEADER, flags, 0, 0, 0],
            )
            .map_err(|error| HandoverError::remote(DOING, self.pid, error))?;
        let mut control = [0; CONTROL_LEN];
        self.scratch.read(CONTROL, &mut control)?;
        match descriptor_in(&control) {
            Some(descriptor) => {
                self.open.push(descriptor);
                Ok(descriptor)
            }
            // A process without room for it gets the message without the descriptor.
            None => Err(HandoverError::TooManyFiles {
                doing: DOING,
                pid: self.pid,
            }),
        }
    }

    /// The target keeps a descriptor that was opened.
    pub(super) fn keep(&mut self, descriptor: RawFd) {
        self.open.retain(|open| *open != descriptor);
    }

    /// Closes what is still open and unmaps the memory.
    pub(super) fn leave(mut self) -> Result<(), HandoverError> {
        while let Some(descriptor) = self.open.last().copied() {
            self.close(descriptor)?;
        }
        Ok(())
    }
}

impl Drop for Guests<'_, '_> {
    /// The way out of errors. A failure has nobody left to go to; the scratch memory goes after this.
    fn drop(&mut self) {
        while let Some(descriptor) = self.open.last().copied() {
            drop(self.close(descriptor));
        }
    }
}

/// A small number as an argument of a system call.
pub(super) fn argument(number: i32) -> u64 {
    u64::from(number.cast_unsigned())
}

fn number(bytes: &[u8]) -> RawFd {
    let mut word = [0; 4];
    word.copy_from_slice(bytes);
    RawFd::from_le_bytes(word)
}

fn bytes_of(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The descriptor in a control message of `SCM_RIGHTS`, None if there is no such message. The memory was all zeros before.
fn descriptor_in(control: &[u8; CONTROL_LEN]) -> Option<RawFd> {
    let is_descriptor = argument(number(&control[..4])) == CONTROL_USED
        && number(&control[8..12]) == libc::SOL_SOCKET
        && number(&control[12..16]) == libc::SCM_RIGHTS;
    is_descriptor.then(|| number(&control[16..20]))
}

/// One byte and a descriptor.
fn send(socket: &OwnedFd, gift: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut byte = [0_u8];
    let mut vector = libc::iovec {
        iov_base: byte.as_mut_ptr().cast(),
        iov_len: 1,
    };
    // Words, so that it is aligned for the header: length, level and type, and what follows the header.
    let mut control = [
        CONTROL_USED,
        argument(libc::SOL_SOCKET) | argument(libc::SCM_RIGHTS) << 32,
        argument(gift.as_raw_fd()),
    ];
    // SAFETY: a msghdr consists of integers and pointers, for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN;
    // SAFETY: the message, its vector, byte and control message are locals that live until the call returns, and have the
    // lengths that it says.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    Errno::result(sent).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_a_descriptor_is_told_from_one_with() {
        let mut control = [0; CONTROL_LEN];
        assert_eq!(descriptor_in(&control), None);
        control[0] = 20;
        control[8] = 1;
        control[12] = 1;
        control[16] = 7;
        assert_eq!(descriptor_in(&control), Some(7));
        control[12] = 2;
        assert_eq!(descriptor_in(&control), None, "credentials");
    }
}
