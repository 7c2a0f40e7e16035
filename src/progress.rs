//! Progress of long work, on a terminal only.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar with rate and time left on standard error, if that is a terminal; otherwise nothing.
#[derive(Debug)]
pub struct Progress(ProgressBar);

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
        let progress = Self(bar);
        progress.set_style(total.is_some());
        progress
    }

    fn set_style(&self, bounded: bool) {
        let template = if bounded {
            "{msg} {wide_bar} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left"
        } else {
            "{msg} {spinner} {bytes}  {bytes_per_sec}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style);
        }
    }

    /// The total has become known.
    pub fn set_total(&self, bytes: u64) {
        self.0.set_length(bytes);
        self.set_style(true);
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    /// Print a line of data or of a message without tearing the bar.
    pub fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        self.0.suspend(print)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
