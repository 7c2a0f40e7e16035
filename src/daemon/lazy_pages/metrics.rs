//! Numbers for a monitoring system: a file in the text format of Prometheus, as its textfile collector reads it.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::unistd::Pid;

use crate::failure::Failure;
use crate::serve::{Observer, Outcome, Report, ServeError};
use crate::session::{Counts, Latency};
use crate::terminal::mention;

/// How often the file is written.
const EVERY: Duration = Duration::from_secs(1);

/// What was told last.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    counts: Counts,
    owed: u64,
    quantiles: [Option<Duration>; 2],
}

/// A file that is kept up to date.
#[derive(Debug)]
pub(super) struct Metrics {
    file: Output,
    /// `None` before anything was told: what those before have written stays.
    told: Arc<Mutex<Option<Told>>>,
}

#[derive(Debug, Clone)]
struct Output {
    path: PathBuf,
    /// Where it is written before it is put in its place.
    beside: PathBuf,
}

const QUANTILES: [f64; 2] = [0.5, 0.99];

impl Metrics {
    /// Begins with a file in which nothing has happened. The keeper is there as long as anybody writes it.
    pub(super) fn start(path: PathBuf, keeper: Pid) -> Result<Self, Failure> {
        let file = Output::new(path, keeper);
        let told = Told::default();
        file.write(&text(&told, None))
            .map_err(Failure::io("write", &file.path))?;
        Self::keep(file, Some(told))
    }

    /// Goes on with the file of a process that is dead.
    pub(super) fn go_on(path: PathBuf, keeper: Pid) -> Result<Self, Failure> {
        Self::keep(Output::new(path, keeper), None)
    }

    fn keep(file: Output, told: Option<Told>) -> Result<Self, Failure> {
        let metrics = Self {
            file,
            told: Arc::new(Mutex::new(told)),
        };
        let (file, told) = (metrics.file.clone(), Arc::downgrade(&metrics.told));
        let thread = thread::Builder::new().name("metrics".into());
        let keep = move || {
            let mut failed = false;
            loop {
                thread::sleep(EVERY);
                let Some(told) = told.upgrade() else { return };
                // Held while it is written: what is written at the end comes after this.
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(told) = &*told else { continue };
                if let Err(error) = file.write(&text(told, None))
                    && !std::mem::replace(&mut failed, true)
                {
                    file.complain(&error);
                }
            }
        };
        thread.spawn(keep).map(drop).map_err(ServeError::Thread)?;
        Ok(metrics)
    }

    /// Tells this how it goes.
    pub(super) fn observer(&self) -> Observer {
        let told = Arc::downgrade(&self.told);
        Observer(Box::new(move |so_far| {
            let Some(told) = told.upgrade() else { return };
            // Not waited for: the file may be on a slow disk.
            if let Ok(mut told) = told.try_lock() {
                *told = Some(Told::new(so_far.counts, so_far.latency, so_far.owed));
            };
        }))
    }

    /// How it ended.
    pub(super) fn finish(self, report: &Report) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let told = told.insert(Told::new(&report.counts, &report.latency, 0));
        if let Err(error) = self.file.write(&text(told, Some(report))) {
            self.file.complain(&error);
        }
    }
}

impl Told {
    fn new(counts: &Counts, latency: &Latency, owed: u64) -> Self {
        Self {
            counts: *counts,
            owed,
            quantiles: QUANTILES.map(|part| latency.quantile(part)),
        }
    }
}

impl Output {
    /// Whoever takes over writes to the same name: what one that was killed has left there is not left for ever.
    fn new(path: PathBuf, keeper: Pid) -> Self {
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{keeper}"));
        let beside = beside.into();
        Self { path, beside }
    }

    /// Whole or not at all.
    fn write(&self, text: &str) -> io::Result<()> {
        fs::write(&self.beside, text)?;
        fs::rename(&self.beside, &self.path).inspect_err(|_| {
            let _ = fs::remove_file(&self.beside);
        })
    }

    fn complain(&self, error: &io::Error) {
        mention(&format!(
            "uffd-restore: cannot write {:?}: {error}",
            self.path
        ));
    }
}

fn text(told: &Told, report: Option<&Report>) -> String {
    let counts = &told.counts;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, values: &[(&str, String)]| {
        // Writing to text cannot fail.
        let _ = writeln!(text, "# HELP uffd_restore_{name} {help}");
        let _ = writeln!(text, "# TYPE uffd_restore_{name} {kind}");
        for (labels, value) in values {
            let _ = writeln!(text, "uffd_restore_{name}{labels} {value}");
        }
    };
    let pages = [
        ("demand", counts.demand),
        ("neighbours", counts.neighbours),
        ("prefill", counts.prefill),
        ("replayed", counts.replayed),
        ("zero", counts.zero),
        ("removed", counts.removed),
        ("poisoned", counts.poisoned),
    ];
    let pages = pages.map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count.to_string()));
    let pages: Vec<_> = pages
        .iter()
        .map(|(labels, value)| (labels.as_str(), value.clone()))
        .collect();
    family(
        "pages_total",
        "counter",
        "Pages of 4096 bytes that are settled, by how.",
        &pages,
    );
    let events = [
        ("{kind=\"fork\"}", counts.forks.to_string()),
        ("{kind=\"remap\"}", counts.remaps.to_string()),
        ("{kind=\"remove\"}", counts.removes.to_string()),
        ("{kind=\"unmap\"}", counts.unmaps.to_string()),
    ];
    family(
        "events_total",
        "counter",
        "Events of address spaces.",
        &events,
    );
    let faults = [("", counts.faults.to_string())];
    family("faults_total", "counter", "Page faults.", &faults);
    let owed = [("", told.owed.to_string())];
    family(
        "owed_bytes",
        "gauge",
        "Bytes that are yet to be restored.",
        &owed,
    );
    let seconds: Vec<_> = ["{quantile=\"0.5\"}", "{quantile=\"0.99\"}"]
        .into_iter()
        .zip(told.quantiles)
        .filter_map(|(label, time)| Some((label, time?.as_secs_f64().to_string())))
        .collect();
    let what = "From a fault's message to the installed page.";
    family("fault_seconds", "summary", what, &seconds);
    if let Some(report) = report {
        let outcome = match report.outcome {
            Outcome::Complete => "complete",
            Outcome::TargetEnded => "target-ended",
            Outcome::Failed => "failed",
        };
        let label = format!("{{outcome=\"{outcome}\"}}");
        let value = [(label.as_str(), report.time.as_secs_f64().to_string())];
        family(
            "done_seconds",
            "gauge",
            "How long it took, once it is over.",
            &value,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_comment_or_a_name_and_a_number() {
        let mut latency = Latency::default();
        latency.add(Duration::from_micros(12));
        let told = Told::new(&Counts::default(), &latency, 4096);
        let text = text(&told, None);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, number) = line.rsplit_once(' ').expect("two words");
            assert!(name.starts_with("uffd_restore_"), "{line}");
            assert!(number.parse::<f64>().is_ok(), "{line}");
        }
        assert!(text.contains("uffd_restore_owed_bytes 4096\n"));
        assert!(text.contains("uffd_restore_pages_total{kind=\"prefill\"} 0\n"));
    }
}
