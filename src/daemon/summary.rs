//! What is said when serving begins, and how it went.

use std::path::Path;
use std::thread;
use std::time::Duration;

use bytesize::ByteSize;
use serde::Serialize;
use snapshot_format::PAGE_BYTES;

use crate::handover::Attached;
use crate::serve::{Outcome, Report, Target};
use crate::terminal::{printable, say, takes_output};
use crate::tool;

/// What is said when the target is being served.
pub(super) struct Serving {
    pid: i32,
    name: String,
    target: String,
    snapshot: String,
    owed: u64,
    eager: u64,
    lazy: usize,
}

impl Serving {
    pub(super) fn new(attached: &Attached, snapshot: &Path) -> Self {
        let handover = &attached.handover;
        Self {
            pid: handover.target.pid,
            name: handover.target.name.clone(),
            target: handover.target.describe(),
            snapshot: printable(&snapshot.display().to_string()),
            owed: handover.space.owes(),
            eager: attached.eager_bytes,
            lazy: attached.lazy,
        }
    }

    /// The same for the service manager, in short.
    pub(super) fn status(&self) -> String {
        format!("serving {}, {} owed", self.target, size(self.owed))
    }

    /// The line on standard output.
    pub(super) fn line(&self, stood_still: Duration, json: bool) -> String {
        if json {
            return as_json(&ServingJson {
                event: "serving",
                pid: self.pid,
                name: &self.name,
                owed_bytes: self.owed,
                eager_bytes: self.eager,
                stood_still_seconds: stood_still.as_secs_f64(),
            });
        }
        format!(
            "serving {} from {}: {} in {} lazily, {} restored at once; it stood still for {}",
            self.target,
            self.snapshot,
            size(self.owed),
            tool::counted(self.lazy as u64, "mapping"),
            size(self.eager),
            time(stood_still),
        )
    }
}

/// The line on standard output of who goes on with what an earlier run has left.
pub(super) fn goes_on(target: &Target, owed: u64, json: bool) -> String {
    if json {
        return as_json(&GoesOnJson {
            event: "goes_on",
            pid: target.pid,
            name: &target.name,
            owed_bytes: owed,
        });
    }
    format!("goes on serving {}: {} owed", target.describe(), size(owed))
}

/// The line at the end: for people on standard error, for programs on standard output, with the number of frames that were decoded into a
/// cache, if there was one. Returns whether all is well, which is about what was restored, whether or not that can be said.
pub(super) fn done(
    target: &str,
    report: &Report,
    frames_decoded: Option<u64>,
    (quiet, json): (bool, bool),
) -> bool {
    if json {
        let line = as_json(&DoneJson {
            frames_decoded,
            ..DoneJson::from(report)
        });
        if let Err(failure) = tool::print(&line) {
            say(&format!("uffd-restore: {failure}"));
        }
    } else if let Some(text) = done_text(target, report, quiet) {
        say(&text);
    }
    match report.outcome {
        Outcome::Complete | Outcome::TargetEnded => true,
        Outcome::Failed => false,
    }
}

/// What became of a target, in a few words.
pub(super) fn how(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "all memory is in place",
        Outcome::TargetEnded => "it ended",
        Outcome::Failed => "not all of its memory could be restored",
    }
}

/// The same, for people; nothing if they want to hear of failures only.
pub(super) fn done_text(target: &str, report: &Report, quiet: bool) -> Option<String> {
    if quiet && report.outcome != Outcome::Failed {
        return None;
    }
    let counts = &report.counts;
    let how = how(report.outcome);
    let mut parts = vec![format!(
        "{} pages by demand, {} with them, {} by prefill, {} zero, {} removed",
        counts.demand, counts.neighbours, counts.prefill, counts.zero, counts.removed
    )];
    if counts.replayed > 0 {
        let how_long = report.replayed_in.map(|took| format!(" in {}", time(took)));
        parts.push(format!(
            "{} as last time{}",
            tool::counted(counts.replayed, "page"),
            how_long.unwrap_or_default()
        ));
    }
    if counts.poisoned > 0 {
        parts.push(format!(
            "{} poisoned",
            tool::counted(counts.poisoned, "page")
        ));
    }
    if counts.untracked > 0 {
        parts.push(format!(
            "{} of memory that was not registered any more",
            tool::counted(counts.untracked, "page")
        ));
    }
    if counts.forks > 0 {
        parts.push(tool::counted(counts.forks, "fork"));
    }
    if let (Some(median), Some(most)) =
        (report.latency.quantile(0.5), report.latency.quantile(0.99))
    {
        parts.push(format!(
            "{}, p50 {}, p99 {}",
            tool::counted(report.latency.count(), "fault"),
            time(median),
            time(most)
        ));
    }
    parts.push(time(report.time));
    let mut text = format!("uffd-restore: {target}: {how}: {}", parts.join("; "));
    if report.outcome == Outcome::Failed {
        text += &format!(
            "\nuffd-restore: {target}: what to do: end it if it still runs (poisoned pages are SIGBUS for who touches them), \
             and restore again, from another copy of the snapshot if `uffd-snapshot verify` finds bad pages"
        );
    }
    Some(text)
}

/// The line on standard output that says where VMMs can connect.
pub(super) fn listening(socket: &str, snapshot: &str, bytes: u64, json: bool) -> String {
    if json {
        return as_json(&ListeningJson {
            event: "listening",
            socket,
            snapshot,
            memory_bytes: bytes,
        });
    }
    format!("listening on {socket}: {} from {snapshot}", size(bytes))
}

#[derive(Serialize)]
struct ListeningJson<'a> {
    event: &'static str,
    socket: &'a str,
    snapshot: &'a str,
    memory_bytes: u64,
}

#[derive(Serialize)]
struct ServingJson<'a> {
    event: &'static str,
    pid: i32,
    name: &'a str,
    owed_bytes: u64,
    eager_bytes: u64,
    stood_still_seconds: f64,
}

#[derive(Serialize)]
struct GoesOnJson<'a> {
    event: &'static str,
    pid: i32,
    name: &'a str,
    owed_bytes: u64,
}

#[derive(Serialize)]
pub(super) struct DoneJson {
    event: &'static str,
    outcome: &'static str,
    pages: Pages,
    events: Events,
    faults: u64,
    fault_p50_us: Option<f64>,
    fault_p99_us: Option<f64>,
    replay_seconds: Option<f64>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    frames_decoded: Option<u64>,
}

#[derive(Serialize)]
struct Pages {
    demand: u64,
    neighbours: u64,
    prefill: u64,
    replayed: u64,
    zero: u64,
    removed: u64,
    present: u64,
    untracked: u64,
    poisoned: u64,
}

#[derive(Serialize)]
struct Events {
    fork: u64,
    remap: u64,
    remove: u64,
    unmap: u64,
    refused: u64,
}

impl From<&Report> for DoneJson {
    fn from(report: &Report) -> Self {
        let counts = &report.counts;
        let quantile = |part| {
            report
                .latency
                .quantile(part)
                .map(|time| time.as_secs_f64() * 1e6)
        };
        Self {
            event: "done",
            outcome: match report.outcome {
                Outcome::Complete => "complete",
                Outcome::TargetEnded => "target-ended",
                Outcome::Failed => "failed",
            },
            pages: Pages {
                demand: counts.demand,
                neighbours: counts.neighbours,
                prefill: counts.prefill,
                replayed: counts.replayed,
                zero: counts.zero,
                removed: counts.removed,
                present: counts.present,
                untracked: counts.untracked,
                poisoned: counts.poisoned,
            },
            events: Events {
                fork: counts.forks,
                remap: counts.remaps,
                remove: counts.removes,
                unmap: counts.unmaps,
                refused: counts.refused,
            },
            faults: counts.faults,
            fault_p50_us: quantile(0.5),
            fault_p99_us: quantile(0.99),
            replay_seconds: report.replayed_in.map(|took| took.as_secs_f64()),
            seconds: report.time.as_secs_f64(),
            frames_decoded: None,
        }
    }
}

/// Prints a line on standard output. Who reads it may be slow, or gone; the target is served nevertheless.
pub(super) fn announce(line: String) {
    announce_then(line, || {});
}

/// The same, and does something when it has been said.
pub(super) fn announce_then(line: String, then: impl FnOnce() + Send + 'static) {
    let print = move || {
        // Nobody is left to be told that nobody reads.
        let _ = tool::print(&line);
        then();
    };
    if takes_output(std::io::stdout()) {
        return print();
    }
    // Without another thread it is not said at all: the ready descriptor says the same.
    let _ = thread::Builder::new().name("announce".into()).spawn(print);
}

/// One line: a reader that reads lines gets each as it happens.
pub(super) fn as_json(value: &impl Serialize) -> String {
    // Structures of numbers and strings always can be written.
    serde_json::to_string(value).unwrap_or_default()
}

pub(super) fn size(bytes: u64) -> String {
    debug_assert!(bytes.is_multiple_of(PAGE_BYTES));
    ByteSize(bytes).display().iec().to_string()
}

/// "12.3 µs", "45.6 ms", "1.23 s".
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        ..0.001 => format!("{:.1} µs", seconds * 1e6),
        ..1.0 => format!("{:.1} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}
