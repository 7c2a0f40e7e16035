//! Stopping another process through ptrace, and letting it go again exactly as it was found.
//!
//! ptrace(2) is full of requests that are only legal in one state of the thread that they are about. Here the state is
//! the type: a [`Running`] thread can be interrupted and waited for, a [`Stopped`] one can be looked at and let go, and
//! neither can be used after it has become the other. ptrace belongs to the *thread* that attached, so none of these
//! types is `Send`.
//!
//! | file               | holds                                                                     |
//! |--------------------|---------------------------------------------------------------------------|
//! | `process.rs`       | [`StoppedProcess`]: a whole process, standing still                       |
//! | `roundup.rs`       | stopping every thread, although new ones appear meanwhile                 |
//! | `thread.rs`        | [`Running`] / [`Stopped`]: one thread                                     |
//! | `letting_go.rs`    | detaching one thread, its interrupted system call made again if needed    |
//! | `interrupted.rs`   | which interrupted system calls must be, and may be, made again            |
//! | `remote_call.rs`   | [`RemoteCaller`]: system calls made by a stopped thread on our behalf     |
//! | `stepping.rs`      | from one border of such a call to the next, whatever else happens         |
//! | `instruction.rs`   | where the target has a system call instruction                            |
//! | `critical.rs`      | threads that were stopped in a restartable sequence                       |
//! | `remote_memory.rs` | [`TargetMemory`], and [`Scratch`]: memory for the arguments of a call     |
//! | `addresses.rs`     | what the kernel knows about a thread's own memory                         |
//! | `arch.rs`          | registers, one section per architecture                                   |
//! | `patience.rs`      | waiting for what no descriptor tells about                                |
//! | `procfs.rs`        | what /proc says about a thread                                            |
//! | `sys.rs`           | the system calls and ptrace requests that nix cannot express              |
//!
//! # What the target notices
//!
//! Nothing but the time that passed, with these exceptions, all of which SIGSTOP followed by SIGCONT has as well:
//!
//! * A *relative* time-out of a call that the kernel does not restart by itself (`epoll_wait`, a socket's
//!   `SO_RCVTIMEO`, `semtimedop`, `rt_sigtimedwait`, …) starts again from its full length.
//! * Calls outside the list in `interrupted.rs` that return EINTR when interrupted do so: `connect` with a
//!   time-out, `ioctl(KVM_RUN)`, drivers.

mod addresses;
mod arch;
mod critical;
mod error;
mod instruction;
mod interrupted;
mod letting_go;
mod patience;
mod process;
mod procfs;
mod remote_call;
mod remote_memory;
mod roundup;
mod stepping;
mod sys;
mod thread;

pub use arch::Registers;
pub use error::TraceError;
pub use process::{DEFAULT_STOP_TIMEOUT, Released, StoppedProcess};
pub use procfs::{ThreadStat, ThreadStatus};
pub use remote_call::{RemoteCallError, RemoteCaller};
pub use remote_memory::{Scratch, TargetMemory};
pub use thread::{Polled, Running, StopCause, Stopped};
