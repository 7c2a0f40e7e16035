//! Descriptors: each forked child takes one, and without one its parent stands still.

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
