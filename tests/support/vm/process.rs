//! A process that never outlives the value that stands for it.

use super::PATIENCE;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Runs `setpriv` in front of the program: it becomes the program, with the same pid, and dies with this one.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// As `command`, as the user with no privileges at all.
pub fn unprivileged(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(["--no-new-privs", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// A running process. Killed when dropped.
pub struct Process {
    pub child: Child,
    name: &'static str,
    errors: File,
}

impl Process {
    /// Starts it; what it says on stderr is kept for the case that something goes wrong.
    pub fn start(name: &'static str, command: &mut Command) -> Self {
        let errors = tempfile::tempfile().expect("space");
        let child = command
            .stderr(Stdio::from(errors.try_clone().expect("a descriptor")))
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self {
            child,
            name,
            errors,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it said on stderr so far.
    pub fn errors(&self) -> String {
        let len = self.errors.metadata().expect("a file").len();
        let mut said = vec![0; usize::try_from(len).expect("a short file")];
        // By position: the offset is the process's own.
        self.errors.read_exact_at(&mut said, 0).expect("a file");
        String::from_utf8_lossy(&said).into_owned()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_some()
    }

    /// Waits for the end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} does not end: {}",
                self.name,
                self.errors()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{} said on stderr: {}", self.name, self.errors());
        }
    }
}
