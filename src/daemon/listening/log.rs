//! What is said about VMMs that come and go: lines for people, or JSON.

use serde::Serialize;

use crate::serve::{Report, Target};
use crate::source::CacheCounts;
use crate::terminal::say;
use crate::tool;

use super::super::summary;

/// How to say it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    pub(super) json: bool,
    pub(super) quiet: bool,
}

impl Log {
    /// A VMM is being served.
    pub(super) fn serving(self, who: &Who, owed: u64, regions: usize) {
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
            say(&format!(
                "uffd-restore: {}: serving {} in {}",
                who.text,
                summary::size(owed),
                tool::counted(regions as u64, "region"),
            ));
        }
    }

    /// It is over.
    pub(super) fn done(self, who: &Who, report: &Report) {
        if self.json {
            self.print(&Done {
                session: who.session,
                pid: who.pid,
                rest: summary::DoneJson::from(report),
            });
        } else {
            let _ = summary::done(&who.text, report, self.quiet, false);
        }
    }

    /// One is not served.
    pub(super) fn refused(self, pid: Option<i32>, why: &str) {
        if self.json {
            self.print(&Refused {
                event: "refused",
                pid,
                why,
            });
        } else {
            let who = pid.map_or_else(|| "a peer".to_owned(), |pid| format!("process {pid}"));
            say(&format!("uffd-restore: {who} is not served: {why}"));
        }
    }

    /// All is over.
    pub(super) fn end(self, sessions: u64, cache: CacheCounts) {
        if self.json {
            self.print(&End {
                event: "end",
                sessions,
                decodes: cache.decodes,
                cache_hits: cache.hits,
            });
        } else if !self.quiet {
            say(&format!(
                "uffd-restore: {} served; {} decoded, {} more times taken from memory",
                tool::counted(sessions, "VMM"),
                tool::counted(cache.decodes, "frame"),
                cache.hits,
            ));
        }
    }

    fn print(self, value: &impl Serialize) {
        // Nobody is left to be told that nobody reads.
        let _ = tool::print(&summary::as_json(value));
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
