//! CRIU itself: dump and restore.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::daemon::said;

/// A process that is dumped or has been restored, and what it forked. It dies with this value.
#[derive(Debug)]
pub(crate) struct Target(pub(crate) i32);

impl Drop for Target {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.0);
        // Only a child of this program: what was never restored may be anybody's pid by now.
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            let _ = kill(pid, Signal::SIGKILL);
            // Its pid is free again for the next restore.
            let _ = waitpid(pid, None);
        }
    }
}

/// Starts a program in a session of its own, without a terminal.
#[expect(
    clippy::zombie_processes,
    reason = "the target waits for it, in every of its lives"
)]
pub(crate) fn start(program: &Path, arguments: impl Fn(&mut Command)) -> Target {
    // It is not the leader of a group, so setsid(1) needs no fork: the pid is that of the program.
    let mut command = Command::new("setsid");
    arguments(command.arg(program));
    for set in [Command::stdin, Command::stdout, Command::stderr] {
        set(&mut command, Stdio::null());
    }
    let child = command.spawn().expect("setsid (package util-linux)");
    Target(i32::try_from(child.id()).expect("a pid"))
}

/// Dumps a process, which ends with that.
pub(crate) fn dump(criu: &Path, target: Target, into: &Path, run: &Path) -> i32 {
    let pid = target.0;
    // A client that has just gone may still be connected in the eyes of a server.
    for attempt in 0..20 {
        fs::create_dir_all(into).expect("a folder");
        let mut command = Command::new(criu);
        command.arg("dump").arg("-t").arg(pid.to_string());
        command.arg("-D").arg(into).arg("-W").arg(run);
        command.args(["-o", "dump.log"]);
        let status = command.status().expect("CRIU");
        if status.success() {
            drop(target);
            return pid;
        }
        let log = fs::read(run.join("dump.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        assert!(attempt < 19, "CRIU cannot dump:\n{log}");
        fs::remove_dir_all(into).expect("the folder");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    unreachable!("the last attempt is the end")
}

/// A restore that goes on.
#[derive(Debug)]
pub(crate) struct Restoring {
    child: Child,
    run: PathBuf,
    /// What it makes, which lives as long as this value.
    _target: Target,
}

impl Restoring {
    /// Begins to restore.
    pub(crate) fn start(criu: &Path, pid: i32, dump: &Path, run: &Path, lazily: bool) -> Self {
        let mut command = Command::new(criu);
        command.args(["restore", "-d", "-o", "restore.log"]);
        command.arg("-D").arg(dump).arg("-W").arg(run);
        if lazily {
            command.arg("--lazy-pages");
        }
        let child = command.stdin(Stdio::null()).spawn().expect("CRIU");
        Self {
            child,
            run: run.to_path_buf(),
            _target: Target(pid),
        }
    }

    /// Waits until it is over, which leaves the target to itself.
    pub(crate) fn wait(&mut self) {
        let status = self.child.wait().expect("CRIU's end");
        self.check(status);
    }

    fn check(&self, status: ExitStatus) {
        assert!(status.success(), "CRIU cannot restore: {}", said(&self.run));
    }

    /// Stops the benchmark if it has failed.
    pub(crate) fn check_so_far(&mut self) {
        if let Some(status) = self.child.try_wait().expect("CRIU") {
            self.check(status);
        }
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        // Only one that has not ended, when a check has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
