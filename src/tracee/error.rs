//! What can go wrong between finding a process and letting it go.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

/// Why a process could not be stopped, looked at or let go. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// There is no process or thread with this id.
    #[error("there is no process {pid}: check the id (it must be one of this pid namespace)")]
    NoSuchProcess {
        /// The id asked for.
        pid: i32,
    },
    /// The process has ended and waits to be reaped; its memory is gone.
    #[error("process {pid} ({name}) is a zombie: it has ended, its memory is gone")]
    Zombie {
        /// The process id.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// Kernel threads have no memory of their own and cannot be traced.
    #[error("process {pid} ({name}) is a kernel thread: it has no memory of its own")]
    KernelThread {
        /// The process id.
        pid: i32,
        /// Its name.
        name: String,
    },
    /// A process cannot trace itself.
    #[error("process {pid} is this process: it cannot be stopped by itself, use another process")]
    Myself {
        /// The process id.
        pid: i32,
    },
    /// The kernel's ptrace access check said no.
    #[error(
        "not permitted to trace process {pid} ({name}), which belongs to uid {uid}: run as the same user, or as root, \
         or with CAP_SYS_PTRACE{yama}"
    )]
    NotPermitted {
        /// The process id.
        pid: i32,
        /// Its name.
        name: String,
        /// Its real user id.
        uid: u32,
        /// A hint about Yama, or empty where Yama does not restrict.
        yama: String,
    },
    /// A thread has at most one tracer.
    #[error(
        "thread {tid} of process {pid} is already traced by {tracer_name} (pid {tracer}): stop that debugger or tracer \
         first"
    )]
    AlreadyTraced {
        /// The process id.
        pid: i32,
        /// The thread that is traced.
        tid: i32,
        /// Who traces it.
        tracer: i32,
        /// The tracer's name.
        tracer_name: String,
    },
    /// A thread sleeps in the kernel and cannot be interrupted.
    #[error(
        "thread {tid} of process {pid} is in uninterruptible sleep (in {wchan}) and did not stop within {timeout:?}: \
         find out what it waits for (a disk, NFS, an unread userfaultfd event), then try again"
    )]
    Uninterruptible {
        /// The process id.
        pid: i32,
        /// The thread that sleeps.
        tid: i32,
        /// The kernel function it sleeps in, or `?`.
        wchan: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// A thread did not stop although it does not sleep; or threads were created faster than they could be stopped.
    #[error(
        "thread {tid} of process {pid} (state {state}, in {wchan}) did not stop within {timeout:?}: try again with a \
         longer time-out"
    )]
    NotStopping {
        /// The process id.
        pid: i32,
        /// The thread that did not stop.
        tid: i32,
        /// Its state letter as in /proc/PID/stat.
        state: char,
        /// The kernel function it is in, or `?`.
        wchan: String,
        /// How long was waited.
        timeout: Duration,
    },
    /// The process ended while it was being worked on (SIGKILL ends even a stopped process).
    #[error(
        "process {pid} ended while it was stopped by this program (killed?): start it again and try again"
    )]
    Ended {
        /// The process id.
        pid: i32,
    },
    /// The process runs 32-bit code, whose system calls are others.
    #[error(
        "process {pid} runs 32-bit code: only 64-bit x86-64 processes can be made to call the kernel"
    )]
    Not64Bit {
        /// The process id.
        pid: i32,
    },
    /// A seccomp filter guards the thread, and may kill the process for a system call that it does not expect.
    #[error(
        "thread {tid} of process {pid} is under a seccomp filter that this program is not permitted to suspend: run it \
         with CAP_SYS_ADMIN and without a filter of its own"
    )]
    Filtered {
        /// The process id.
        pid: i32,
        /// The thread under the filter.
        tid: i32,
    },
    /// No executable memory of the process contains a system call instruction.
    #[error(
        "process {pid} has no system call instruction in its executable memory, not even a vdso: it cannot be made to \
         call the kernel"
    )]
    NoCallInstruction {
        /// The process id.
        pid: i32,
    },
    /// A system call that was made on a thread's behalf did not return: it raised a signal, or something else took its place.
    #[error(
        "thread {tid} of process {pid} was to make system call {number} and got signal {signal} instead (0: something else): \
         look for a filter or a system call dispatcher in the process"
    )]
    CallDisturbed {
        /// The process id.
        pid: i32,
        /// The thread that was to make the call.
        tid: i32,
        /// The system call's number.
        number: i64,
        /// The signal, 0 for something else.
        signal: i32,
    },
    /// A ptrace request failed although nothing above explains it.
    #[error("ptrace: cannot {doing} thread {tid}: {errno}")]
    Ptrace {
        /// What was asked for, as a verb.
        doing: &'static str,
        /// The thread it was asked of.
        tid: i32,
        /// The kernel's answer.
        errno: Errno,
    },
    /// A file of /proc could not be read or made sense of.
    #[error("cannot read {path}: {source}{}", proc_advice(.source))]
    Proc {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

fn proc_advice(error: &std::io::Error) -> &'static str {
    match error.raw_os_error() {
        // The files belong to the owner of the process, and CAP_SYS_PTRACE does not open files.
        Some(libc::EACCES) => {
            ": run as root or as the user of that process; with capabilities, CAP_DAC_OVERRIDE is needed beside CAP_SYS_PTRACE"
        }
        Some(libc::EMFILE) => {
            ": this program may not have more open files: raise its limit (ulimit -n)"
        }
        _ => "",
    }
}
