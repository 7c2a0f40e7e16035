//! A daemon that serves one restore, CRIU's or ours: both are started in the same way and say in the same way that they listen.
#![expect(
    unsafe_code,
    reason = "wait4(2), the only call that has a single child's usage"
)]

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2};
use uffd_restore::handover::pidfd;

use crate::clock::now;

/// How long a restore may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that listens. It is ended with this value, if not before.
#[derive(Debug)]
pub(crate) struct Daemon {
    pid: i32,
    process: OwnedFd,
    reaped: bool,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// When it had ended.
    pub(crate) at: u64,
    /// Milliseconds of CPU time, its own and the kernel's for it.
    pub(crate) cpu: f64,
    /// Mebibytes of memory that it had at most.
    pub(crate) peak: f64,
}

impl Ended {
    /// The end of a restore without a daemon.
    pub(crate) fn without(at: u64) -> Self {
        Self {
            at,
            cpu: 0.0,
            peak: 0.0,
        }
    }
}

impl Daemon {
    #[expect(
        clippy::zombie_processes,
        reason = "`reap` waits for it, and has its usage"
    )]
    /// Starts a program with the command line of `criu lazy-pages`, and waits until it listens.
    pub(crate) fn start(mut command: Command, dump: &Path, run: &Path, more: &[String]) -> Self {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        fcntl(&write, FcntlArg::F_SETFD(FdFlag::empty())).expect("to let it be inherited");
        let output = File::create(run.join("daemon.out")).expect("a file");
        command
            .arg("lazy-pages")
            .arg("-D")
            .arg(dump)
            .arg("-W")
            .arg(run);
        command.args(["-o", "daemon.log", "--status-fd"]);
        command.arg(write.as_raw_fd().to_string()).args(more);
        command.stdin(std::process::Stdio::null());
        let child = command.stdout(output).spawn().expect("the daemon");
        drop(write);
        // It is waited for by its number from now on, and not by std.
        let pid = i32::try_from(child.id()).expect("a pid");
        let daemon = Self {
            pid,
            process: pidfd(pid).expect("a pidfd"),
            reaped: false,
        };
        let mut byte = [1];
        let read = File::from(read).read(&mut byte);
        assert!(
            matches!(read, Ok(1)) && byte == [0],
            "the daemon does not listen: {}",
            said(run)
        );
        daemon
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ends_within(PollTimeout::ZERO)
    }

    fn ends_within(&self, time: PollTimeout) -> bool {
        let mut fds = [PollFd::new(self.process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, time) {
            Err(Errno::EINTR) => self.ends_within(time),
            number => number.expect("to poll") > 0,
        }
    }

    /// Waits until it has delivered every page.
    pub(crate) fn wait(mut self, run: &Path) -> Ended {
        let limit = PollTimeout::try_from(LIMIT).expect("short");
        let ended = self.ends_within(limit);
        let at = now();
        assert!(ended, "the daemon does not end: {}", said(run));
        let (status, usage) = reap(self.pid);
        self.reaped = true;
        assert_eq!(status, 0, "the daemon failed: {}", said(run));
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ended {
            at,
            cpu: (seconds(usage.ru_utime) + seconds(usage.ru_stime)) * 1e3,
            peak: usage.ru_maxrss as f64 / 1024.0,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only one that has not ended, when a check has failed.
        if !self.reaped {
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            reap(self.pid);
        }
    }
}

/// Keeps descriptors that this program was started with from those that it starts: CRIU does not dump what it cannot find.
pub(crate) fn pass_nothing_on() {
    let flags = libc::CLOSE_RANGE_CLOEXEC.cast_signed();
    // SAFETY: plain numbers; nothing is closed in this program.
    let result = unsafe { libc::close_range(3, libc::c_uint::MAX, flags) };
    assert_eq!(
        result,
        0,
        "close_range: {}",
        std::io::Error::last_os_error()
    );
}

/// The status that waitpid(2) has, and what the process used.
fn reap(pid: i32) -> (i32, libc::rusage) {
    let mut status = 0;
    let mut usage = std::mem::MaybeUninit::zeroed();
    // SAFETY: both pointers are to variables of the types that the kernel writes.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
    assert_eq!(reaped, pid, "wait4: {}", std::io::Error::last_os_error());
    // SAFETY: all of it are numbers, which zeros are as well.
    (status, unsafe { usage.assume_init() })
}

/// What went wrong, for people.
pub(crate) fn said(run: &Path) -> String {
    let tail = |name: &str| {
        let text = fs::read(run.join(name)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(15)..];
        format!("\n{name}:\n{}", last.join("\n"))
    };
    ["daemon.out", "daemon.log", "restore.log"]
        .map(tail)
        .concat()
}
