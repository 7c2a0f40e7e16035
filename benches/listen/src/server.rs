//! What serves the peers, from outside: the daemon, or a handler to compare it with.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Setup;

/// A process that listens.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
    pub(crate) socket: PathBuf,
}

/// What the daemon is told beside the snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) prefill: bool,
    /// MiB
    pub(crate) cache: u32,
}

/// What is known when a server has ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Seconds.
    pub(crate) cpu: f64,
    pub(crate) decodes: Option<f64>,
    pub(crate) hits: Option<f64>,
}

/// MiB, of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Resident {
    /// The most there ever was, program and libraries included.
    pub(crate) peak: f64,
    /// Its own memory: anonymous and shared, without files.
    pub(crate) own: f64,
}

impl Server {
    /// A handler of this program's own; `at_once` pages for each fault, 0 for all.
    pub(crate) fn handler(setup: &Setup, file: &Path, at_once: usize) -> Option<Self> {
        let socket = setup.work.join("handler.sock");
        let me = std::env::current_exe().expect("this program");
        let mut command = Command::new(me);
        command.arg("handler").args([&socket, file]);
        command.arg(at_once.to_string());
        Self::start(command, socket)
    }

    /// `uffd-restore`. None when it ends before it listens.
    pub(crate) fn daemon(setup: &Setup, snapshot: &Path, options: Options) -> Option<Self> {
        let socket = setup.work.join("daemon.sock");
        let mut command = Command::new(&setup.program);
        command.arg("--snapshot").arg(snapshot);
        command
            .arg("--listen")
            .arg(&socket)
            .args(["--json", "--quiet"]);
        command.args(["--cache-size", &format!("{}MiB", options.cache)]);
        command.args(["--prefill", if options.prefill { "all" } else { "none" }]);
        Self::start(command, socket)
    }

    fn start(mut command: Command, socket: PathBuf) -> Option<Self> {
        if let Err(error) = fs::remove_file(&socket) {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
        }
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a server");
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            if output.read_line(&mut line).expect("a server's word") == 0 {
                child.wait().expect("its end");
                return None;
            }
        }
        Some(Self {
            child,
            output,
            socket,
        })
    }

    pub(crate) fn resident(&self) -> Resident {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(path).expect("a server that lives");
        let mib = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|line| line.split_whitespace().next());
            kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
        };
        Resident {
            peak: mib("VmHWM:"),
            own: mib("RssAnon:") + mib("RssShmem:"),
        }
    }

    /// Asks it to end, when no peer is left.
    pub(crate) fn end(mut self) -> Ended {
        let before = children();
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).expect("a server that lives");
        let mut said = String::new();
        self.output.read_to_string(&mut said).expect("its output");
        self.child.wait().expect("its end");
        let end = said.lines().find(|line| line.contains(r#""event":"end""#));
        Ended {
            cpu: children() - before,
            decodes: end.and_then(|line| number(line, "decodes")),
            hits: end.and_then(|line| number(line, "cache_hits")),
        }
    }
}

/// Seconds of CPU time of the children that have ended.
fn children() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
    [usage.user_time(), usage.system_time()]
        .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
        .iter()
        .sum()
}

/// The number behind a name in a line of JSON.
pub(crate) fn number(line: &str, name: &str) -> Option<f64> {
    let (_, rest) = line.split_once(&format!("\"{name}\":"))?;
    rest.split([',', '}']).next()?.trim().parse().ok()
}
