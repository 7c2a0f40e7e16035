//! `uffd-snapshot create`: memory of a process in, snapshot out.

use super::counted;
use super::sink::SnapshotSink;
use super::writing::{Output, ReadAhead};
use crate::capture::{self, Progress as Step, Report, TargetIdentity};
use crate::cli::snapshot::Create;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::terminal::{printable, say};
use crate::tracee::ThreadStat;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;
use snapshot_format::{Compression, PAGE_BYTES, Source};
use std::time::Duration;

pub(super) fn run(args: Create) -> Result<(), Failure> {
    let (memory, buffer) = (memory_of(args.pid), args.buffer.as_u64());
    let read_ahead = if memory <= buffer {
        ReadAhead::Everything(memory)
    } else {
        ReadAhead::Steady(buffer)
    };
    let default = Compression::default();
    let mut output = Output::create(&args.output, &args.writing, default, read_ahead)?;
    let options = capture::Options {
        selectors: args.regions,
        private_files: args.private_files,
        leave_stopped: args.leave_stopped,
        stop_timeout: args.stop_timeout,
    };
    let was_stopped = is_stopped(args.pid);
    let quiet = args.writing.quiet || args.writing.json;
    let progress = Progress::new("capturing", None, quiet);
    let mut sink = SnapshotSink {
        writer: &mut output.writer,
        failed: None,
    };
    let captured = capture::run(args.pid, &options, &mut sink, &mut |step| match step {
        Step::Planned { pages, .. } => progress.set_total(pages.saturating_mul(PAGE_BYTES)),
        Step::Pages(pages) => progress.add(pages.saturating_mul(PAGE_BYTES)),
        Step::Released => {}
    });
    drop(progress);
    let report = match (captured, sink.failed) {
        (Ok(report), _) => report,
        // Capture only knows that the sink failed; this says how.
        (Err(_), Some(error)) => return Err(output.failure()(error)),
        (Err(error), None) => return Err(Failure::Capture(error)),
    };
    let published = output.publish(source(&report.target, report.stood_still));
    if published.is_err() && options.leave_stopped && !was_stopped {
        // It was to stay stopped beside its snapshot, and there is none: as it was found, then.
        let _ = kill(Pid::from_raw(report.target.pid), Signal::SIGCONT);
    }
    let written = published?;
    if !quiet {
        warn_of_lost(&report);
    }
    let state = if options.leave_stopped {
        "; it is left stopped, `kill -CONT` lets it go on"
    } else {
        ""
    };
    let people = format!(
        "; process {} ({}, {}) stood still for {}{state}",
        report.target.pid,
        printable(&report.target.name),
        counted(report.threads as u64, "thread"),
        milliseconds(report.stood_still),
    );
    written.report(&args.writing, &people, More::from(&report))
}

/// Bytes of memory that the process has now, about: the buffer need not be larger. None, if there is no such process.
fn memory_of(pid: i32) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"));
    let resident = |statm: String| statm.split(' ').nth(1)?.parse::<u64>().ok();
    statm
        .ok()
        .and_then(resident)
        .map_or(0, |pages| pages.saturating_mul(PAGE_BYTES))
}

/// Whether a signal has stopped the process.
fn is_stopped(pid: i32) -> bool {
    ThreadStat::read(pid).is_ok_and(|stat| stat.state == 'T')
}

/// What JSON says beyond [`super::writing::WrittenJson`].
#[derive(Serialize)]
struct More {
    pid: i32,
    name: String,
    threads: usize,
    regions: usize,
    stood_still_seconds: f64,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Lost {
    region: String,
    address: u64,
    pages: u64,
}

impl From<&Report> for More {
    fn from(report: &Report) -> Self {
        let name = |region: usize| report.regions.get(region).map(|region| region.name.clone());
        let lost = |run: &capture::LostPages| Lost {
            region: name(run.region).unwrap_or_default(),
            address: run.address,
            pages: run.pages,
        };
        Self {
            pid: report.target.pid,
            name: report.target.name.clone(),
            threads: report.threads,
            regions: report.regions.len(),
            stood_still_seconds: report.stood_still.as_secs_f64(),
            lost: report.lost.iter().map(lost).collect(),
        }
    }
}

fn warn_of_lost(report: &Report) {
    if report.pages.lost == 0 {
        return;
    }
    say(&format!(
        "uffd-snapshot: warning: {} could not be read (poisoned, or a memory error), and will never be served as zero:",
        counted(report.pages.lost, "page")
    ));
    for run in &report.lost {
        let end = run
            .address
            .saturating_add(run.pages.saturating_mul(PAGE_BYTES));
        say(&format!("  {:#x}-{end:#x}", run.address));
    }
}

/// Longest command line that is recorded, in bytes of JSON; the metadata has a limit.
const MAX_COMMAND_LINE: usize = 1 << 18;

fn source(target: &TargetIdentity, stood_still: Duration) -> Source {
    // Programs that rewrite their command line leave a tail of empty arguments.
    let used = target
        .command_line
        .iter()
        .rposition(|argument| !argument.is_empty());
    let used = &target.command_line[..used.map_or(0, |last| last + 1)];
    let mut left = MAX_COMMAND_LINE;
    let fits = |argument: &&String| {
        // The separator counts, and so does the longest form of a character in JSON.
        left = left.saturating_sub(6 * argument.len() + 3);
        left > 0
    };
    Source::Process {
        pid: u64::try_from(target.pid).unwrap_or_default(),
        start_time: target.start_ticks,
        boot_id: target.boot_id.clone(),
        uid: target.uid,
        name: target.name.clone(),
        exe: target
            .exe
            .as_ref()
            .map(|exe| exe.to_string_lossy().into_owned())
            .unwrap_or_default(),
        command_line: used.iter().take_while(fits).cloned().collect(),
        stopped_us: u64::try_from(stood_still.as_micros()).unwrap_or(u64::MAX),
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
