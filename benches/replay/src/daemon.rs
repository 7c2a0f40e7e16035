//! The real daemon, from outside.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use uffd_restore::addr::Addr;

use crate::Setup;

/// `uffd-restore`, serving. It is ended with this value, if not before.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    output: BufReader<ChildStdout>,
    /// What it has said since it serves.
    said: String,
    /// Milliseconds from before it was started until its line was read.
    pub(crate) ready_after: f64,
}

impl Daemon {
    /// Restores into a process: the only region of a packed image to where that is wanted, or all regions to where they were.
    pub(crate) fn start(
        setup: &Setup,
        snapshot: &Path,
        pid: i32,
        at: Option<Addr>,
        options: &[&str],
    ) -> Self {
        let begun = Instant::now();
        let mut command = Command::new(&setup.program);
        command.arg("--snapshot").arg(snapshot);
        command.args(["--json", "--quiet", "--pid", &pid.to_string()]);
        if let Some(at) = at {
            command.arg("--region").arg(format!("largest={at}"));
        }
        let command = command.args(options).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the daemon");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        assert!(line.contains(r#""event":"serving""#), "it said {line:?}");
        Self {
            child,
            output,
            said: String::new(),
            ready_after: begun.elapsed().as_secs_f64() * 1e3,
        }
    }

    /// Waits until it has written what it recorded.
    pub(crate) fn recorded(&mut self) {
        while !self.said.contains(r#""event":"recorded""#) {
            let read = self.output.read_line(&mut self.said).expect("its output");
            assert_ne!(read, 0, "it ended without a recording: {}", self.said);
        }
    }

    /// Mebibytes of memory that it had at most. None when it has ended.
    pub(crate) fn peak(&self) -> Option<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.expect("it is not reaped");
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().split(' ').next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0)
    }

    /// Asks it to end, which it does when everything is in place.
    pub(crate) fn ask_to_end(&self) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        kill(pid, Signal::SIGTERM).expect("it lives");
    }

    /// Waits for its end, after the target's, or when nothing is owed any more. Returns what it said.
    pub(crate) fn end(mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output");
        let status = self.child.wait().expect("its end");
        self.said += &rest;
        assert!(status.success(), "{status}: {}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Only one that has not ended, when a check has failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The number behind a name in a line of JSON; the last one of that name.
pub(crate) fn number(text: &str, name: &str) -> Option<f64> {
    let (_, behind) = text.rsplit_once(&format!("\"{name}\":"))?;
    behind.split([',', '}']).next()?.parse().ok()
}
