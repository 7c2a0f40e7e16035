//! Serving a target: the loop and the worker pool.
//!
//! | file         | holds                                                                    |
//! |--------------|--------------------------------------------------------------------------|
//! | `engine.rs`  | the loop of one session: it reads, answers and installs                   |
//! | `server.rs`  | [`Server`]: what a session needs, and all of it from the first moment on  |
//! | `arriving.rs` | processes that are handed over one after the other                      |
//! | `roots.rs`   | which processes those are, and whose forks are whose                     |
//! | `orphaned.rs` | sessions whose process was killed                                       |
//! | `leaving.rs` | address spaces that end                                                  |
//! | `ending.rs`  | what happens when not all can be served to the end                        |
//! | `filling.rs` | pages that nobody waits for                                               |
//! | `gate.rs`    | when others may install beside the loop                                   |
//! | `lease.rs`   | memory that threads of the pool install themselves                        |
//! | `elsewhere.rs` | keeping those threads off a core                                        |
//! | `replay.rs`  | pages that were touched last time: what is decoded, and what has come    |
//! | `replaying.rs` | installing them                                                        |
//! | `recording.rs` | which pages are touched this time                                      |
//! | `stalling.rs` | while the kernel refuses: what is kept, and how long the loop waits      |
//! | `pace.rs`    | how fast those may be installed; pure                                    |
//! | `pool.rs`    | threads that read and decode                                             |
//! | `supply.rs`  | whether a fault's content is decoded by the loop or by the pool           |
//! | `poller.rs`  | what can make the loop go on                                              |
//! | `placement.rs` | where the loop's thread runs                                            |
//! | `letting_go.rs` | poisoning what nobody will serve, unregistering what the target keeps  |
//! | `kernel.rs`  | the real kernel behind the rules of [`crate::session`]                    |
//! | `keeping.rs` | what is kept of a session for whoever takes over                          |
//! | `guard/`     | [`Guard`]: what happens to the target when this program is killed         |
//! | `target.rs`  | [`Target`]: the process, held by a descriptor                             |
//! | `report.rs`  | [`Report`]: how it went                                                   |

mod arriving;
mod elsewhere;
mod ending;
mod engine;
mod filling;
mod gate;
mod guard;
mod keeping;
mod kernel;
mod lease;
mod leaving;
pub mod letting_go;
mod orphaned;
mod pace;
mod placement;
mod poller;
mod pool;
mod recording;
mod replay;
mod replaying;
mod report;
mod roots;
mod server;
mod stalling;
mod supply;
mod target;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

pub use self::arriving::{Arrival, Arrivals, Herald, Newcomer, arrivals};
pub(crate) use self::guard::kill_family;
pub use self::guard::{Guard, MOST_TARGETS, Next, Unwatched, Watched};
pub use self::orphaned::Orphaned;
pub use self::poller::{
    ENDING_SIGNALS, EndingSignals, Orders, asked_to_end, hold_signals, obey_only,
};
pub use self::pool::Workers;
pub use self::recording::Recording;
pub use self::report::{Outcome, Report};
pub use self::server::Server;
pub use self::target::{END_OF_A_PROCESS, Target};
use crate::addr::AddrRange;
use crate::session::{Counts, Latency, OnFailure};
use crate::space::AddressSpace;
use crate::uffd::Userfaultfd;

/// Which pages are installed before somebody asks for them, beside those of a working set ([`Server::replaying`]).
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
    /// Bytes a second, at most, of [`Prefill::All`]; `None` for as many as there is time for.
    pub prefill_rate: Option<u64>,
    /// [`Prefill::All`] gives way to a target that asks, but not for long: whoever waits for all waits for this program to end.
    pub prefill_urgent: bool,
    /// How long to wait before the first of [`Prefill::All`], from the moment when all is being served.
    pub prefill_delay: Duration,
    /// [`Prefill::All`] begins when what is recorded has been.
    pub record_first: bool,
    /// How long to install what was touched last time before the target is let go.
    pub head_start: Duration,
    /// Most pages that are fetched before somebody asks who reads in order.
    pub read_ahead: u64,
    /// What becomes of a page that cannot be served.
    pub on_failure: OnFailure,
    /// When asked to end: how long to go on installing what is owed.
    pub finish_within: Duration,
    /// The loop stays where a thread runs that faults alone; otherwise it is always where the scheduler likes.
    pub follow: bool,
    /// No progress on the terminal.
    pub quiet: bool,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy)]
pub struct SoFar<'a> {
    /// What happened.
    pub counts: &'a Counts,
    /// How long threads have waited for pages.
    pub latency: &'a Latency,
    /// Bytes that are owed.
    pub owed: u64,
}

/// Is told ten times a second how far it is. On the loop's thread: it must not take long.
pub struct Observer(pub Box<dyn FnMut(SoFar<'_>)>);

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

/// What every front end produces: a target that waits to be served.
#[derive(Debug)]
pub struct Handover {
    /// The process.
    pub target: Arc<Target>,
    /// Its userfaultfd, agreed on and registered.
    pub userfaultfd: Userfaultfd,
    /// What is registered and owed.
    pub space: AddressSpace,
    /// What must be unregistered in the end, because the target keeps a descriptor of its own: closing ours would not do it.
    pub kept_by_peer: Vec<AddrRange>,
}

/// Why nothing can be served. The target has not been touched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The kernel refused something that every daemon needs.
    #[error("cannot {doing}: {errno}{}", advice(*errno))]
    Kernel {
        /// What was being done.
        doing: &'static str,
        /// The answer.
        errno: Errno,
    },
    /// No thread could be started.
    #[error(
        "cannot start a thread: {0}: raise the limits on tasks (ulimit -u, TasksMax=) and memory (ulimit -v), or use fewer \
         --jobs"
    )]
    Thread(std::io::Error),
}

fn advice(errno: Errno) -> &'static str {
    match errno {
        Errno::EMFILE => ": this program may not have more open files: raise its limit (ulimit -n)",
        Errno::ENFILE => ": the whole system has too many open files: raise the sysctl fs.file-max",
        _ => "",
    }
}

/// Something that one thread rings and another waits for, without waiting to ring it or to silence it.
///
/// # Errors
/// No descriptor, no memory.
pub fn bell() -> Result<EventFd, ServeError> {
    EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(cannot("wait for events"))
}

/// Makes an error of something that every daemon needs.
fn cannot(doing: &'static str) -> impl FnOnce(Errno) -> ServeError {
    move |errno| ServeError::Kernel { doing, errno }
}
