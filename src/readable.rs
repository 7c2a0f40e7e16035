//! Whether there is something to read.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until a descriptor is readable, so long at most. True if it is.
pub(crate) fn readable_within(descriptor: impl AsFd, most: Duration) -> bool {
    let most = PollTimeout::try_from(most).unwrap_or(PollTimeout::MAX);
    let mut asked = [PollFd::new(descriptor.as_fd(), PollFlags::POLLIN)];
    poll(&mut asked, most).is_ok_and(|ready| ready > 0)
}
