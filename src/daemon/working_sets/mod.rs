//! What was touched last time, and what is touched this time: which sets there are, and who replays and who records them.
//!
//! | file        | holds                                                    |
//! |-------------|----------------------------------------------------------|
//! | `writing.rs` | a recording that is over, into its file                  |
//!
//! A set only ever makes a restore faster. Whatever is wrong with one is a warning, and a restore without it.

mod writing;

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use snapshot_format::Snapshot;
use snapshot_format::working_set::{MAGIC, WorkingSet};

use crate::cli::restore::{PrefillName, SetName, Touched};
use crate::failure::Failure;
use crate::output::PendingFile;
use crate::serve::{self, Recording};
use crate::terminal::{printable, say};
use crate::tool;

/// Bytes of a set that the system is asked to have ready. What follows it reads ahead by itself.
const FETCHED: i64 = 64 << 20;

type Set = Arc<WorkingSet<File>>;

/// Which sets are to be replayed and recorded, as it was typed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) touched: &'a Touched,
    /// `None` if nothing was typed about it.
    pub(super) prefill: Option<PrefillName>,
    /// Restores that are recorded, one after the other.
    pub(super) runs: u16,
    pub(super) json: bool,
    pub(super) quiet: bool,
    pub(super) records: Records,
}

/// What becomes of a recording that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Records {
    /// It can be made, or nobody is served.
    Must,
    /// Somebody is served already: it is made if it can be.
    May,
    /// It has been begun by somebody else, who is dead.
    Not,
}

/// The working sets of one snapshot, for all that are restored from it.
pub(super) struct WorkingSets {
    snapshot: Option<Arc<Snapshot<File>>>,
    /// Whether sets are replayed at all, and for who is recorded as well.
    replays: bool,
    replays_while_recording: bool,
    most: Duration,
    idle: Duration,
    say: Say,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct Say {
    json: bool,
    quiet: bool,
}

#[derive(Default)]
struct State {
    set: Option<Set>,
    /// Where the next recording goes. `None` while there is one under way, and when there is to be none.
    next: Option<Output>,
    /// Recordings yet to be made, after the next.
    left: u16,
    writing: Option<JoinHandle<()>>,
}

/// A file that a recording will be. It is begun before anything is restored: what cannot be written is found out then.
struct Output {
    path: PathBuf,
    pending: PendingFile,
}

impl WorkingSets {
    /// Those that were asked for, and those that are found beside the snapshot.
    ///
    /// # Errors
    /// [`Failure`] when a recording could not be written that has to be. Never for a set that cannot be read.
    pub(super) fn open(
        wanted: Wanted<'_>,
        path: &Path,
        snapshot: Option<Arc<Snapshot<File>>>,
    ) -> Result<Arc<Self>, Failure> {
        let touched = wanted.touched;
        let beside = beside(path);
        let record = touched
            .record_working_set
            .as_ref()
            .map(|path| path.clone().unwrap_or_else(|| beside.clone()));
        if record.is_some() && snapshot.is_none() {
            return Err(Failure::Usage(
                "--record-working-set needs a snapshot: a raw memory file has no id to bind a working set to (pack it with uffd-snapshot pack)"
                    .into(),
            ));
        }
        let record = record.filter(|_| wanted.records != Records::Not);
        let next = match record.map(|path| Output::begin(&path)).transpose() {
            Err(failure) if wanted.records == Records::May => {
                say(&format!("uffd-restore: no more is recorded: {failure}"));
                None
            }
            next => next?,
        };
        let replays =
            wanted.prefill != Some(PrefillName::None) && touched.working_set != Some(SetName::None);
        let asked_for = wanted.prefill.is_some();
        let set = match &snapshot {
            Some(snapshot) if replays && (next.is_none() || asked_for) => {
                find(&wanted, &beside, snapshot)
            }
            None if touched.working_set.is_some() => {
                say("uffd-restore: a raw memory file has no working sets: restoring without one");
                None
            }
            _ => None,
        };
        Ok(Arc::new(Self {
            snapshot,
            replays,
            replays_while_recording: asked_for,
            most: touched.record_for,
            idle: touched.record_idle,
            say: Say {
                json: wanted.json,
                quiet: wanted.quiet,
            },
            state: Mutex::new(State {
                set,
                next,
                left: wanted.runs.saturating_sub(1),
                writing: None,
            }),
        }))
    }

    /// Nothing is replayed any more: it may be what a process has died of.
    pub(super) fn replay_nothing(&self) {
        if self.lock().set.take().is_some() {
            say(
                "uffd-restore: a process that replayed the working set has crashed: it is not replayed any more",
            );
        }
    }

    /// What a restore that begins now replays and records. One at a time is recorded.
    pub(super) fn for_restore(self: &Arc<Self>) -> (Option<Set>, Option<Recording>) {
        let mut state = self.lock();
        let output = state.next.take();
        let set = state.set.clone();
        drop(state);
        let replays = self.replays && (output.is_none() || self.replays_while_recording);
        let replayed = set.filter(|_| replays);
        let with = replayed.clone();
        let recording = output.map(|output| {
            let sets = Arc::clone(self);
            Recording {
                most: self.most,
                idle: self.idle,
                done: Box::new(move |touches| sets.write(output, with, touches)),
            }
        });
        (replayed, recording)
    }

    /// Waits for what is being written, unless somebody asks this program to end.
    pub(super) fn finish(&self) {
        let writing = self.lock().writing.take();
        let Some(writing) = writing else { return };
        while !writing.is_finished() {
            if serve::asked_to_end() {
                say("uffd-restore: asked to end: what was touched is not recorded");
                // It ends with this program, and leaves nothing behind.
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        // It has said what there was to say.
        let _ = writing.join();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Output {
    fn begin(path: &Path) -> Result<Self, Failure> {
        if !may_be_replaced(path)? {
            return Err(Failure::Usage(format!(
                "{path:?} is no working set, and will not be overwritten with one: choose another name for --record-working-set"
            )));
        }
        Ok(Self {
            path: path.to_path_buf(),
            pending: PendingFile::create_with_signals_held(path, true)?,
        })
    }
}

/// `FILE.ws`.
fn beside(snapshot: &Path) -> PathBuf {
    let mut name = snapshot.as_os_str().to_owned();
    name.push(".ws");
    name.into()
}

/// `None` if there is no such file.
fn open_if_there(path: &Path) -> Result<Option<File>, Failure> {
    match tool::open_file(path) {
        Ok(file) => Ok(Some(file)),
        Err(Failure::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// True if there is nothing, or nothing in it, or a working set of some kind.
fn may_be_replaced(path: &Path) -> Result<bool, Failure> {
    let Some(file) = open_if_there(path)? else {
        return Ok(true);
    };
    let mut start = Vec::new();
    let read = file.take(MAGIC.len() as u64).read_to_end(&mut start);
    read.map_err(Failure::io("read", path))?;
    Ok(start.is_empty() || start == MAGIC)
}

/// The set to be replayed. What is wrong with it is said.
fn find(wanted: &Wanted<'_>, beside: &Path, snapshot: &Snapshot<File>) -> Option<Set> {
    let (path, asked_for) = match &wanted.touched.working_set {
        Some(SetName::File(path)) => (path.as_path(), true),
        _ => (beside, false),
    };
    let trusted = |file: &File| asked_for || is_ours(file, snapshot.storage());
    match open(path, snapshot, trusted) {
        Ok(set) => Some(Arc::new(set)),
        Err(Unusable::Missing) if !asked_for && wanted.prefill != Some(PrefillName::WorkingSet) => {
            None
        }
        Err(why) => {
            let path = printable(&path.display().to_string());
            say(&format!(
                "uffd-restore: the working set {path} is not used: {why}: restoring without it"
            ));
            None
        }
    }
}

/// Who can write a set decides what is restored: one that nobody asked for must be of somebody who decides that anyway.
fn is_ours(set: &File, snapshot: &File) -> bool {
    let owner = |file: &File| file.metadata().map(|metadata| metadata.uid()).ok();
    let trusted = [
        Some(0),
        Some(nix::unistd::geteuid().as_raw()),
        owner(snapshot),
    ];
    owner(set).is_some() && trusted.contains(&owner(set))
}

/// Why a set cannot be used.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("there is no such file")]
    Missing,
    #[error("{0}")]
    Open(Failure),
    #[error("it has more pages than the snapshot, or too many to be merged: record it anew")]
    TooLarge,
    #[error(
        "it belongs to neither this user nor the snapshot's owner: name it with --working-set if it is to be trusted"
    )]
    Strange,
    #[error("{0}")]
    Format(#[from] snapshot_format::Error),
    #[error(
        "it is of another snapshot ({theirs}, this one is {ours}): record it anew, or make one with uffd-snapshot working-set build"
    )]
    Foreign { theirs: String, ours: String },
}

fn open(
    path: &Path,
    snapshot: &Snapshot<File>,
    trusted: impl Fn(&File) -> bool,
) -> Result<WorkingSet<File>, Unusable> {
    let file = open_if_there(path).map_err(Unusable::Open)?;
    let file = file.ok_or(Unusable::Missing)?;
    if !trusted(&file) {
        return Err(Unusable::Strange);
    }
    // It is read from the front to the back, and soon. Advice that is not taken changes nothing.
    let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
    let _ = posix_fadvise(&file, 0, FETCHED, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
    let set = WorkingSet::open(file)?;
    // What the loop reads by itself, between faults, must not come from a disk.
    if let Ok(tables) = i64::try_from(set.frames_at().end) {
        let advice = PosixFadviseAdvice::POSIX_FADV_WILLNEED;
        let _ = posix_fadvise(set.storage(), tables, 0, advice);
    }
    if !set.belongs_to(snapshot) {
        return Err(Unusable::Foreign {
            theirs: set.snapshot().to_string(),
            ours: snapshot.id().to_string(),
        });
    }
    if set.pages() + set.faded_pages() > snapshot.pages() {
        return Err(Unusable::TooLarge);
    }
    Ok(set)
}
