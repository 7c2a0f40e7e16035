//! Progress of long work, on a terminal only.
//!
//! The bar is drawn by a thread of its own. Who works only counts: a terminal that does not take our output, because it is
//! the captured process that reads it, must not hold up the work that would let that process go on.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::service::born_with;

/// How often the bar is drawn.
const INTERVAL: Duration = Duration::from_millis(100);

/// Stands for a total that is not known.
const UNKNOWN: u64 = u64::MAX;

/// A bar with rate and time left on standard error, if that is a terminal; otherwise nothing.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    counts: Arc<Counts>,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

#[derive(Debug)]
struct Counts {
    done: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Work on `total` bytes, if that is known.
    #[must_use]
    pub fn new(what: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let target = if quiet {
            ProgressDrawTarget::hidden()
        } else {
            // Hidden by itself when standard error is not a terminal.
            ProgressDrawTarget::stderr()
        };
        let bar = ProgressBar::with_draw_target(total, target);
        bar.set_message(what);
        let counts = Arc::new(Counts {
            done: AtomicU64::new(0),
            total: AtomicU64::new(total.unwrap_or(UNKNOWN)),
        });
        let drawing = if bar.is_hidden() {
            None
        } else {
            start(bar.clone(), Arc::clone(&counts))
        };
        Self {
            bar,
            counts,
            drawing,
        }
    }

    /// The total has become known. Does not wait for the terminal.
    pub fn set_total(&self, bytes: u64) {
        self.counts.total.store(bytes, Ordering::Relaxed);
    }

    /// So many more bytes are done. Does not wait for the terminal.
    pub fn add(&self, bytes: u64) {
        self.counts.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Print a line of data or of a message without tearing the bar.
    pub fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.drawing.take() {
            drop(end);
            // It cannot have panicked in a way that matters to anybody.
            let _ = thread.join();
        }
    }
}

/// Draw until the sender is dropped, then remove the bar. Without a thread there is no bar.
fn start(bar: ProgressBar, counts: Arc<Counts>) -> Option<(Sender<()>, JoinHandle<()>)> {
    let (end, ended) = channel();
    let draw = move || {
        let mut styled_for = None;
        loop {
            let total = counts.total.load(Ordering::Relaxed);
            if styled_for.replace(total) != Some(total) {
                style(&bar, total);
            }
            bar.set_position(counts.done.load(Ordering::Relaxed));
            if ended.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        }
        bar.finish_and_clear();
    };
    let thread = std::thread::Builder::new().name("progress".into());
    // Whoever draws needs no rights.
    let thread = born_with(&[], || thread.spawn(draw)).and_then(|thread| thread);
    thread.ok().map(|thread| (end, thread))
}

fn style(bar: &ProgressBar, total: u64) {
    let template = if total == UNKNOWN {
        "{msg} {spinner} {bytes}  {bytes_per_sec}"
    } else {
        "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left"
    };
    // The style first: the length is drawn at once.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    if total != UNKNOWN {
        bar.set_length(total);
    }
}
