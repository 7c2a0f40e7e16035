//! Descriptors: each forked child takes one, and without one its parent stands still. And how memory is taken from the system.

#![expect(unsafe_code, reason = "mallopt(3)")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit on open files to what is allowed. Returns it.
pub(super) fn raise_descriptors() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// Has all threads take their memory from one place. With one for each, what a thread gives back is of no use to another: the
/// cache, filled and emptied by all of them, took twice its size; and each growth of a thread's place is a system call.
pub(super) fn share_memory() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, 1),
        (libc::M_TOP_PAD, 1 << 20),
        (libc::M_TRIM_THRESHOLD, 4 << 20),
    ] {
        // SAFETY: plain numbers; called before other threads exist.
        unsafe { libc::mallopt(parameter, value) };
    }
}
