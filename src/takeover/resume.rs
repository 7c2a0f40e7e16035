//! Fetching what a run of this program has left that was killed as a whole, where there is no service manager that keeps it.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::state::{Holder, Id, State};
use super::stored::Held;
use super::{Shelf, StateFile, Stored, link_of};
use crate::failure::Failure;
use crate::pidfd::{fetch_of_any_thread, pidfd};
use crate::processes::pids;
use crate::serve::Target;
use crate::service::StoredName;
use crate::session::SpaceId;
use crate::uffd::Userfaultfd;

/// How long the end of processes may take that are being killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What has to be known, and held, to go on.
#[derive(Debug)]
pub struct Resumed {
    /// What that run had been asked to do, and where.
    pub arguments: Vec<String>,
    /// See [`Resumed::arguments`].
    pub directory: PathBuf,
    pub(super) state: StateFile,
    /// What was in it.
    pub(super) was: State,
    pub(super) shelf: Arc<Shelf>,
    pub(super) stored: Stored,
    /// The guard of that run, which holds descriptors as long as it lives.
    pub(super) former: Option<Target>,
}

impl Resumed {
    /// What is to be done now: the next run, if this one is killed as well, is told this.
    #[must_use]
    pub fn told(mut self, arguments: Vec<String>) -> Self {
        self.arguments = arguments;
        self
    }

    /// Takes over what is left, by copies of its descriptors: as long as this run has not said that it goes on, another one may.
    ///
    /// # Errors
    /// [`Failure`]: nothing has been changed, and who waits goes on waiting.
    pub fn fetch(path: &Path) -> Result<Self, Failure> {
        let path = path.canonicalize().map_err(Failure::io("read", path))?;
        let state = StateFile::at(&path);
        let was = state.take()?;
        wait_for_the_dead(&state, &was)?;
        let shelf = Arc::new(shelf(&state, &was)?);
        let mut passed = shelf.contents();
        if was.journal.is_some() {
            // The target may have put anything there.
            passed.retain(|(name, descriptor)| is_space(*name, descriptor));
        }
        passed.extend(of_the_only_session(&was)?);
        let former = was.guard.and_then(holder);
        let held = former.as_ref().and_then(|guard| {
            Some(Held {
                guard: guard.as_fd().try_clone_to_owned().ok()?,
                shelf: Arc::clone(&shelf),
            })
        });
        Ok(Self {
            arguments: was.arguments.clone(),
            directory: was.directory.clone(),
            state,
            shelf,
            stored: Stored::new(passed).and_held(held),
            former,
            was,
        })
    }
}

/// Who was started by the keeper dies with it, and not at the same instant; the guard holds when both are dead.
fn wait_for_the_dead(file: &StateFile, was: &State) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let state = file.read()?;
        let guard_alive = state.guard.is_some_and(|guard| guard.process.is_alive());
        let worker_alive = was.worker.is_some_and(Id::is_alive);
        if !worker_alive && (state.held || !guard_alive) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let path = file.path();
            return Err(Failure::Mismatch(format!(
                "{path:?}: the process that served has not ended: try again when it has"
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The socket, from whoever has it.
fn shelf(file: &StateFile, state: &State) -> Result<Shelf, Failure> {
    let mut why = None;
    let known = [state.guard, state.target].into_iter().flatten();
    for its in known.chain(heirs(state)) {
        let Some(process) = holder(its) else {
            continue;
        };
        let fetched = fetch_of_any_thread(its.process.pid, process.as_fd(), its.shelf);
        match fetched.and_then(|fetched| socket(fetched, state)) {
            Ok(socket) => return Ok(Shelf::of(socket)),
            Err(errno) => why = Some((its.process.pid, errno)),
        }
    }
    let path = file.path();
    Err(match why {
        None if state.journal.is_some() => {
            file.remove();
            Failure::Mismatch(format!(
                "{path:?}: the process that was served has ended: there is nothing to go on with, and the file was removed"
            ))
        }
        None => {
            file.remove();
            Failure::Mismatch(format!(
                "{path:?}: the guard is dead, too, or everybody that was served has ended: there is nothing to go on with, and the file \
                 was removed; kill VMMs that still wait"
            ))
        }
        Some((pid, Errno::EPERM)) => Failure::Usage(format!(
            "{path:?}: this user may not fetch the descriptors of process {pid}: CAP_SYS_PTRACE is needed, run it as root"
        )),
        Some((pid, errno)) => Failure::Mismatch(format!(
            "{path:?}: process {pid} has no longer what was left in it ({errno}), and the guard is dead, too: its memory is lost, kill it"
        )),
    })
}

fn holder(holder: Holder) -> Option<Target> {
    let pid = holder.process.pid;
    let process = Target::from_pidfd(pid, String::new(), pidfd(pid).ok()?);
    // Now its number cannot come to mean another one.
    holder.process.is_alive().then_some(process)
}

/// What is fetched may be something that the target has put there.
fn socket(fetched: OwnedFd, state: &State) -> Result<OwnedFd, Errno> {
    let link = link_of(fetched.as_raw_fd()).unwrap_or_default();
    let is_it = match &state.socket {
        Some(socket) => link == *socket,
        None => link.starts_with("socket:"),
    };
    is_it.then_some(fetched).ok_or(Errno::ENOTSOCK)
}

fn is_space(name: StoredName, descriptor: &OwnedFd) -> bool {
    let link = link_of(descriptor.as_raw_fd());
    matches!(name, StoredName::Space { session: 0, .. })
        && link.as_deref() == Some(Userfaultfd::LINK)
}

/// Those who were forked from the target have the shelf as well, under the same number.
fn heirs(state: &State) -> impl Iterator<Item = Holder> + '_ {
    let wanted = state.target.zip(state.socket.as_ref());
    let heirs = wanted.map(|(target, socket)| {
        let has = move |pid: &i32| {
            let link = fs::read_link(format!("/proc/{pid}/fd/{}", target.shelf));
            link.is_ok_and(|link| link.to_str() == Some(socket))
        };
        let holder = move |pid| {
            let process = Id::of(pid)?;
            let shelf = target.shelf;
            Some(Holder { process, shelf })
        };
        pids().filter(has).filter_map(holder)
    });
    heirs.into_iter().flatten()
}

/// What is not on the shelf, because the target has that.
fn of_the_only_session(state: &State) -> Result<Vec<(StoredName, OwnedFd)>, Failure> {
    let Some(path) = &state.journal else {
        return Ok(Vec::new());
    };
    let journal = File::options().read(true).write(true).open(path);
    let journal = journal.map_err(Failure::io("open", path))?;
    let mut found = vec![(StoredName::Journal { session: 0 }, journal.into())];
    if let Some(target) = state.target
        && let Ok(process) = pidfd(target.process.pid)
        && target.process.is_alive()
    {
        let name = StoredName::Process {
            session: 0,
            number: SpaceId::FIRST.0,
        };
        found.push((name, process));
    }
    Ok(found)
}
