//! What serves a lazy restore: the program under test, or for comparison CRIU's own daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::stage::{Ended, Line, Stage};
use super::support::service::signal_daemon;
use super::support::{PATIENCE, wait_until};

/// Which daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Ours,
    Stock,
    /// CRIU restores all memory itself: what a target finds wrong then is a fault of the test.
    Nobody,
}

impl Kind {
    /// Ours; for working on these tests it can be CRIU's own, or nobody.
    pub(crate) fn chosen() -> Self {
        match std::env::var("UFFD_RESTORE_E2E_DAEMON").as_deref() {
            Ok("stock") => Self::Stock,
            Ok("nobody") => Self::Nobody,
            _ => Self::Ours,
        }
    }
}

/// A daemon on the stage.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) pid: i32,
    kind: Kind,
    out: PathBuf,
    err: PathBuf,
}

/// The words of a daemon that serves these images.
pub(crate) fn line(kind: Kind, criu: &Path, images: &Path, work: &Path) -> Line {
    let program = match kind {
        Kind::Ours => Path::new(env!("CARGO_BIN_EXE_uffd-restore")),
        Kind::Stock => criu,
        Kind::Nobody => return Line::new("sh").words(["-c", "exec sleep 1000"]),
    };
    Line::new(program)
        .words(["lazy-pages", "-D"])
        .path(images)
        .word("-W")
        .path(work)
}

impl Daemon {
    /// Starts it without waiting for anything.
    pub(crate) fn start(stage: &mut Stage, folder: &Path, kind: Kind, line: Line) -> Self {
        let line = match kind {
            Kind::Ours => line.word("--json"),
            // It has no other words for it.
            Kind::Stock => line.words(["--status-fd", "1"]),
            Kind::Nobody => line,
        };
        Self {
            pid: stage.start(folder, "daemon", &line),
            kind,
            out: folder.join("daemon.out"),
            err: folder.join("daemon.err"),
        }
    }

    /// Waits until CRIU can connect.
    pub(crate) fn await_listening(&self, stage: &mut Stage) {
        let start = Instant::now();
        loop {
            let said = fs::read(&self.out).unwrap_or_default();
            let listens = match self.kind {
                Kind::Ours => String::from_utf8_lossy(&said).contains(r#""event":"listening""#),
                Kind::Stock => !said.is_empty(),
                Kind::Nobody => true,
            };
            if listens {
                return;
            }
            let ended = stage.end_within(self.pid, std::time::Duration::from_millis(1));
            let patient = start.elapsed() < PATIENCE && ended.is_none();
            assert!(patient, "it does not listen: {ended:?} {}", self.said());
        }
    }

    /// Waits for its end, whatever that is.
    pub(crate) fn ended(&self, stage: &mut Stage) -> Done {
        let status = stage.end_within(self.pid, PATIENCE);
        let Some(status) = status else {
            panic!("the daemon does not end: {}", self.said())
        };
        Done::new(status, self.kind, &self.out, &self.err)
    }

    /// Asks it to end, and waits.
    pub(crate) fn end(&self, stage: &mut Stage) -> Done {
        stage.kill(self.pid, Signal::SIGTERM);
        self.ended(stage)
    }

    /// Sends a signal to all that it consists of, if nobody passes that on.
    pub(crate) fn signal(&self, stage: &Stage, signal: Signal) {
        signal_daemon(stage.outside(self.pid).expect("it is there"), signal);
    }

    /// Waits until it says so.
    pub(crate) fn await_event(&self, event: &str) {
        wait_until(&format!("the daemon's {event}: {}", self.said()), || {
            events(&self.out).iter().any(|its| its["event"] == event)
        });
    }

    pub(crate) fn said(&self) -> String {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        format!("{}{}", text(&self.out), text(&self.err))
    }
}

/// A daemon that is not on the stage: processes have other pids where it is.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Elsewhere {
    /// Starts ours, and waits until CRIU can connect.
    pub(crate) fn listening(folder: &Path, line: Line) -> Self {
        let (out, err) = (folder.join("elsewhere.out"), folder.join("elsewhere.err"));
        let file = |path| fs::File::create(path).expect("a file");
        let child = line
            .word("--json")
            .as_command()
            .stdin(Stdio::null())
            .stdout(file(&out))
            .stderr(file(&err))
            .spawn()
            .expect("it starts");
        let this = Self { child, out, err };
        this.await_event("listening");
        this
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Sends a signal to all that it consists of, if nobody passes that on.
    pub(crate) fn signal(&self, signal: Signal) {
        signal_daemon(self.pid(), signal);
    }

    pub(crate) fn await_event(&self, event: &str) {
        wait_until(&format!("the daemon's {event}"), || {
            events(&self.out).iter().any(|its| its["event"] == event)
        });
    }

    pub(crate) fn ended(mut self) -> Done {
        let mut status = None;
        wait_until("the daemon's end", || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        let code = status.and_then(|status| status.code()).unwrap_or(255);
        Done::new(Ended(code), Kind::Ours, &self.out, &self.err)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // One that has been waited for has no number any more.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGKILL);
        }
        drop(self.child.wait());
    }
}

/// The lines that are JSON.
fn events(out: &Path) -> Vec<Value> {
    let said = fs::read_to_string(out).unwrap_or_default();
    said.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: Ended,
    kind: Kind,
    event: Option<Value>,
    pub(crate) complaints: String,
}

impl Done {
    fn new(status: Ended, kind: Kind, out: &Path, err: &Path) -> Self {
        Self {
            status,
            kind,
            event: events(out).into_iter().find(|its| its["event"] == "done"),
            complaints: fs::read_to_string(err).unwrap_or_default(),
        }
    }

    /// It ended well, and with this outcome. CRIU's own does not say which.
    #[track_caller]
    pub(crate) fn assert(&self, outcome: &str) {
        if self.kind != Kind::Nobody {
            assert_eq!(self.status, Ended::GOOD, "{self:?}");
        }
        if self.kind == Kind::Ours {
            assert_eq!(self.said()["outcome"], outcome, "{self:?}");
            assert_eq!(self.count("/pages/poisoned"), 0, "{self:?}");
        }
    }

    /// It ended badly, with status 1, and these words.
    #[track_caller]
    pub(crate) fn assert_failed(&self, words: &[&str]) {
        assert_eq!(self.status, Ended(1), "{self:?}");
        for part in words {
            assert!(self.complaints.contains(part), "no {part:?} in {self:?}");
        }
        assert!(!self.complaints.contains("panicked"), "{self:?}");
    }

    /// So many of something, or more, were counted. CRIU's own does not count.
    #[track_caller]
    pub(crate) fn require(&self, what: &str, least: u64) {
        if self.kind == Kind::Ours {
            let count = self.count(what);
            assert!(count >= least, "{what}: {count} of {least}: {self:?}");
        }
    }

    #[track_caller]
    fn said(&self) -> &Value {
        match &self.event {
            Some(event) => event,
            None => panic!("it did not say how it went: {self:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn count(&self, what: &str) -> u64 {
        let number = self.said().pointer(what).and_then(Value::as_u64);
        number.unwrap_or_else(|| panic!("no number {what}: {self:?}"))
    }
}
