//! Descriptors: each forked child takes one, and without one its parent stands still; and who takes over needs some. And how memory is
//! taken from the system.

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

/// Descriptors that the process that serves leaves free. The table of descriptors is the keeper's as well: whoever takes over needs some
/// before it can close those of the dead one, which may lie there too.
pub(super) const SPARE: u64 = 32;
/// With fewer than that there is no room to spare.
const ENOUGH: u64 = 3 * SPARE;

/// From now on this process opens none of the last ones. The keeper may, and who takes over until this is called again.
pub(super) fn spare_descriptors() {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    if soft >= ENOUGH {
        // To lower it is allowed to everybody.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft - SPARE, hard);
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
