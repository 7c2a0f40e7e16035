//! What has to be known to go on when all of this program has been killed, in a file: who had the descriptors, and what it had been asked
//! to do.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::RawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{FsType, TMPFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::output::PendingFile;
use crate::pidfd::pidfd;
use crate::readable::readable_within;
use crate::serve::Target;
use crate::tracee::ThreadStat;

/// `RAMFS_MAGIC` of `<linux/magic.h>`.
const RAMFS_MAGIC: FsType = FsType(0x8584_58f6);
/// Changes with what is in the file.
const VERSION: u32 = 1;
const SUFFIX: &str = "state";

/// A process, never another one of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Id {
    pub(crate) pid: i32,
    /// When it was started: proc_pid_stat(5), in ticks since the machine was.
    started: u64,
}

impl Id {
    /// A process that is there. Its first thread may have ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let process = pidfd(pid).ok()?;
        let started = ThreadStat::read(pid).ok()?.start_ticks;
        let has_ended = readable_within(&process, Duration::ZERO);
        (!has_ended).then_some(Self { pid, started })
    }

    pub(crate) fn of_this_process() -> Option<Self> {
        Self::of(nix::unistd::getpid().as_raw())
    }

    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// A process that has the shelf open, under this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holder {
    #[serde(flatten)]
    pub(crate) process: Id,
    pub(crate) shelf: i32,
}

/// What is in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// What was asked for, and where.
    pub(crate) arguments: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Who serves, as long as it is alive.
    pub(crate) keeper: Id,
    /// Who works for it, and dies with it.
    pub(crate) worker: Option<Id>,
    /// Who else has the shelf.
    pub(crate) guard: Option<Holder>,
    /// That one knows that the others are dead.
    pub(crate) held: bool,
    /// Those of runs before, which may not know yet that somebody has gone on.
    former_guards: Vec<Id>,
    /// The process that is served, if there is only one, and it has the shelf.
    pub(crate) target: Option<Holder>,
    /// What the shelf is called in `/proc/PID/fd`.
    pub(crate) socket: Option<String>,
    /// The journal of the only session.
    pub(crate) journal: Option<PathBuf>,
}

impl State {
    /// Another run has all that was left, and a guard of its own.
    pub(super) fn is_guarded_by(&mut self, guard: Option<Holder>) {
        let former = self.guard.filter(|_| self.guard != guard);
        self.former_guards
            .extend(former.map(|former| former.process));
        (self.guard, self.held) = (guard, false);
    }
}

/// The file.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// A new one, of what this program was asked to do. One that nobody can go by any more is replaced. With `journal` there is to be one
    /// session, whose journal is kept beside it.
    ///
    /// # Errors
    /// [`Failure`]: it is not in memory, or somebody needs what is there.
    pub fn begin(folder: &Path, name: &str, journal: bool) -> Result<Self, Failure> {
        let mut made = fs::DirBuilder::new();
        let made = made.recursive(true).mode(0o700).create(folder);
        made.map_err(Failure::io("create", folder))?;
        let folder = folder
            .canonicalize()
            .map_err(Failure::io("look for", folder))?;
        is_in_memory(&folder)?;
        let this = Self {
            path: folder.join(format!("{name}.{SUFFIX}")),
        };
        let _lock = this.lock()?;
        if let Ok(found) = this.read() {
            this.check_replaceable(&found)?;
        }
        let arguments = std::env::args_os().map(|word| {
            word.into_string().map_err(|word| {
                Failure::Usage(format!("--state-dir: the argument {word:?} is not UTF-8"))
            })
        });
        let directory = std::env::current_dir();
        let state = State {
            version: VERSION,
            arguments: arguments.collect::<Result<_, _>>()?,
            directory: directory.map_err(Failure::io("look for", Path::new(".")))?,
            keeper: own()?,
            worker: None,
            guard: None,
            held: false,
            former_guards: Vec::new(),
            target: None,
            socket: None,
            journal: journal.then(|| folder.join(format!("{name}.uffd-restore-journal"))),
        };
        this.write(&state)?;
        Ok(this)
    }

    /// One that is there.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
        }
    }

    /// Its name.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it says.
    pub(super) fn read(&self) -> Result<State, Failure> {
        let other = |what: String| {
            let path = &self.path;
            Failure::Usage(format!(
                "{path:?} is no state file of this program: {what}: give the one that --state-dir made"
            ))
        };
        let bytes = fs::read(&self.path).map_err(Failure::io("read", &self.path))?;
        let state: State =
            serde_json::from_slice(&bytes).map_err(|error| other(error.to_string()))?;
        if state.version != VERSION {
            let found = state.version;
            return Err(other(format!(
                "it has version {found}, and this program reads version {VERSION}; its targets go on waiting for the build that wrote it"
            )));
        }
        Ok(state)
    }

    /// This process is the keeper from now on, if there is no other one. Returned is what there was before.
    pub(super) fn take(&self) -> Result<State, Failure> {
        let _lock = self.lock()?;
        let state = self.read()?;
        if state.keeper.is_alive() {
            return Err(Failure::Usage(format!(
                "process {} serves what {:?} is of: kill it first, or let it serve",
                state.keeper.pid, self.path
            )));
        }
        let keeper = own()?;
        self.write(&State {
            keeper,
            ..state.clone()
        })?;
        Ok(state)
    }

    /// Changes what it says.
    pub(super) fn update(&self, change: impl FnOnce(&mut State)) -> Result<(), Failure> {
        let _lock = self.lock()?;
        let mut state = self.read()?;
        change(&mut state);
        self.write(&state)
    }

    /// For the guard of a run that is dead: whether what it has open is to be held. Not if another one does that, which has all that this one
    /// has. From now on this one is known.
    pub(crate) fn is_to_be_held(&self, shelf: RawFd) -> bool {
        let (Ok(_lock), Some(process)) = (self.lock(), Id::of_this_process()) else {
            return true;
        };
        // Whoever has removed the file does not want anybody to go on; what is missing is still not zero.
        let Ok(state) = self.read() else {
            return true;
        };
        let another = state.guard.filter(|guard| guard.process != process);
        if another.is_some_and(|guard| guard.process.is_alive()) {
            return false;
        }
        let guard = Some(Holder { process, shelf });
        let held = true;
        let _ = self.write(&State {
            guard,
            held,
            ..state
        });
        true
    }

    /// The same later: somebody may have gone on.
    pub(crate) fn is_held(&self) -> bool {
        let guard = self.read().map(|state| state.guard);
        guard.is_ok_and(|guard| guard.is_none_or(|it| Some(it.process) == Id::of_this_process()))
            || !self.path.exists()
    }

    /// Those that hold what another one has by now: as long as it is open anywhere its memory stays registered.
    pub(super) fn end_former_guards(&self) {
        let former = self.read().map(|state| state.former_guards);
        for guard in former.unwrap_or_default() {
            let process = Target::open(guard.pid, String::new());
            // By a descriptor, and only then is it looked at who that is.
            if let Ok(process) = process
                && guard.is_alive()
            {
                let _ = process.kill();
            }
        }
    }

    /// Nobody needs to go on any more.
    pub(crate) fn remove(&self) {
        if let Ok(State {
            journal: Some(path),
            ..
        }) = self.read()
        {
            let _ = fs::remove_file(path);
        }
        let _ = fs::remove_file(&self.path);
    }

    fn write(&self, state: &State) -> Result<(), Failure> {
        let pending = PendingFile::create_with_signals_held(&self.path, true)?;
        let mut file = pending.file();
        let text = serde_json::to_vec_pretty(state).map_err(std::io::Error::from);
        let written = text.and_then(|text| file.write_all(&text));
        written.map_err(Failure::io("write", &self.path))?;
        pending.publish()
    }

    /// Of the folder: the file itself is replaced whenever it changes.
    fn lock(&self) -> Result<Flock<File>, Failure> {
        let folder = self.path.parent().filter(|it| !it.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let opened = File::open(folder).map_err(Failure::io("open", folder))?;
        Flock::lock(opened, FlockArg::LockExclusive).map_err(|(_, errno)| Failure::Io {
            doing: "lock",
            path: folder.to_path_buf(),
            source: errno.into(),
        })
    }

    fn check_replaceable(&self, found: &State) -> Result<(), Failure> {
        let path = &self.path;
        if found.keeper.is_alive() {
            let pid = found.keeper.pid;
            return Err(Failure::Usage(format!(
                "{path:?} is that of process {pid}, which runs: give each its own --state-dir"
            )));
        }
        let waits = [found.guard, found.target].into_iter().flatten();
        match waits.map(|holder| holder.process).find(|it| it.is_alive()) {
            Some(process) => Err(Failure::Usage(format!(
                "{path:?}: process {} waits for somebody who goes on: uffd-restore --resume {path:?} does; or kill it",
                process.pid
            ))),
            None => Ok(()),
        }
    }
}

fn own() -> Result<Id, Failure> {
    Id::of_this_process().ok_or_else(|| {
        Failure::Usage("--state-dir, --resume: /proc is not mounted, or of other processes".into())
    })
}

fn is_in_memory(folder: &Path) -> Result<(), Failure> {
    let found = statfs(folder).map_err(|errno| Failure::Io {
        doing: "look at",
        path: folder.to_path_buf(),
        source: errno.into(),
    })?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&found.filesystem_type()) {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "--state-dir {folder:?} is on a disk: what is kept there changes with every page, and is worth nothing after a restart of the \
         machine; give one in memory (tmpfs), such as /run/uffd-restore"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("memory")
    }

    #[test]
    fn nobody_takes_what_somebody_serves() {
        let folder = folder();
        let file = StateFile::begin(folder.path(), "7", true).expect("made");
        let again = StateFile::begin(folder.path(), "7", true).expect_err("mine");
        assert!(again.to_string().contains("which runs"), "{again}");
        assert!(file.take().is_err());
        // A process of the same number, and not the same.
        file.update(|state| state.keeper.started += 1)
            .expect("written");
        let before = file.take().expect("free");
        assert_ne!(before.keeper, file.read().expect("there").keeper);
        assert_eq!(before.arguments, file.read().expect("there").arguments);
        file.remove();
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn whoever_waits_is_not_forgotten() {
        let folder = folder();
        let file = StateFile::begin(folder.path(), "7", false).expect("made");
        let waiting = Holder {
            process: Id::of(1).expect("there is always one"),
            shelf: 3,
        };
        file.update(|state| {
            state.keeper.started += 1;
            state.target = Some(waiting);
        })
        .expect("written");
        let refused = StateFile::begin(folder.path(), "7", false).expect_err("waits");
        assert!(refused.to_string().contains("--resume"), "{refused}");
        file.update(|state| state.target = None).expect("written");
        StateFile::begin(folder.path(), "7", false).expect("nobody needs it");
    }

    #[test]
    fn other_files_are_told() {
        let folder = folder();
        let path = folder.path().join("x.state");
        for (text, said) in [("", "no state file"), ("{}", "no state file")] {
            fs::write(&path, text).expect("written");
            let error = StateFile::at(&path).read().expect_err("not one");
            assert!(error.to_string().contains(said), "{error}");
        }
        let file = StateFile::begin(folder.path(), "y", false).expect("made");
        let text = fs::read_to_string(file.path()).expect("read");
        fs::write(&path, text.replace("\"version\": 1", "\"version\": 9")).expect("written");
        let error = StateFile::at(&path).read().expect_err("another version");
        assert!(error.to_string().contains("version 9"), "{error}");
    }

    #[test]
    fn a_disk_is_no_place_for_it() {
        let here = tempfile::tempdir_in(".").expect("a folder");
        if is_in_memory(Path::new(".")).is_err() {
            let error = StateFile::begin(here.path(), "7", true).expect_err("a disk");
            assert!(error.to_string().contains("tmpfs"), "{error}");
        }
    }
}
