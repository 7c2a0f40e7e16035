//! One recvmsg(2) of bytes and descriptors. nix has recvmsg, but gives the descriptors of a truncated message to nobody: they
//! would stay open for ever.
#![expect(unsafe_code, reason = "recvmsg, and owning what it opens")]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Most descriptors that one piece of a message may bring. Firecracker sends one, forks of it up to three.
pub(super) const ROOM: usize = 16;

/// `CMSG_LEN(0)`, which is a multiple of what control messages are aligned to.
const HEADER: usize = size_of::<libc::cmsghdr>();
/// `CMSG_SPACE` of so many descriptors: no less, and not one descriptor more.
const CONTROL_LEN: usize = HEADER + ROOM * size_of::<RawFd>();

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
}

/// Takes what there is, without waiting. The buffer must not be empty.
///
/// # Errors
/// EAGAIN when there is nothing, EINTR, ECONNRESET.
pub(super) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<Piece, Errno> {
    let mut vector = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // Words, so that it is aligned for the header of a control message.
    let mut control = [0_u64; CONTROL_LEN / 8];
    // SAFETY: a msghdr consists of integers and pointers, for which zero bytes are a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_LEN;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message, its vector and its control messages are locals that live until the call returns, the buffer is
    // exclusively borrowed, and all have the lengths that it says.
    let got = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = Errno::result(got)?;
    let control: Vec<u8> = control.iter().flat_map(|word| word.to_le_bytes()).collect();
    let used = message.msg_controllen.min(CONTROL_LEN);
    let descriptors = numbers(&control[..used]).into_iter().map(|number| {
        // SAFETY: the kernel just opened this descriptor for us and nobody else knows it.
        unsafe { OwnedFd::from_raw_fd(number) }
    });
    Ok(Piece {
        descriptors: descriptors.collect(),
        bytes: usize::try_from(bytes).unwrap_or(0),
        truncated: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// The numbers in all control messages of `SCM_RIGHTS`.
fn numbers(control: &[u8]) -> Vec<RawFd> {
    let mut numbers = Vec::new();
    let mut rest = control;
    while let Some((header, _)) = rest.split_at_checked(HEADER) {
        let [len, kind] = [0, 8].map(|at| word(&header[at..at + 8]));
        let Ok(len) = usize::try_from(len) else { break };
        let Some(content) = rest.get(HEADER..len) else {
            break;
        };
        if kind == kind_of_rights() {
            let (whole, _) = content.as_chunks::<4>();
            numbers.extend(whole.iter().map(|bytes| RawFd::from_le_bytes(*bytes)));
        }
        rest = rest.get(len.next_multiple_of(8)..).unwrap_or_default();
    }
    numbers
}

/// Level and type, as one word of the header.
fn kind_of_rights() -> u64 {
    u64::from(libc::SOL_SOCKET.cast_unsigned()) | u64::from(libc::SCM_RIGHTS.cast_unsigned()) << 32
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
        let rights = kind_of_rights();
        let mut control = message(rights, &[3, 4, 5]);
        control.extend(message(rights + (1 << 32), &[6]));
        control.extend(message(rights, &[7]));
        assert_eq!(numbers(&control), [3, 4, 5, 7]);
        let none = |bytes: &[u8]| numbers(bytes).is_empty();
        assert!(none(&control[..HEADER]), "cut off");
        assert!(none(&[]));
        assert!(none(&[0; 64]), "no length");
        assert!(none(&[0xff; 64]), "an absurd length");
    }
}
