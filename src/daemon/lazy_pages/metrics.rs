//! Numbers for a monitoring system: a file in the text format of Prometheus, as its textfile collector reads it.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

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
    path: PathBuf,
    told: Arc<Mutex<Told>>,
}

const QUANTILES: [f64; 2] = [0.5, 0.99];

impl Metrics {
    /// Begins with a file in which nothing has happened.
    pub(super) fn start(path: &Path) -> Result<Self, Failure> {
        let metrics = Self {
            path: path.to_path_buf(),
            told: Arc::default(),
        };
        write(path, &text(&Told::default(), None)).map_err(Failure::io("write", path))?;
        let (path, told) = (metrics.path.clone(), Arc::downgrade(&metrics.told));
        let thread = thread::Builder::new().name("metrics".into());
        let keep = move || {
            let mut failed = false;
            loop {
                thread::sleep(EVERY);
                let Some(told) = told.upgrade() else { return };
                // Held while it is written: what is written at the end comes after this.
                let told = told.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = write(&path, &text(&told, None))
                    && !std::mem::replace(&mut failed, true)
                {
                    mention(&format!("uffd-restore: cannot write {path:?}: {error}"));
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
                *told = Told::new(so_far.counts, so_far.latency, so_far.owed);
            };
        }))
    }

    /// How it ended.
    pub(super) fn finish(self, report: &Report) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        *told = Told::new(&report.counts, &report.latency, 0);
        if let Err(error) = write(&self.path, &text(&told, Some(report))) {
            mention(&format!(
                "uffd-restore: cannot write {:?}: {error}",
                self.path
            ));
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

/// Whole or not at all.
fn write(path: &Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path).inspect_err(|_| {
        let _ = fs::remove_file(&beside);
    })
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
