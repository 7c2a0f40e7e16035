//! The usual course of a test: a target is captured, spoilt, and rolled back while it runs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;
use snapshot_format::working_set::{self, History};
use snapshot_format::{Cursor, PageNo, Snapshot};

use crate::memory::{Content, Dice, Memory, touch};
use crate::support::service::signal_daemon;
use crate::support::{PATIENCE, Target, hear, say, selector};

/// Everything is installed from a working set, while the target runs.
pub(crate) const REPLAY: &[&str] = &["--prefill", "working-set", "--head-start", "0s"];

/// In a role: fills the areas, lets them be captured, spoils them, and returns when they have been rolled back: at the very
/// moment when this process goes on after that.
pub(crate) fn be_rolled_back(areas: &[Memory]) {
    be_rolled_back_as(std::process::id(), areas);
}

/// The same, for a process that the test knows by another id.
pub(crate) fn be_rolled_back_as(pid: u32, areas: &[Memory]) {
    areas.iter().for_each(Memory::fill);
    show(pid, areas);
    wait_for("spoil");
    areas.iter().for_each(Memory::spoil);
    say("spoilt");
    while touch(areas[0].at(0)) == Content::Before(0).tag() {
        std::thread::yield_now();
    }
}

/// In a role: says where the areas are.
pub(crate) fn show(pid: u32, areas: &[Memory]) {
    let words: Vec<String> = areas
        .iter()
        .map(|area| format!("{:#x} {}", area.address, area.pages))
        .collect();
    say(&format!("{pid} {}", words.join(" ")));
}

/// In a role: the next word from the test is this one.
pub(crate) fn wait_for(word: &str) {
    assert_eq!(hear().as_deref(), Some(word));
}

/// A target that has been captured, and spoilt since.
pub(crate) struct Captured {
    pub(crate) target: Target,
    pub(crate) pid: i32,
    /// Address and pages of each area.
    pub(crate) areas: Vec<(u64, u64)>,
    pub(crate) folder: tempfile::TempDir,
}

impl Captured {
    /// Starts a role that is rolled back, and captures it with one page in a frame, so that every page is a fault.
    pub(crate) fn new(role: &str, words: &str) -> Self {
        Self::with(role, words, &["--frame-pages", "1", "--codec", "lz4"])
    }

    /// The same, with these words for `uffd-snapshot create`.
    pub(crate) fn with(role: &str, words: &str, how: &[&str]) -> Self {
        let mut this = Self::only_started(role, words);
        this.capture(how);
        this.target.tell("spoil");
        assert_eq!(this.target.hear(), "spoilt");
        this
    }

    pub(crate) fn only_started(role: &str, words: &str) -> Self {
        let mut target = Target::start(role, words);
        let numbers = target.hear_numbers();
        let areas = numbers[1..].chunks(2).map(|pair| (pair[0], pair[1]));
        Self {
            pid: i32::try_from(numbers[0]).expect("a pid"),
            areas: areas.collect(),
            target,
            folder: tempfile::tempdir().expect("a folder"),
        }
    }

    pub(crate) fn capture(&self, how: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"));
        command
            .args(["create", "--quiet", "--pid", &self.pid.to_string(), "-o"])
            .arg(self.snapshot())
            .args(how);
        for (address, pages) in &self.areas {
            command.args(["--region", &selector(*address, *pages)]);
        }
        let output = command.output().expect("uffd-snapshot runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "uffd-snapshot: {said}");
    }

    pub(crate) fn snapshot(&self) -> PathBuf {
        self.folder.path().join("snapshot")
    }

    /// Makes a working set of all pages, beside the snapshot, in an order that no target goes by.
    pub(crate) fn make_set(&self) {
        let file = File::open(self.snapshot()).expect("open");
        let snapshot = Arc::new(Snapshot::open(file).expect("a snapshot"));
        let pages = usize::try_from(snapshot.pages()).expect("few");
        let order = Dice::new(7).shuffled(pages);
        let touches = (0..)
            .zip(order)
            .map(|(time, page)| (PageNo(page as u64), time));
        let history = History::of_recording(touches);
        let beside = File::create(self.folder.path().join("snapshot.ws")).expect("create");
        let options = working_set::Options::default();
        working_set::write(&history, &mut Cursor::new(snapshot), beside, &options).expect("a set");
    }

    /// Rolls all areas back. Returns when the target is being served; it finds that out by itself.
    pub(crate) fn restore(self, words: &[&str]) -> Scene {
        let choices: Vec<String> = self
            .areas
            .iter()
            .flat_map(|(address, _)| ["--region".to_owned(), format!("{address:#x}")])
            .collect();
        let mut all: Vec<&str> = choices.iter().map(String::as_str).collect();
        all.extend(words);
        self.restore_with(&all)
    }

    /// Rolls back what the words say.
    pub(crate) fn restore_with(self, words: &[&str]) -> Scene {
        if words.contains(&"working-set") {
            self.make_set();
        }
        let began = Instant::now();
        let mut restorer = Restorer::start(&self, &[words, &["--json"]].concat());
        let serving = restorer.json();
        let time_to_serve = began.elapsed();
        assert_eq!(serving["event"], "serving");
        assert_eq!(serving["pid"], self.pid);
        Scene {
            target: self.target,
            pid: self.pid,
            restorer,
            serving,
            time_to_serve,
            folder: self.folder,
        }
    }
}

/// A target that is being served.
pub(crate) struct Scene {
    pub(crate) target: Target,
    pub(crate) pid: i32,
    pub(crate) restorer: Restorer,
    /// What was said when serving began.
    pub(crate) serving: Value,
    pub(crate) time_to_serve: Duration,
    /// The snapshot is in it: it goes when this does.
    pub(crate) folder: tempfile::TempDir,
}

impl Scene {
    /// The target says that all it saw was right, and everything is in place.
    pub(crate) fn finish(mut self) -> Done {
        assert_eq!(self.target.hear(), "right");
        let done = self.restorer.finish();
        assert_eq!(done.outcome(), "complete", "{done:?}");
        self.target.finish();
        done
    }
}

/// The daemon. Killed when dropped.
pub(crate) struct Restorer {
    child: Child,
    lines: Receiver<String>,
    errors: PathBuf,
}

impl Restorer {
    /// Starts it with these words beside the snapshot and the process.
    pub(crate) fn start(captured: &Captured, words: &[&str]) -> Self {
        Self::start_prepared(captured, words, |_| {})
    }

    /// The same, with something done to the command before.
    pub(crate) fn start_prepared(
        captured: &Captured,
        words: &[&str],
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let errors = captured.folder.path().join("errors");
        let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-restore"));
        command
            // Each page is to be asked for.
            .args(["--read-ahead", "0"])
            .arg("--snapshot")
            .arg(captured.snapshot())
            .args(["--pid", &captured.pid.to_string()])
            .args(words.iter().map(OsStr::new));
        prepare(&mut command);
        Self::spawn(command, errors)
    }

    /// The same, told everything.
    pub(crate) fn spawn(mut command: Command, errors: PathBuf) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("a file"));
        let mut child = command.spawn().expect("uffd-restore runs");
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
        Self {
            child,
            lines,
            errors,
        }
    }

    /// The next line on standard output.
    pub(crate) fn line(&mut self) -> String {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(error) => panic!("uffd-restore: {error}: {}", self.errors()),
        }
    }

    /// The next line, or `None` if it ends without one.
    pub(crate) fn next_json(&mut self) -> Option<Value> {
        let line = self.lines.recv_timeout(PATIENCE).ok()?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    pub(crate) fn json(&mut self) -> Value {
        serde_json::from_str(&self.line()).expect("JSON")
    }

    /// What it has said to people.
    pub(crate) fn errors(&self) -> String {
        fs::read_to_string(&self.errors).expect("the file")
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    pub(crate) fn signal(&self, signal: nix::sys::signal::Signal) {
        signal_daemon(self.pid(), signal);
    }

    /// Waits for its end, which must be a good one, and for what it says then.
    pub(crate) fn finish(&mut self) -> Done {
        let mut said = self.json();
        if said["event"] == "recorded" {
            said = self.json();
        }
        let done = Done(said);
        assert_eq!(done.0["event"], "done");
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.errors());
        done
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status;
            }
            assert!(Instant::now() < deadline, "uffd-restore does not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Restorer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("uffd-restore has said: {}", self.errors());
        }
        signal_daemon(self.pid(), nix::sys::signal::Signal::SIGKILL);
        drop(self.child.wait());
    }
}

/// How it went, as the daemon tells it.
#[derive(Debug)]
pub(crate) struct Done(Value);

impl Done {
    pub(crate) fn outcome(&self) -> &str {
        self.0["outcome"].as_str().expect("a word")
    }

    pub(crate) fn pages(&self, kind: &str) -> u64 {
        self.0["pages"][kind].as_u64().expect("a number")
    }

    pub(crate) fn events(&self, kind: &str) -> u64 {
        self.0["events"][kind].as_u64().expect("a number")
    }

    pub(crate) fn faults(&self) -> u64 {
        self.0["faults"].as_u64().expect("a number")
    }

    /// Pages with content that were installed.
    pub(crate) fn installed(&self) -> u64 {
        ["demand", "neighbours", "prefill", "replayed"]
            .iter()
            .map(|kind| self.pages(kind))
            .sum()
    }

    /// Pages that are accounted for; zero pages may count more than once.
    pub(crate) fn all_pages(&self) -> u64 {
        [
            "demand",
            "neighbours",
            "prefill",
            "replayed",
            "zero",
            "removed",
        ]
        .iter()
        .map(|kind| self.pages(kind))
        .sum()
    }
}
