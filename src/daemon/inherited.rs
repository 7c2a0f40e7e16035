//! Descriptors that were given to this program, and that it knows by their numbers.
#![expect(unsafe_code, reason = "they come as numbers")]

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use crate::failure::Failure;
use crate::service::Numbers;
use crate::takeover::Stored;

/// Takes them over, each once. To be used up before this program opens a descriptor of its own: that could have any number.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    taken: Vec<RawFd>,
}

impl Inherited {
    /// The descriptor that an option names.
    ///
    /// # Errors
    /// [`Failure::Usage`] if it has another use, is not open, or was named before.
    pub(super) fn take(&mut self, number: RawFd, option: &str) -> Result<OwnedFd, Failure> {
        let usage = |why| Err(Failure::Usage(format!("{option}: {why}")));
        if number <= 2 {
            return usage("0, 1 and 2 have other uses: pass another one");
        }
        if self.taken.contains(&number) {
            return usage("another option names the same descriptor");
        }
        // SAFETY: the descriptor is ours if it is open at all, which the next line finds out: this program has opened none yet,
        // and nobody has taken this one.
        let owned = unsafe { OwnedFd::from_raw_fd(number) };
        if fcntl(&owned, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_err() {
            // Nothing to close.
            std::mem::forget(owned);
            return usage("it is not open in this program");
        }
        self.taken.push(number);
        Ok(owned)
    }
}

/// What an earlier run of this program has stored, and was passed to this one.
///
/// # Errors
/// [`Failure::Usage`] if an option named the same descriptor.
pub(super) fn stored(inherited: &mut Inherited) -> Result<Stored, Failure> {
    let Some(numbers) = Numbers::from_environment() else {
        return Ok(Stored::default());
    };
    let take = |number| inherited.take(number, "LISTEN_FDS");
    let numbers = Numbers {
        sockets: Vec::new(),
        ..numbers
    };
    Ok(Stored::new(numbers.take(take)?.stored))
}
