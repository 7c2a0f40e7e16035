//! A recording that is over, into its file: by a thread of its own, while the target is served on.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::thread;

use bytesize::ByteSize;
use serde::Serialize;
use snapshot_format::working_set::{History, Options, Summary, WorkingSet, write};
use snapshot_format::{Cursor, PAGE_BYTES, PageNo, Snapshot};

use super::{Output, Say, Set, Unusable, WorkingSets, open};
use crate::daemon::summary::{announce, as_json};
use crate::failure::Failure;
use crate::priority;
use crate::session::Touch;
use crate::terminal::{mention, printable};
use crate::tool;

/// Pages of a set that is merged, at most: those of 16 GiB. A larger one is replaced.
const MOST_MERGED: u64 = 1 << 22;

impl WorkingSets {
    /// Takes a recording of a restore with which a set was replayed, or none. Does not wait.
    pub(super) fn write(self: &Arc<Self>, output: Output, with: Option<Set>, touches: Vec<Touch>) {
        let sets = Arc::clone(self);
        let thread = thread::Builder::new().name("recording".into());
        let started = thread.spawn(move || {
            priority::lower();
            sets.write_now(output, with.as_deref(), &touches);
        });
        match started {
            Ok(writing) => self.lock().writing = Some(writing),
            Err(error) => mention(&format!(
                "uffd-restore: what was touched is not recorded: cannot start a thread: {error}"
            )),
        }
    }

    fn write_now(&self, output: Output, with: Option<&WorkingSet<File>>, touches: &[Touch]) {
        let Some(snapshot) = &self.snapshot else {
            return;
        };
        let path = output.path.clone();
        let name = printable(&path.display().to_string());
        if touches.is_empty() {
            if !self.say.quiet {
                mention(&format!(
                    "uffd-restore: nothing was touched: {name} is left as it is"
                ));
            }
            // Somebody else's turn.
            self.lock().next = Some(output);
            return;
        }
        match store(snapshot, output, with, touches) {
            Ok((set, summary)) => {
                self.lock().set = Some(set);
                self.say.recorded(&name, &summary, touches);
            }
            Err(error) => mention(&format!("uffd-restore: {name} is not written: {error}")),
        }
        let mut state = self.lock();
        if state.left > 0 {
            state.left -= 1;
            match Output::begin(&path) {
                Ok(output) => state.next = Some(output),
                Err(error) => mention(&format!("uffd-restore: no more is recorded: {error}")),
            }
        }
    }
}

/// Merges a recording with what its file knows of the snapshot, and writes that in its place.
fn store(
    snapshot: &Arc<Snapshot<File>>,
    output: Output,
    with: Option<&WorkingSet<File>>,
    touches: &[Touch],
) -> Result<(Set, Summary), Failure> {
    let Output { path, pending } = output;
    let pages = touches.iter().flat_map(|touch| {
        let first = touch.page.0;
        let pages = first..first.saturating_add(u64::from(touch.pages));
        pages.map(move |page| (PageNo(page), touch.after_us))
    });
    // What was installed before anybody asked cannot be seen to be touched. It stays as it was.
    let replayed = with.map(known).transpose();
    let replayed = replayed.map_err(|why| Failure::Usage(why.to_string()))?;
    let replayed = replayed.iter().flat_map(|history| {
        let stays = history.pages().iter().filter(|page| history.stays(page));
        stays.map(|touched| (touched.page, touched.after_us))
    });
    let mut history = History::of_recording(pages.chain(replayed));
    match open(&path, snapshot, |_| true).and_then(|set| known(&set)) {
        Ok(before) => history = before.then(&history),
        Err(Unusable::Missing) => {}
        Err(Unusable::Open(failure)) => return Err(failure),
        Err(why) => mention(&format!(
            "uffd-restore: {} is replaced: {why}",
            printable(&path.display().to_string())
        )),
    }
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let file = BufWriter::with_capacity(1 << 20, pending.file());
    let failed = |error| Failure::write(&path)(error);
    let (mut file, summary) =
        write(&history, &mut cursor, file, &Options::default()).map_err(failed)?;
    file.flush().map_err(Failure::io("write", &path))?;
    drop(file);
    pending.publish()?;
    let set = open(&path, snapshot, |_| true).map_err(|why| Failure::Usage(why.to_string()))?;
    Ok((Arc::new(set), summary))
}

/// What a set knows. It takes memory for each page.
fn known(set: &WorkingSet<File>) -> Result<History, Unusable> {
    if set.pages() + set.faded_pages() > MOST_MERGED {
        return Err(Unusable::TooLarge);
    }
    Ok(set.history()?)
}

impl Say {
    fn recorded(self, name: &str, summary: &Summary, touches: &[Touch]) {
        let seconds = touches
            .last()
            .map_or(0.0, |touch| f64::from(touch.after_us) / 1e6);
        if self.json {
            announce(as_json(&RecordedJson {
                event: "recorded",
                file: name,
                touches: touches.len(),
                seconds,
                pages: summary.pages,
                left_out_pages: summary.left_out,
                file_bytes: summary.file_len,
            }));
        } else if !self.quiet {
            let size = |bytes| ByteSize(bytes).display().iec().to_string();
            mention(&format!(
                "uffd-restore: recorded in {name}: {} in {seconds:.1} s; the working set has {} now, {} in the file",
                tool::counted(touches.len() as u64, "touched page"),
                size(summary.pages * PAGE_BYTES),
                size(summary.file_len),
            ));
        }
    }
}

#[derive(Serialize)]
struct RecordedJson<'a> {
    event: &'static str,
    file: &'a str,
    touches: usize,
    seconds: f64,
    pages: u64,
    left_out_pages: u64,
    file_bytes: u64,
}
