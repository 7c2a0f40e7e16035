//! `uffd-restore --listen` on the guest's memory file, and what it says. It is killed when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use serde_json::Value;

use super::guest;
use super::plan::Plan;
use super::support::PATIENCE;
use super::support::service::signal_daemon;
use nix::sys::signal::Signal;

/// A folder with the memory file, the snapshot of it, and the socket.
pub(crate) struct Lab(tempfile::TempDir);

impl Lab {
    pub(crate) fn new(plan: &Plan) -> Self {
        let this = Self(tempfile::tempdir().expect("a folder"));
        fs::write(this.raw(), guest::image(plan.pages)).expect("the memory file");
        let output = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
            .args(["pack", "--quiet"])
            .arg(this.raw())
            .arg("-o")
            .arg(this.snapshot())
            .output()
            .expect("uffd-snapshot runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "uffd-snapshot: {said}");
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The memory as it is.
    pub(crate) fn raw(&self) -> PathBuf {
        self.path("memory")
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.path("snapshot")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }
}

pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Daemon {
    /// Starts it with these words more, and waits until it serves whoever connects.
    pub(crate) fn listening(lab: &Lab, file: &Path, words: &[&str]) -> Self {
        let errors = lab.path("errors");
        let mut child = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
            .arg("--snapshot")
            .arg(file)
            .arg("--listen")
            .arg(lab.socket())
            .arg("--json")
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .expect("uffd-restore runs");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            // Ends with the daemon, or when nobody listens any more.
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let this = Self {
            child,
            lines,
            errors,
        };
        this.until("listening", |line| line.contains("listening"));
        this
    }

    /// The next line of which something holds.
    #[track_caller]
    fn until(&self, what: &str, holds: impl Fn(&str) -> bool) -> String {
        let mut before = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if holds(&line) => return line,
                Ok(line) => before.push(line),
                Err(error) => {
                    let said = fs::read_to_string(&self.errors).unwrap_or_default();
                    panic!("uffd-restore: no {what}: {error}, but {before:#?}, and {said}");
                }
            }
        }
    }

    /// How the session went that ends next.
    #[track_caller]
    pub(crate) fn done(&self) -> Done {
        let value = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_default();
        let line = self.until("done", |line| value(line)["event"] == "done");
        Done(value(&line))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = fs::read_to_string(&self.errors).unwrap_or_default();
            eprintln!("uffd-restore has said: {said}");
        }
        let keeper = i32::try_from(self.child.id()).expect("a pid");
        signal_daemon(keeper, Signal::SIGKILL);
        drop(self.child.wait());
    }
}

/// How a session went.
#[derive(Debug)]
pub(crate) struct Done(Value);

impl Done {
    #[track_caller]
    pub(crate) fn outcome(&self) -> &str {
        self.0["outcome"].as_str().expect("a word")
    }

    #[track_caller]
    pub(crate) fn faults(&self) -> u64 {
        self.0["faults"].as_u64().expect("a number")
    }

    #[track_caller]
    pub(crate) fn pages(&self, kind: &str) -> u64 {
        self.0["pages"][kind].as_u64().expect("a number")
    }

    #[track_caller]
    pub(crate) fn removes(&self) -> u64 {
        self.0["events"]["remove"].as_u64().expect("a number")
    }
}
