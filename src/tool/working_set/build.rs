//! `uffd-snapshot working-set build` and `merge`: from lists and sets to a set.

use super::{check_belongs, list, of_them_zero, open_set};
use crate::cli::working_set::{Build, Merge, SetWriting};
use crate::failure::Failure;
use crate::output::PendingFile;
use crate::terminal::say;
use crate::tool::{counted, open, pages_size, print_json, size};
use serde::Serialize;
use snapshot_format::working_set::{self, History, Options, Summary};
use snapshot_format::{Cursor, Snapshot};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

pub(super) fn build(args: &Build) -> Result<(), Failure> {
    let options = args.writing.options().map_err(Failure::Usage)?;
    let snapshot = open(&args.snapshot)?;
    let history = match (&args.pages, &args.from) {
        (Some(pages), _) => {
            let pages = list::read(pages, snapshot.pages())?;
            History::of_recording(pages.into_iter().map(|page| (page, 0)))
        }
        (None, Some(set)) => history_of(set, (&args.snapshot, &snapshot))?,
        (None, None) => return Err(Failure::Usage("--pages or --from is needed".into())),
    };
    write(&history, snapshot, &args.output, &args.writing, &options)
}

pub(super) fn merge(args: &Merge) -> Result<(), Failure> {
    let options = args.writing.options().map_err(Failure::Usage)?;
    let snapshot = open(&args.snapshot)?;
    let mut known: Option<History> = None;
    for set in &args.sets {
        let newer = history_of(set, (&args.snapshot, &snapshot))?;
        known = Some(match known {
            Some(known) => known.then(&newer),
            None => newer,
        });
    }
    let history = known.ok_or_else(|| Failure::Usage("a working set is needed".into()))?;
    write(&history, snapshot, &args.output, &args.writing, &options)
}

/// What a set of this snapshot knows.
fn history_of(set: &Path, snapshot: (&Path, &Snapshot<File>)) -> Result<History, Failure> {
    let open = open_set(set)?;
    check_belongs((set, &open), snapshot)?;
    open.history().map_err(Failure::snapshot(set))
}

/// What was written, for machines. Lengths in bytes.
#[derive(Serialize)]
struct Json {
    file: String,
    snapshot: String,
    recordings: u8,
    pages: u64,
    zero_pages: u64,
    faded_pages: u64,
    left_out_pages: u64,
    frames: u64,
    stored_bytes: u64,
    file_bytes: u64,
}

fn write(
    history: &History,
    snapshot: Arc<Snapshot<File>>,
    output: &Path,
    writing: &SetWriting,
    options: &Options,
) -> Result<(), Failure> {
    let pending = PendingFile::create(output, writing.force)?;
    let id = snapshot.id();
    let mut cursor = Cursor::new(snapshot);
    let written = working_set::write(history, &mut cursor, pending.file(), options);
    let (_, summary) = written.map_err(Failure::write(output))?;
    pending.publish()?;
    if writing.json {
        return print_json(&Json {
            file: output.to_string_lossy().into_owned(),
            snapshot: id.to_string(),
            recordings: history.recordings(),
            pages: summary.pages,
            zero_pages: summary.zero_pages,
            faded_pages: summary.faded,
            left_out_pages: summary.left_out,
            frames: summary.frames,
            stored_bytes: summary.frames_len,
            file_bytes: summary.file_len,
        });
    }
    if !writing.quiet {
        say(&sentence(output, &summary));
    }
    Ok(())
}

fn sentence(output: &Path, summary: &Summary) -> String {
    let more = |count: u64, what: &str| match count {
        0 => String::new(),
        count => format!("; {} {what}", counted(count, "page")),
    };
    format!(
        "{}: {} ({}){}, in a file of {}{}{}",
        output.display(),
        counted(summary.pages, "page"),
        pages_size(summary.pages),
        of_them_zero(summary.zero_pages),
        size(summary.file_len),
        more(summary.faded, "remembered without content"),
        more(
            summary.left_out,
            "left out, for the snapshot does not have them (`uffd-snapshot verify` says why)"
        ),
    )
}
