//! Serving a target: the loop and the worker pool, the only threads of the daemon.
//!
//! | file         | holds                                                                    |
//! |--------------|--------------------------------------------------------------------------|
//! | `engine.rs`  | the loop of one session: it reads, answers and installs                   |
//! | `ending.rs`  | what happens when not all can be served to the end                        |
//! | `filling.rs` | pages that nobody waits for                                               |
//! | `pool.rs`    | threads that read and decode                                             |
//! | `supply.rs`  | whether a fault's content is decoded by the loop or by the pool           |
//! | `poller.rs`  | what can make the loop go on                                              |
//! | `kernel.rs`  | the real kernel behind the rules of [`crate::session`]                    |
//! | `guard.rs`   | [`Guard`]: what happens to the target when this program is killed         |
//! | `target.rs`  | [`Target`]: the process, held by a descriptor                             |
//! | `report.rs`  | [`Report`]: how it went                                                   |

mod ending;
mod engine;
mod filling;
mod guard;
mod kernel;
mod poller;
mod pool;
mod report;
mod supply;
mod target;

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

pub use self::engine::serve;
pub use self::guard::Guard;
pub use self::poller::{ENDING_SIGNALS, hold_signals};
pub use self::report::{Outcome, Report};
pub use self::target::Target;
use crate::session::OnFailure;
use crate::space::AddressSpace;
use crate::uffd::Userfaultfd;

/// Which pages are installed before somebody asks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefill {
    /// None.
    #[default]
    None,
    /// All that are owed.
    All,
}

/// How to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Threads that decode, beside the loop.
    pub jobs: usize,
    /// What to install ahead.
    pub prefill: Prefill,
    /// What becomes of a page that cannot be served.
    pub on_failure: OnFailure,
    /// When asked to end: how long to go on installing what is owed.
    pub finish_within: Duration,
    /// No progress on the terminal.
    pub quiet: bool,
}

/// What every front end produces: a target that waits to be served.
#[derive(Debug)]
pub struct Handover {
    /// The process.
    pub target: Target,
    /// Its userfaultfd, agreed on and registered.
    pub userfaultfd: Userfaultfd,
    /// What is registered and owed.
    pub space: AddressSpace,
}

impl Handover {
    /// Kills the target, for its memory will not come, and waits until that can be seen by nobody.
    pub fn kill(self) {
        const LONG: Duration = Duration::from_secs(5);
        // Should it not be permitted, the guard keeps the descriptor open, and the target waits.
        let _ = self.target.kill();
        let mut ended = [PollFd::new(self.target.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(LONG).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut ended, timeout);
    }
}

/// Why serving could not begin, or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The kernel refused something that every daemon needs.
    #[error("cannot {doing}: {errno}")]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// No thread could be started.
    #[error("cannot start a thread: {0}: raise the limit on tasks, or use fewer --jobs")]
    Thread(std::io::Error),
}

/// Makes an error of something that every daemon needs.
fn cannot(doing: &'static str) -> impl FnOnce(Errno) -> ServeError {
    move |errno| ServeError::Kernel { doing, errno }
}
