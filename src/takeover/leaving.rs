//! Leaving everything to the next run of this program.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;

use super::keeper::signals;
use super::state::{Holder, Id};
use super::{Kept, Resumed, Shelf, StateFile, Store, Stored, link_of};
use crate::failure::Failure;
use crate::serve::{END_OF_A_PROCESS, Guard, Next, ServeError, Target, kill_family};
use crate::service::Pulse;
use crate::session::Journal;
use crate::terminal::{mention, say};

/// The exit status of who leaves something to the next run: EX_TEMPFAIL of sysexits.h. The units have it restart.
pub(super) const LEFT: u8 = 75;

/// What there is when a run of this program begins.
#[derive(Debug)]
pub enum Beginning {
    /// What a service manager has passed: nothing, without one.
    Stored(Stored),
    /// Nothing. This file is for who goes on when all of this run has been killed.
    State(StateFile),
    /// What another run has left, for which there is such a file.
    Resumed(Box<Resumed>),
}

/// What is left to who resumes.
#[derive(Debug)]
pub(super) struct Leaving {
    file: StateFile,
    shelf: Arc<Shelf>,
    /// The only session's.
    journal: Option<PathBuf>,
    /// The guard of the run before, until this one goes on.
    former: Option<Target>,
    /// What this run was told, if that is something else than the file says.
    arguments: Option<Vec<String>>,
    /// This run does not go on, and another one may.
    given_up: AtomicBool,
}

impl Leaving {
    /// If anything is, and what there is to go on with.
    pub(super) fn of(beginning: Beginning) -> Result<(Option<Self>, Stored), Failure> {
        match beginning {
            Beginning::Stored(stored) => Ok((None, stored)),
            Beginning::State(file) => {
                let shelf = Shelf::new().map_err(|errno| ServeError::Kernel {
                    doing: "make a socket that keeps descriptors",
                    errno,
                })?;
                let journal = file.read()?.journal;
                let leaving = Self {
                    file,
                    shelf: Arc::new(shelf),
                    journal,
                    former: None,
                    arguments: None,
                    given_up: AtomicBool::new(false),
                };
                Ok((Some(leaving), Stored::default()))
            }
            Beginning::Resumed(resumed) => {
                let leaving = Self {
                    file: resumed.state,
                    shelf: resumed.shelf,
                    journal: resumed.was.journal,
                    former: resumed.former,
                    arguments: Some(resumed.arguments),
                    given_up: AtomicBool::new(false),
                };
                Ok((Some(leaving), resumed.stored))
            }
        }
    }

    /// Who goes on.
    pub(super) fn next(&self) -> Next {
        // The guard has the same table: what is dropped at the end of this process would be closed for it as well.
        std::mem::forget(Arc::clone(&self.shelf));
        Next::Resumes(self.file.clone(), self.shelf.as_fd().as_raw_fd())
    }

    /// Where it finds descriptors.
    pub(super) fn store(&self, guard: &Arc<Guard>) -> Result<Store, Failure> {
        if self.former.is_none() {
            self.file
                .update(|state| state.is_guarded_by(self.holder(guard)))?;
        }
        let spaces = self.journal.is_some();
        Ok(Store::of_shelf(Arc::clone(&self.shelf), spaces, guard))
    }

    fn holder(&self, guard: &Guard) -> Option<Holder> {
        let process = Id::of(guard.pid())?;
        let shelf = self.shelf.as_fd().as_raw_fd();
        Some(Holder { process, shelf })
    }

    /// See [`Kept::goes_on`]. Said again, it does no harm.
    ///
    /// [`Kept::goes_on`]: super::Kept::goes_on
    pub(super) fn goes_on(&self, guard: &Guard) {
        let updated = self.file.update(|state| {
            state.is_guarded_by(self.holder(guard));
            if let Some(arguments) = &self.arguments {
                state.arguments.clone_from(arguments);
            }
        });
        match updated {
            // What only those hold nobody has fetched, and nobody is left whose it is.
            Ok(()) => self.file.end_former_guards(),
            Err(failure) => mention(&format!("uffd-restore: {failure}")),
        }
    }

    /// It works for the one that keeps.
    pub(super) fn is_served_by_this_process(&self) {
        let worker = Id::of_this_process();
        if let Err(failure) = self.file.update(|state| state.worker = worker) {
            mention(&format!("uffd-restore: {failure}"));
        }
    }

    /// Another guard has taken its place.
    pub(super) fn guard_is_new(&self, guard: &Guard) {
        if self.former.as_ref().is_none_or(Target::has_ended) {
            self.goes_on(guard);
        }
    }

    /// This run ends, and whoever waits goes on waiting.
    pub(super) fn leave(&self, guard: &Guard) {
        self.given_up.store(true, Ordering::Relaxed);
        let path = self.file.path();
        mention(&format!(
            "uffd-restore: what is missing goes on being waited for: mend what is said next, and go on with uffd-restore --resume {path:?}"
        ));
        let held = self.file.read().ok().and_then(|state| state.guard);
        if held.is_some() && held != self.holder(guard) {
            // By the guard of the run before.
            guard.forget_all_but(&[]);
        }
    }
}

impl Kept {
    /// The journal of a session that begins.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn journal(&self) -> Result<Journal, Failure> {
        let cannot = |errno| ServeError::Kernel {
            doing: "keep a journal",
            errno,
        };
        let Some(path) = self.leaving.as_ref().and_then(|it| it.journal.as_ref()) else {
            return Ok(Journal::new().map_err(cannot)?);
        };
        // That of another one, which is over.
        let _ = fs::remove_file(path);
        let mut options = File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(path).map_err(Failure::io("create", path))?;
        Ok(Journal::of_new_file(file.into()).map_err(cannot)?)
    }

    /// What is to be left open in the only target.
    #[must_use]
    pub fn to_be_left(&self) -> Option<BorrowedFd<'_>> {
        let leaving = self.leaving.as_ref().filter(|it| it.journal.is_some())?;
        Some(leaving.shelf.as_fd())
    }

    /// It has it, under this number.
    ///
    /// # Errors
    /// [`Failure`]: who resumes would not know.
    pub fn was_left(&self, pid: i32, number: RawFd) -> Result<(), Failure> {
        let holder = Id::of(pid).map(|process| Holder {
            process,
            shelf: number,
        });
        let Some(leaving) = &self.leaving else {
            return Ok(());
        };
        leaving.file.update(|state| {
            state.target = holder;
            state.socket = link_of(leaving.shelf.as_fd().as_raw_fd());
        })
    }

    /// If this run goes on with what another one has left, something of that is left.
    ///
    /// # Errors
    /// It is not: nothing else is to be done then.
    pub fn check_resumed(&self) -> Result<(), Failure> {
        let resumes = self
            .leaving
            .as_ref()
            .is_some_and(|it| it.arguments.is_some());
        if resumes && !self.directory.has_sessions() {
            return Err(Failure::Mismatch("nobody is left to go on with".into()));
        }
        Ok(())
    }

    /// When nothing is served any more: what is open in a target and of no use, by process and number.
    #[must_use]
    pub fn is_left(&self) -> Option<(i32, RawFd)> {
        let leaving = self.over()?;
        let target = leaving.file.read().ok()?.target?;
        (target.process.is_alive()).then_some((target.process.pid, target.shelf))
    }

    /// When nothing is served any more: nobody needs to know of it.
    pub fn forget(&self) {
        if let Some(leaving) = self.over() {
            leaving.file.end_former_guards();
            leaving.file.remove();
        }
    }

    fn over(&self) -> Option<&Leaving> {
        let leaving = self.leaving.as_ref()?;
        let over = !leaving.given_up.load(Ordering::Relaxed) && !self.directory.has_sessions();
        over.then_some(leaving)
    }
}

/// Waits, for this run cannot go on with what is in the store, and if it ended without another one coming, what is missing would become
/// zeros. SIGUSR1 leaves it to the next one, be it another build; any other signal that asks to end kills the targets.
#[must_use]
pub(super) fn hold(guard: &Guard, pulse: &Pulse, why: &str) -> ExitCode {
    let what = format!("the targets wait, for this program cannot go on with them: {why}");
    say(&format!(
        "uffd-restore: {what}; mend that and restart the service (to stop it kills them)"
    ));
    pulse.tell(&what);
    if wait_for_signal() == Signal::SIGUSR1 {
        return ExitCode::from(LEFT);
    }
    say(
        "uffd-restore: asked to end: the targets are killed, for memory is missing that must not read as zeros",
    );
    let watched = guard.targets_without(&[]);
    for target in &watched {
        kill_family(target);
    }
    for target in &watched {
        let _ = target.ends_within(END_OF_A_PROCESS);
    }
    ExitCode::FAILURE
}

/// One of those that are held.
fn wait_for_signal() -> Signal {
    let Ok(signals) = signals() else {
        return Signal::SIGUSR1;
    };
    loop {
        let mut waited = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        // Interrupted or not, it is looked at afterwards.
        let _ = poll(&mut waited, PollTimeout::NONE);
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(signal) => return signal,
            }
        }
    }
}
