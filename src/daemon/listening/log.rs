//! What is said about VMMs that come and go: lines for people, or JSON.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use serde::Serialize;

use crate::serve::{Report, Target};
use crate::source::CacheCounts;
use crate::terminal::say;
use crate::tool;

use super::super::summary;

/// Lines that may wait for who reads them. More are lost, and counted: nobody's memory waits for that.
const LINES: usize = 10_000;
/// How long the last lines may take in the end.
const LAST_LINES: Duration = Duration::from_secs(2);

/// How to say it. What is said is written by a thread of its own: who reads it may be slow, or have stopped.
#[derive(Debug, Clone)]
pub(super) struct Log {
    json: bool,
    quiet: bool,
    lines: Sender<Line>,
    lost: Arc<AtomicU64>,
    written: Receiver<()>,
}

#[derive(Debug)]
enum Line {
    /// For standard output.
    Data(String),
    /// For standard error.
    Text(String),
}

impl Log {
    /// Starts the thread.
    pub(super) fn start(json: bool, quiet: bool) -> io::Result<Self> {
        let (lines, to_write) = bounded::<Line>(LINES);
        let (done, written) = bounded(1);
        let lost = Arc::new(AtomicU64::new(0));
        let unsaid = Arc::clone(&lost);
        let writer = thread::Builder::new().name("log".into());
        let writer = writer.spawn(move || {
            for line in to_write {
                match unsaid.swap(0, Ordering::Relaxed) {
                    0 => {}
                    lost => say(&format!("({lost} lines before this one are lost)")),
                }
                match line {
                    // Nobody is left to be told that nobody reads.
                    Line::Data(line) => drop(tool::print(&line)),
                    Line::Text(line) => say(&line),
                }
            }
            let _ = done.send(());
        });
        drop(writer?);
        Ok(Self {
            json,
            quiet,
            lines,
            lost,
            written,
        })
    }

    /// Waits until all has been written, if that does not take for ever.
    pub(super) fn finish(self) {
        let Self { lines, written, .. } = self;
        drop(lines);
        let _ = written.recv_timeout(LAST_LINES);
    }

    /// True if people do not want to hear of what goes well.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// A line for people.
    pub(super) fn text(&self, text: &str) {
        self.put(Line::Text(format!("uffd-restore: {text}")));
    }

    fn put(&self, line: Line) {
        if self.lines.try_send(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// VMMs can connect.
    pub(super) fn listening(&self, socket: &str, snapshot: &str, bytes: u64) {
        self.put(Line::Data(summary::listening(
            socket, snapshot, bytes, self.json,
        )));
    }

    /// A VMM is being served.
    pub(super) fn serving(&self, who: &Who, owed: u64, regions: usize) {
        if self.json {
            self.print(&Serving {
                event: "serving",
                session: who.session,
                pid: who.pid,
                name: &who.name,
                owed_bytes: owed,
                regions,
            });
        } else if !self.quiet {
            self.text(&format!(
                "{}: serving {} in {}",
                who.text,
                summary::size(owed),
                tool::counted(regions as u64, "region"),
            ));
        }
    }

    /// It is over.
    pub(super) fn done(&self, who: &Who, report: &Report) {
        if self.json {
            self.print(&Done {
                session: who.session,
                pid: who.pid,
                rest: summary::DoneJson::from(report),
            });
        } else if let Some(text) = summary::done_text(&who.text, report, self.quiet) {
            self.put(Line::Text(text));
        }
    }

    /// One is not served.
    pub(super) fn refused(&self, pid: Option<i32>, why: &str) {
        if self.json {
            self.print(&Refused {
                event: "refused",
                pid,
                why,
            });
        } else {
            let who = pid.map_or_else(|| "a peer".to_owned(), |pid| format!("process {pid}"));
            self.text(&format!("{who} is not served: {why}"));
        }
    }

    /// All is over.
    pub(super) fn end(&self, sessions: u64, cache: CacheCounts) {
        if self.json {
            self.print(&End {
                event: "end",
                sessions,
                decodes: cache.decodes,
                cache_hits: cache.hits,
            });
        } else if !self.quiet {
            self.text(&format!(
                "{} served; {} decoded, {} more times taken from memory",
                tool::counted(sessions, "VMM"),
                tool::counted(cache.decodes, "frame"),
                cache.hits,
            ));
        }
    }

    fn print(&self, value: &impl Serialize) {
        self.put(Line::Data(summary::as_json(value)));
    }
}

/// A VMM.
#[derive(Debug)]
pub(super) struct Who {
    session: u64,
    pid: i32,
    name: String,
    text: String,
}

impl Who {
    pub(super) fn new(session: u64, target: &Target) -> Self {
        Self {
            session,
            pid: target.pid,
            name: target.name.clone(),
            text: format!("VMM {session}, {}", target.describe()),
        }
    }
}

#[derive(Serialize)]
struct Serving<'a> {
    event: &'static str,
    session: u64,
    pid: i32,
    name: &'a str,
    owed_bytes: u64,
    regions: usize,
}

#[derive(Serialize)]
struct Done {
    session: u64,
    pid: i32,
    #[serde(flatten)]
    rest: summary::DoneJson,
}

#[derive(Serialize)]
struct Refused<'a> {
    event: &'static str,
    pid: Option<i32>,
    why: &'a str,
}

#[derive(Serialize)]
struct End {
    event: &'static str,
    sessions: u64,
    decodes: u64,
    cache_hits: u64,
}
