//! One recvmsg(2) of bytes and descriptors, and who sent them. nix has recvmsg, but gives the descriptors of a truncated message to nobody: they
//! would stay open for ever.
#![expect(unsafe_code, reason = "recvmsg, and owning what it opens")]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::PassCred;

/// Most descriptors that one piece of a message may bring. Firecracker sends one, forks of it up to three.
pub(super) const ROOM: usize = 16;

/// `CMSG_LEN(0)`, which is a multiple of what control messages are aligned to.
const HEADER: usize = size_of::<libc::cmsghdr>();
/// `CMSG_SPACE` of so many descriptors: no less, and not one descriptor more.
const CONTROL_LEN: usize = HEADER + ROOM * size_of::<RawFd>();
/// `CMSG_SPACE` of credentials, which come before the descriptors.
const CREDENTIALS_LEN: usize = HEADER + size_of::<libc::ucred>().next_multiple_of(8);

const _: () = assert!(HEADER == 16 && CONTROL_LEN.is_multiple_of(8));

/// What one call got.
#[derive(Debug)]
pub(super) struct Piece {
    /// Bytes in the buffer; 0 when the other end has been closed.
    pub(super) bytes: usize,
    /// Descriptors, closed on exec.
    pub(super) descriptors: Vec<OwnedFd>,
    /// There were more descriptors than there is room for, or than this program may have open. The kernel has dropped them.
    pub(super) truncated: bool,
    /// The process that sent it, in this program's pid namespace: if it has a number here, and the socket is [`signed`].
    pub(super) sender: Option<i32>,
}

/// Has the kernel note with each message who sent it (unix(7), `SO_PASSCRED`). On a socket that listens it is for what is sent before
/// the connection is accepted.
///
/// # Errors
/// It is no socket.
pub(super) fn signed(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, PassCred, &true)
}

/// Takes what there is, without waiting. The buffer must not be empty.
///
/// # Errors
/// EAGAIN when there is nothing, EINTR, ECONNRESET.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Piece, Errno> {
    receive_with(socket, buffer, CONTROL_LEN)
}

/// The same from a socket that is [`signed`].
///
/// # Errors
/// As above.
pub(super) fn receive_signed(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Piece, Errno> {
    receive_with(socket, buffer, CREDENTIALS_LEN + CONTROL_LEN)
}

fn receive_with(socket: BorrowedFd<'_>, buffer: &mut [u8], room: usize) -> Result<Piece, Errno> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // Words, so that it is aligned for the header of a control message.
    let mut control = [0_u64; (CREDENTIALS_LEN + CONTROL_LEN) / 8];
    // SAFETY: a msghdr consists of integers and pointers, for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message, its vector and its control messages are locals that live until the call returns, the buffer is
    // exclusively borrowed, and all have the lengths that it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = Errno::result(got)?;
    let control: Vec<u8> = control.iter().flat_map(|word| word.to_le_bytes()).collect();
    let used = &control[..message.msg_controllen.min(room)];
    let descriptors = numbers(used, libc::SCM_RIGHTS).into_iter().map(|number| {
        // SAFETY: the kernel just opened this descriptor for us and nobody else knows it.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    Ok(Piece {
        descriptors: descriptors.collect(),
        bytes: usize::try_from(bytes).unwrap_or(0),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
        // Process, user and group; no process has the number 0.
        sender: numbers(used, libc::SCM_CREDENTIALS)
            .first()
            .copied()
            .filter(|&pid| pid > 0),
    })
}

/// The numbers in all control messages of a type.
fn numbers(control: &[u8], wanted: i32) -> Vec<i32> {
    let mut numbers = Vec::new();
    let mut rest = control;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let [len, kind] = [0, 8].map(|at| word(&header[at..at + 8]));
        let Ok(len) = usize::try_from(len) else { break };
        let Some(content) = rest.get(HEADER..len) else {
            break;
        };
        if kind == kind_of(wanted) {
            let (whole, _) = content.as_chunks::<4>();
            numbers.extend(whole.iter().map(|bytes| i32::from_le_bytes(*bytes)));
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    numbers
}

/// Level and type, as one word of the header.
fn kind_of(message: i32) -> u64 {
    u64::from(libc::SOL_SOCKET.cast_unsigned()) | u64::from(message.cast_unsigned()) << 32
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u64, numbers: &[RawFd]) -> Vec<u8> {
        let len = HEADER + numbers.len() * 4;
        let mut bytes = Vec::new();
        bytes.extend((len as u64).to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
        bytes.resize(len.next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn descriptors_of_every_message_of_rights_and_of_no_other() {
        let rights = kind_of(libc::SCM_RIGHTS);
        let mut control = message(rights, &[3, 4, 5]);
        control.extend(message(kind_of(libc::SCM_CREDENTIALS), &[6]));
        control.extend(message(rights, &[7]));
        assert_eq!(numbers(&control, libc::SCM_RIGHTS), [3, 4, 5, 7]);
        assert_eq!(numbers(&control, libc::SCM_CREDENTIALS), [6]);
        let none = |bytes: &[u8]| numbers(bytes, libc::SCM_RIGHTS).is_empty();
        assert!(none(&control[..HEADER]), "cut off");
        assert!(none(&[]));
        assert!(none(&[0; 64]), "no length");
        assert!(none(&[0xff; 64]), "an absurd length");
    }
}
