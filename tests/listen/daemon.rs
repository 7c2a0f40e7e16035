//! `uffd-restore --listen`, started and watched. It is killed when dropped.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::PATIENCE;
use crate::support::service::signal_daemon;

/// Lines of standard output as they come; `None` at their end.
#[derive(Default)]
struct Lines {
    lines: Mutex<(Vec<String>, bool)>,
    more: Condvar,
}

impl Lines {
    fn find(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = lines.0.iter().find(|line| holds(line)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.1 || left.is_zero() {
                return Err(format!("no {what} came, but {:#?}", lines.0));
            }
            let waited = self.more.wait_timeout(lines, left);
            lines = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

pub(crate) struct Daemon {
    child: Child,
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
    errors: PathBuf,
    socket: PathBuf,
}

/// How it ended, and what it has said.
#[derive(Debug)]
pub(crate) struct Ended {
    /// Exit status, or 128 plus the signal.
    pub(crate) status: i32,
    pub(crate) out: Vec<String>,
    pub(crate) err: String,
}

impl Ended {
    /// The line about its end.
    #[track_caller]
    pub(crate) fn numbers(&self) -> Value {
        let last = self.out.last().map_or("", String::as_str);
        let value: Value =
            serde_json::from_str(last).unwrap_or_else(|_| panic!("not JSON: {self:?}"));
        assert_eq!(value["event"], "end", "{self:?}");
        value
    }

    #[track_caller]
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.numbers()[name].as_u64().expect("a number")
    }
}

/// The program with these words, and two threads that decode.
pub(crate) fn command(snapshot: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-restore"));
    command
        .args(["--jobs", "2", "--snapshot"])
        .arg(snapshot)
        .args(words);
    command
}

impl Daemon {
    /// Listens on the lab's socket, with the lab's snapshot and these words more.
    pub(crate) fn listening(lab: &Lab, words: &[&str]) -> Self {
        Self::listening_with(lab, &lab.snapshot(), words)
    }

    /// The same with another file.
    pub(crate) fn listening_with(lab: &Lab, snapshot: &Path, words: &[&str]) -> Self {
        let mut command = command(snapshot, words);
        command.args(["--json", "--listen"]).arg(lab.socket());
        let daemon = Self::spawn(command, lab);
        daemon.event("listening");
        daemon
    }

    pub(crate) fn spawn(mut command: Command, lab: &Lab) -> Self {
        let errors = lab.path(&format!("errors-{}", unique()));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file"))
            .spawn()
            .expect("uffd-restore runs");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let lines = Arc::new(Lines::default());
        let writer = Arc::clone(&lines);
        let reader = std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let mut lines = writer.lines.lock().unwrap_or_else(PoisonError::into_inner);
                lines.0.push(line);
                writer.more.notify_all();
            }
            let mut lines = writer.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.1 = true;
            writer.more.notify_all();
        });
        Self {
            child,
            lines,
            reader: Some(reader),
            errors,
            socket: lab.socket(),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// What it has said to people.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// The first line of text that has this in it.
    #[track_caller]
    pub(crate) fn line(&self, part: &str) -> String {
        match self.lines.find(part, |line| line.contains(part)) {
            Ok(line) => line,
            Err(why) => panic!("{why}, and {}", self.errors()),
        }
    }

    #[track_caller]
    fn find(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        let parse = |line: &str| serde_json::from_str::<Value>(line).ok();
        match self
            .lines
            .find(what, |line| parse(line).is_some_and(|value| holds(&value)))
        {
            Ok(line) => parse(&line).unwrap_or_default(),
            Err(why) => panic!("{why}, and {}", self.errors()),
        }
    }

    /// Waits for the first event of a kind.
    #[track_caller]
    pub(crate) fn event(&self, kind: &str) -> Value {
        self.find(kind, |value| value["event"] == kind)
    }

    /// Waits for the first event of a kind that is about a process.
    #[track_caller]
    pub(crate) fn event_of(&self, kind: &str, pid: i32) -> Value {
        self.find(&format!("{kind} of {pid}"), |value| {
            value["event"] == kind && value["pid"] == pid
        })
    }

    /// Waits until a process is served or refused.
    #[track_caller]
    pub(crate) fn verdict(&self, pid: i32) -> Value {
        self.find(&format!("verdict about {pid}"), |value| {
            value["pid"] == pid && (value["event"] == "serving" || value["event"] == "refused")
        })
    }

    /// How many events of a kind there have been.
    pub(crate) fn count(&self, kind: &str) -> usize {
        let lines = self.lines.lines.lock();
        let lines = lines.unwrap_or_else(PoisonError::into_inner);
        let of_kind = |line: &&String| {
            serde_json::from_str::<Value>(line).is_ok_and(|value| value["event"] == kind)
        };
        lines.0.iter().filter(of_kind).count()
    }

    /// A peer of the newest version that is being served: with all of the lab's memory in one region.
    #[track_caller]
    pub(crate) fn serve(&self, lab: &Lab) -> Peer {
        let peer = Peer::served(&lab.whole(), "", &self.socket);
        self.event_of("serving", peer.pid());
        peer
    }

    /// Waits until everything is in place in a peer.
    #[track_caller]
    pub(crate) fn complete(&self, peer: &Peer) -> Done {
        let done = Done(self.event_of("done", peer.pid()));
        assert_eq!(done.0["outcome"], "complete", "{done:?}");
        done
    }

    pub(crate) fn signal(&self, signal: Signal) {
        signal_daemon(self.pid(), signal);
    }

    /// Asks it to end, and waits for that.
    #[track_caller]
    pub(crate) fn terminate(self) -> Ended {
        self.signal(Signal::SIGTERM);
        let socket = self.socket.clone();
        let ended = self.end();
        assert_eq!(ended.status, 0, "{ended:?}");
        assert!(!socket.exists(), "the socket is left behind");
        ended
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(1));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader");
        }
        let lines = self.lines.lines.lock();
        let err = self.errors();
        assert!(!err.contains("panicked"), "{err}");
        Ended {
            status: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: lines.unwrap_or_else(PoisonError::into_inner).0.clone(),
            err,
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("uffd-restore has said: {}", self.errors());
        }
        signal_daemon(self.pid(), Signal::SIGKILL);
        drop(self.child.wait());
    }
}

fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::SeqCst)
}

/// How a session went.
#[derive(Debug)]
pub(crate) struct Done(pub(crate) Value);

impl Done {
    #[track_caller]
    pub(crate) fn pages(&self, kind: &str) -> u64 {
        self.0["pages"][kind].as_u64().expect("a number")
    }

    #[track_caller]
    pub(crate) fn removes(&self) -> u64 {
        self.0["events"]["remove"].as_u64().expect("a number")
    }

    #[track_caller]
    pub(crate) fn faults(&self) -> u64 {
        self.0["faults"].as_u64().expect("a number")
    }
}
