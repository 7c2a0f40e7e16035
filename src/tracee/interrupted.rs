//! Which interrupted system calls must be, and may be, made again.
//!
//! A stop through ptrace wakes a sleeping thread as a signal would. Most calls notice and answer -ERESTART*, a number
//! that user mode never sees: when there turns out to be no signal the kernel makes the call again. Some calls answer
//! -EINTR instead, which reaches the program, although nothing happened that it asked for (signal(7), "Interruption
//! of system calls and library functions by stop signals", lists some of them).
//!
//! For these the kernel is told to make the call again (`letting_go.rs`). That is right only where -EINTR means "nothing was done": no datagram taken,
//! no byte moved, no event consumed. It would be wrong for anything else: an interrupted close(2) has closed the
//! descriptor (making it again may close another thread's new file of the same number), an interrupted connect(2) goes
//! on in the background (the second one fails with EALREADY). So this is a list of what is known to be safe, and
//! everything that is not in it keeps its EINTR.

use std::path::Path;

use nix::unistd::Pid;

use super::arch::InterruptedCall;

/// Calls that do nothing at all when they return EINTR, whatever they were called on.
const SAFE: [i64; 16] = [
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_io_getevents,
    // EINTR only if this call submitted nothing: otherwise it returns how many it submitted.
    libc::SYS_io_uring_enter,
    // Sockets: EINTR instead of a restart when the socket has a time-out (sock_intr_errno), and only if no byte and no
    // message has been moved yet.
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
];

/// Calls that are safe on the descriptors in [`SAFE_FILES`]. On others (FUSE, drivers) nobody knows what EINTR means.
const SAFE_ON_SOME_FILES: [i64; 4] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
];

/// How the names of such descriptors begin in `/proc/TID/fd`. inotify is in signal(7)'s list.
const SAFE_FILES: [&str; 2] = ["socket:", "anon_inode:inotify"];

/// True when making the call again is the same as never having interrupted it.
pub(super) fn may_be_made_again(tid: Pid, call: &InterruptedCall) -> bool {
    SAFE.contains(&call.number)
        || (SAFE_ON_SOME_FILES.contains(&call.number) && is_safe_file(tid, call.first_argument))
}

fn is_safe_file(tid: Pid, descriptor: u64) -> bool {
    let link = format!("/proc/{tid}/fd/{descriptor}");
    std::fs::read_link(link).is_ok_and(|name| is_safe_file_name(&name))
}

fn is_safe_file_name(name: &Path) -> bool {
    name.to_str()
        .is_some_and(|name| SAFE_FILES.iter().any(|safe| name.starts_with(safe)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_that_did_something_are_not_in_the_list() {
        for unsafe_to_repeat in [
            libc::SYS_close,
            libc::SYS_connect,
            libc::SYS_ioctl,
            libc::SYS_nanosleep,
        ] {
            assert!(
                !SAFE.contains(&unsafe_to_repeat)
                    && !SAFE_ON_SOME_FILES.contains(&unsafe_to_repeat)
            );
        }
    }

    #[test]
    fn reading_is_safe_on_sockets_and_inotify_only() {
        for safe in ["socket:[123]", "anon_inode:inotify"] {
            assert!(is_safe_file_name(Path::new(safe)));
        }
        for other in [
            "/dev/fuse",
            "/mnt/fuse/socket:",
            "pipe:[1]",
            "anon_inode:[userfaultfd]",
            "",
        ] {
            assert!(!is_safe_file_name(Path::new(other)), "{other}");
        }
    }
}
