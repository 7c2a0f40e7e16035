//! `uffd-snapshot working-set inspect`: what is in a working set, and is every frame of it good.

use super::{check_belongs, open_set};
use crate::cli::working_set::InspectSet;
use crate::failure::Failure;
use crate::tool::{counted, open, pages_size, print, print_json, size};
use serde::Serialize;
use snapshot_format::working_set::{Frames, Run, Touched, WorkingSet};
use snapshot_format::{Codec, Error, PAGE_BYTES};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Times for which is told how many pages are needed by then, in milliseconds.
const MARKS_MS: [u32; 3] = [10, 100, 1000];

pub(super) fn run(args: &InspectSet) -> Result<(), Failure> {
    let set = open_set(&args.set)?;
    let view = View::of(&args.set, &set).map_err(Failure::snapshot(&args.set))?;
    if let Some(path) = &args.snapshot {
        let snapshot = open(path)?;
        check_belongs((&args.set, &set), (path, &snapshot))?;
        let all = view.runs.iter().chain(&view.faded);
        let last = all.map(|run| run.pages.end).max().unwrap_or(0);
        if last > snapshot.pages() {
            return Err(Failure::snapshot(&args.set)(Error::NoSuchPage {
                page: last - 1,
                pages: snapshot.pages(),
            }));
        }
    }
    if args.json {
        print_json(&view.json(args.pages))
    } else {
        print(&view.text(args.pages))
    }
}

/// What is shown.
struct View<'a> {
    path: &'a Path,
    set: &'a WorkingSet<File>,
    /// In the order of replay.
    runs: Vec<Run>,
    faded: Vec<Run>,
    /// Bytes of all frames as they are stored.
    stored_len: u64,
    /// Frames of each codec; those without content have none.
    codecs: Vec<(Codec, u64)>,
}

impl<'a> View<'a> {
    /// Read and check everything.
    fn of(path: &'a Path, set: &'a Arc<WorkingSet<File>>) -> Result<Self, Error> {
        let mut reader = Frames::new(Arc::clone(set));
        let (mut runs, mut of_frame, mut content) = (Vec::new(), Vec::new(), Vec::new());
        let mut codecs = [Codec::Lz4, Codec::Zstd, Codec::Stored].map(|codec| (codec, 0));
        let mut stored_len = 0;
        for frame in 0..set.frames() {
            set.runs(frame, &mut of_frame)?;
            reader.read(frame, &mut content)?;
            runs.append(&mut of_frame);
            let stored = set.stored(frame).filter(|stored| stored.pages > 0);
            for (codec, count) in &mut codecs {
                *count += u64::from(stored.is_some_and(|stored| stored.codec == *codec));
            }
            stored_len += stored.map_or(0, |stored| u64::from(stored.payload_len));
        }
        let history = set.history()?;
        let replayed = usize::try_from(set.pages()).unwrap_or(usize::MAX);
        let faded = history.pages().get(replayed..).unwrap_or_default();
        Ok(Self {
            path,
            set,
            runs,
            faded: in_runs(faded),
            stored_len,
            codecs: codecs.into_iter().filter(|&(_, count)| count > 0).collect(),
        })
    }

    fn last_touch_us(&self) -> u32 {
        let times = self.runs.iter().map(|run| run.after_us);
        times.max().unwrap_or(0)
    }

    /// Pages touched at most so many milliseconds after serving began.
    fn needed_by(&self, ms: u32) -> u64 {
        let us = ms.saturating_mul(1000);
        let needed = self.runs.iter().filter(|run| run.after_us <= us);
        needed.map(count).sum()
    }

    fn content_pages(&self) -> u64 {
        self.set.pages() - self.set.zero_pages()
    }

    fn json(&self, pages: bool) -> Json {
        let set = self.set;
        let touches = |runs: &[Run]| {
            let touch = |run: &Run| (run.pages.start, count(run), run.after_us);
            pages.then(|| runs.iter().map(touch).collect())
        };
        Json {
            file: self.path.to_string_lossy().into_owned(),
            snapshot: set.snapshot().to_string(),
            recordings: set.recordings(),
            pages: set.pages(),
            zero_pages: set.zero_pages(),
            content_pages: self.content_pages(),
            faded_pages: set.faded_pages(),
            content_bytes: self.content_pages() * PAGE_BYTES,
            stored_bytes: self.stored_len,
            file_bytes: set.file_len(),
            frames: set.frames(),
            max_frame_pages: set.max_frame_pages(),
            codecs: self
                .codecs
                .iter()
                .map(|&(codec, frames)| JsonCodec { codec, frames })
                .collect(),
            last_touch_us: self.last_touch_us(),
            needed_by: MARKS_MS
                .iter()
                .map(|&ms| JsonMark {
                    ms,
                    pages: self.needed_by(ms),
                })
                .collect(),
            touches: touches(&self.runs),
            faded_touches: touches(&self.faded),
        }
    }

    fn text(&self, pages: bool) -> String {
        let set = self.set;
        let mut lines = vec![
            format!(
                "{}: working set of snapshot {}",
                self.path.display(),
                set.snapshot()
            ),
            format!("  recordings  {}", set.recordings()),
            format!(
                "  pages       {} ({}){}",
                set.pages(),
                pages_size(set.pages()),
                super::of_them_zero(set.zero_pages())
            ),
        ];
        if set.faded_pages() > 0 {
            lines.push(format!(
                "  faded       {} not replayed, in fewer than half of the recordings",
                counted(set.faded_pages(), "page")
            ));
        }
        let codecs: Vec<String> = self
            .codecs
            .iter()
            .map(|(codec, frames)| format!("{frames} {codec}"))
            .collect();
        lines.push(format!(
            "  content     {} in {}",
            pages_size(self.content_pages()),
            size(self.stored_len)
        ));
        lines.push(format!(
            "  frames      {} of up to {}{}{}",
            set.frames(),
            pages_size(set.max_frame_pages().into()),
            if codecs.is_empty() { "" } else { ": " },
            codecs.join(", ")
        ));
        lines.push(format!("  file        {}", size(set.file_len())));
        lines.extend(MARKS_MS.iter().map(|&ms| {
            let needed = self.needed_by(ms);
            format!("  by {ms:>5} ms {needed} pages ({})", pages_size(needed))
        }));
        let last = Duration::from_micros(self.last_touch_us().into());
        lines.push(format!(
            "  last touch  after {:.1} ms",
            last.as_secs_f64() * 1e3
        ));
        if pages {
            lines.push("  PAGE         COUNT        MS  SEEN (newest first)".into());
            lines.extend(
                self.runs
                    .iter()
                    .map(|run| self.row(run, if run.zero { "zero" } else { "" })),
            );
            lines.extend(self.faded.iter().map(|run| self.row(run, "faded")));
        }
        lines.join("\n")
    }

    /// A line of the table of pages.
    fn row(&self, run: &Run, note: &str) -> String {
        let ms = f64::from(run.after_us) / 1e3;
        let seen: String = (0..self.set.recordings())
            .map(|bit| if run.seen >> bit & 1 == 1 { '#' } else { '.' })
            .collect();
        let row = format!(
            "  {:<12} {:<6} {ms:>8.1}  {seen} {note}",
            run.pages.start,
            count(run)
        );
        row.trim_end().to_owned()
    }
}

fn count(run: &Run) -> u64 {
    run.pages.end - run.pages.start
}

/// Consecutive pages that are alike, together.
fn in_runs(pages: &[Touched]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for touched in pages {
        match runs.last_mut() {
            Some(run)
                if run.pages.end == touched.page.0
                    && (run.after_us, run.seen) == (touched.after_us, touched.seen) =>
            {
                run.pages.end += 1;
            }
            _ => runs.push(Run {
                pages: touched.page.0..touched.page.0 + 1,
                zero: false,
                after_us: touched.after_us,
                seen: touched.seen,
            }),
        }
    }
    runs
}

/// What `--json` prints. Lengths in bytes, times in microseconds since serving began.
#[derive(Serialize)]
struct Json {
    file: String,
    snapshot: String,
    recordings: u8,
    pages: u64,
    zero_pages: u64,
    content_pages: u64,
    faded_pages: u64,
    content_bytes: u64,
    stored_bytes: u64,
    file_bytes: u64,
    frames: usize,
    max_frame_pages: u16,
    codecs: Vec<JsonCodec>,
    last_touch_us: u32,
    needed_by: Vec<JsonMark>,
    /// Page, count and time of each run, in the order of replay; with `--pages`.
    #[serde(skip_serializing_if = "Option::is_none")]
    touches: Option<Vec<(u64, u64, u32)>>,
    /// The same of pages that are not replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    faded_touches: Option<Vec<(u64, u64, u32)>>,
}

#[derive(Serialize)]
struct JsonCodec {
    codec: Codec,
    frames: u64,
}

#[derive(Serialize)]
struct JsonMark {
    ms: u32,
    pages: u64,
}
