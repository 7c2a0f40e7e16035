//! The program under test, started and watched. It is killed when dropped.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::actor::Actor;
use super::support::PATIENCE;
use super::support::service::signal_daemon;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_uffd-restore");

/// How it ended, and what it said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status, or 128 plus the signal.
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    /// Ended with this status and said all of this on standard error.
    #[track_caller]
    pub(crate) fn assert(&self, status: i32, parts: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in {self:?}");
        }
        assert!(!self.err.contains("panicked"), "{self:?}");
    }

    /// The last line of standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        let line = self.out.lines().next_back().unwrap_or_default();
        serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// The lines of a stream, as they come.
#[derive(Debug, Default)]
struct Lines {
    text: Mutex<(String, bool)>,
    more: Condvar,
}

impl Lines {
    fn read(stream: impl Read + Send + 'static) -> (Arc<Self>, JoinHandle<()>) {
        let lines = Arc::new(Self::default());
        let writer = Arc::clone(&lines);
        let thread = std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|got| got > 0) {
                let mut text = writer.text.lock().unwrap_or_else(PoisonError::into_inner);
                text.0.push_str(&String::from_utf8_lossy(&line));
                writer.more.notify_all();
                line.clear();
            }
            let mut text = writer.text.lock().unwrap_or_else(PoisonError::into_inner);
            text.1 = true;
            writer.more.notify_all();
        });
        (lines, thread)
    }

    fn wait_for(&self, part: &str) {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, _) = self
            .more
            .wait_timeout_while(text, PATIENCE, |(text, ended)| {
                !text.contains(part) && !*ended
            })
            .unwrap_or_else(PoisonError::into_inner);
        assert!(text.0.contains(part), "no {part:?} came, but {:?}", text.0);
    }

    fn all(&self) -> String {
        let text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        text.0.clone()
    }
}

/// The program.
pub(crate) struct Daemon {
    child: Child,
    out: Arc<Lines>,
    err: Arc<Lines>,
    threads: Vec<JoinHandle<()>>,
}

/// The command, with these arguments.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments);
    command
}

/// What restores a snapshot into a target's memory.
pub(crate) fn restoring(snapshot: &Path, actor: &Actor, more: &[&str]) -> Command {
    let mut command = command(&["--jobs", "2", "--snapshot"]);
    command
        .arg(snapshot)
        .args(["--pid", &actor.pid().to_string(), &actor.region()])
        .args(more);
    command
}

/// The same in a shell that first does something; "$@" is the command.
pub(crate) fn in_shell(script: &str, inner: &Command) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", script, "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    command
}

impl Daemon {
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the program");
        let (out, one) = Lines::read(child.stdout.take().expect("piped"));
        let (err, two) = Lines::read(child.stderr.take().expect("piped"));
        Self {
            child,
            out,
            err,
            threads: vec![one, two],
        }
    }

    /// Starts it, and listens to nothing it says.
    pub(crate) fn unheard(mut command: Command, out: Stdio, err: Stdio) -> Self {
        let command = command.stdin(Stdio::null()).stdout(out).stderr(err);
        Self {
            child: command.spawn().expect("start the program"),
            out: Arc::default(),
            err: Arc::default(),
            threads: Vec::new(),
        }
    }

    /// Starts it, and waits until it serves.
    pub(crate) fn serving(snapshot: &Path, actor: &Actor, more: &[&str]) -> Self {
        let daemon = Self::spawn(restoring(snapshot, actor, more));
        daemon.hear("serving");
        daemon
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Waits for something on its standard output.
    pub(crate) fn hear(&self, part: &str) {
        if let Err(panic) =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.out.wait_for(part)))
        {
            eprintln!("standard error: {}", self.err.all());
            std::panic::resume_unwind(panic);
        }
    }

    /// Waits for something on its standard error.
    pub(crate) fn complain(&self, part: &str) {
        self.err.wait_for(part);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_daemon(self.pid(), signal);
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_none()
    }

    /// Asks it to end, and waits for that. Whoever took over may not know of a page that is there: nobody asks for it any more, and without
    /// being asked to it would not end.
    pub(crate) fn finish(self) -> Ended {
        self.signal(Signal::SIGTERM);
        self.end()
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end; it said {:?} {:?}",
                self.out.all(),
                self.err.all()
            );
            std::thread::sleep(Duration::from_millis(2));
        };
        for thread in self.threads.drain(..) {
            thread.join().expect("the reader");
        }
        Ended {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: self.out.all(),
            err: self.err.all(),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        signal_daemon(self.pid(), Signal::SIGKILL);
        drop(self.child.wait());
    }
}

/// Runs it to its end.
pub(crate) fn run(command: Command) -> Ended {
    Daemon::spawn(command).end()
}
