//! The real daemon, from outside.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use uffd_restore::addr::Addr;

/// `uffd-restore`, serving.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    output: BufReader<ChildStdout>,
    /// From before it was started until its line was read.
    pub(crate) ready_after: Duration,
    /// What it says of the target, in milliseconds.
    pub(crate) stood_still: f64,
}

impl Daemon {
    /// Restores the only region of a snapshot, which is where it was.
    pub(crate) fn start(
        program: &Path,
        snapshot: &Path,
        pid: i32,
        at: Addr,
        options: &[&str],
    ) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(program)
            .arg("--snapshot")
            .arg(snapshot)
            .args(["--json", "--pid", &pid.to_string()])
            .arg("--region")
            .arg(format!("{at}={at}"))
            .args(options)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the daemon");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("its first line");
        let ready_after = begun.elapsed();
        assert!(line.contains(r#""event":"serving""#), "it said {line:?}");
        Self {
            child,
            output,
            ready_after,
            stood_still: number(&line, "stood_still_seconds") * 1e3,
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Waits for its end, after the target's, or when nothing is owed any more. Returns what it says last.
    pub(crate) fn end(mut self) -> String {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).expect("its output");
        let status = self.child.wait().expect("its end");
        assert!(status.success(), "{status}: {rest}");
        rest
    }
}

/// How long it takes to start the program, when it has nothing to do.
pub(crate) fn start_alone(program: &Path) -> Duration {
    let begun = Instant::now();
    let mut command = Command::new(program);
    let done = command.arg("--version").stdout(Stdio::null()).status();
    assert!(done.expect("the daemon").success());
    begun.elapsed()
}

/// The number behind a name in a line of JSON.
pub(crate) fn number(line: &str, name: &str) -> f64 {
    let behind = line
        .split_once(&format!("\"{name}\":"))
        .map(|(_, rest)| rest);
    let text = behind.and_then(|rest| rest.split([',', '}']).next());
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no {name} in {line}"))
}
