//! The keeper: it waits for the worker, and starts another one when that is killed.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::attempts::Attempts;
use super::deaths::Deaths;
use super::descriptors::open_descriptors;
use super::leaving::{Beginning, LEFT, Leaving, hold};
use super::{Directory, Life, Sharing, Store, Stored, share_descriptors};
use crate::failure::Failure;
use crate::serve::{Guard, Next, ServeError, Unwatched, obey_only};
use crate::service::Pulse;
use crate::terminal::{mention, say};

/// How long a hand-over may take that has begun, before it is not waited for.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How a worker ends that could not take over.
const NOT_BEGUN: u8 = 254;

/// See proc_pid_oom_score_adj(5).
const OOM: &str = "/proc/self/oom_score_adj";

/// What the keeper has, and its workers use.
#[derive(Debug)]
pub struct Kept {
    /// The sessions.
    pub directory: Directory,
    /// What acts when both are dead.
    pub guard: Arc<Guard>,
    /// What keeps everything when all are dead, if anything does.
    pub store: Option<Store>,
    pub(super) leaving: Option<Leaving>,
    stored: Stored,
    pulse: Pulse,
    /// This process.
    keeper: Pid,
    /// How likely workers are to be chosen when there is no memory, as this program would have been.
    oom: String,
}

impl Kept {
    /// To be made while there is one thread, and before anything is opened that a worker might close.
    ///
    /// # Errors
    /// [`Failure`].
    pub fn start(pulse: &Pulse, beginning: Beginning) -> Result<Self, Failure> {
        let (leaving, stored) = Leaving::of(beginning)?;
        let next = match &leaving {
            Some(leaving) => leaving.next(),
            None if Store::is_there(pulse) || !stored.is_empty() => Next::Started,
            None => Next::Nobody,
        };
        let kept = Self::with(|| Guard::start_before(next))?;
        let store = match &leaving {
            Some(leaving) => Some(leaving.store(&kept.guard)?),
            None => Store::from_environment(pulse, &kept.guard),
        };
        Ok(Self {
            store,
            leaving,
            stored,
            pulse: pulse.clone(),
            ..kept
        })
    }

    /// The same where nobody goes on when all are dead, and with others that the guard is to find then.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn start_with(unwatched: impl Unwatched + 'static) -> Result<Self, ServeError> {
        Self::with(|| Guard::start_with(unwatched))
    }

    fn with(guard: impl FnOnce() -> Result<Guard, Errno>) -> Result<Self, ServeError> {
        let kernel = |doing| move |errno| ServeError::Kernel { doing, errno };
        let oom = fs::read_to_string(OOM).unwrap_or_default();
        // The keeper, and the guard that it starts, are the last to be chosen. Permitted or not, it goes on.
        let _ = fs::write(OOM, "-1000");
        let guard = guard().map_err(kernel("start the process that watches over this one"))?;
        Ok(Self {
            oom,
            keeper: nix::unistd::getpid(),
            directory: Directory::new().map_err(kernel("keep a list of what is served"))?,
            store: None,
            guard: Arc::new(guard),
            leaving: None,
            stored: Stored::default(),
            pulse: Pulse::default(),
        })
    }

    /// Does what this program is for: `work`, with the sessions of an earlier run, if there are any. As long as nobody can go on with
    /// those, and they would be lost with this process, this does not return.
    ///
    /// # Errors
    /// Those of `work`; and that nobody can go on.
    pub fn run(
        &self,
        work: impl FnOnce() -> Result<ExitCode, Failure>,
    ) -> Result<ExitCode, Failure> {
        let store = self.store.as_ref();
        if let Err(error) = self.stored.restore(&self.directory, &self.guard, store) {
            return self.cannot_go_on(Failure::Usage(format!("their journal: {error}")));
        }
        match work() {
            Err(failure) if self.directory.has_sessions() && store.is_some() => {
                self.cannot_go_on(failure)
            }
            other => other,
        }
    }

    /// The process that is there as long as anybody serves, but for one that nobody replaces.
    #[must_use]
    pub fn keeper(&self) -> Pid {
        self.keeper
    }

    fn cannot_go_on(&self, why: Failure) -> Result<ExitCode, Failure> {
        match &self.leaving {
            None => Ok(hold(&self.guard, &self.pulse, &why.to_string())),
            Some(leaving) => {
                leaving.leave(&self.guard);
                Err(why)
            }
        }
    }

    /// This run has all that an earlier one had left. To be called when somebody is about to serve it.
    pub fn goes_on(&self) {
        if let Some(leaving) = &self.leaving {
            leaving.goes_on(&self.guard);
        }
    }
}

/// What becomes of a keeper whose worker is killed that serves nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alone {
    /// There was something to serve, and it is not served: that is a failure. From this on it would have been.
    Ends(&'static str),
    /// Somebody else may come: another worker waits for them.
    GoesOn,
}

/// Lets workers work, one after the other, until one of them ends by itself. This process has one thread, and holds signals.
/// `work` is done by each worker, in a process of its own: what belongs to the keeper it may use, and must not close. It says whether all is
/// well.
///
/// # Errors
/// [`Failure`]: nothing was served.
pub fn keep(
    kept: &Kept,
    alone: Alone,
    work: impl Fn(&Life) -> Result<bool, Failure>,
) -> Result<ExitCode, Failure> {
    let kernel = |doing| move |errno| ServeError::Kernel { doing, errno };
    let signals = signals().map_err(kernel("wait for signals"))?;
    let mut open = open_descriptors();
    for number in kept.stored.numbers() {
        open.remove(&number);
    }
    let mut life = Life {
        before: 0,
        resumed: kept.directory.has_sessions(),
        stored: kept.stored.clone(),
        hopeless: false,
        since: Instant::now(),
        kept: open,
        found: BTreeSet::new(),
        directory: kept.directory.clone(),
    };
    let mut deaths = Deaths::default();
    let mut told = Vec::new();
    let mut attempts = Attempts::default();
    loop {
        kept.guard.another_begins();
        let worker = match share_descriptors() {
            Ok(Sharing::Child) => {
                begin_life(kept, &mut life);
                let outcome = work(&life);
                end_life(&life, outcome, attempts.failed() == 0);
            }
            Ok(Sharing::Parent(worker)) => worker,
            Err(errno) => {
                let first = attempts.failed() == 0;
                if !attempts.again(&kept.directory) {
                    return Err(kernel("start the process that serves")(errno).into());
                }
                if first {
                    mention(&format!(
                        "uffd-restore: nobody can take over: {errno}: trying again"
                    ));
                }
                continue;
            }
        };
        match wait_for(worker, &signals, kept, alone, &mut told)
            .map_err(kernel("wait for the process that serves"))?
        {
            End::Left => return Ok(ExitCode::from(LEFT)),
            End::Exit(NOT_BEGUN) if attempts.again(&kept.directory) => {}
            End::Exit(_) if kept.store.is_some() && kept.directory.has_sessions() => {
                let why = "the process that serves has ended, and said why";
                return kept.cannot_go_on(Failure::Usage(why.into()));
            }
            End::Exit(NOT_BEGUN) => return Ok(ExitCode::FAILURE),
            End::Exit(code) => return Ok(ExitCode::from(code)),
            End::Killed(signal) => {
                let said = format!("the process that serves was killed by {}", signal.as_str());
                if let Some(well) = kept.directory.outcome() {
                    return Ok(ExitCode::from(u8::from(!well)));
                }
                if let Alone::Ends(when) = alone
                    && !kept.directory.has_sessions()
                {
                    say(&format!("uffd-restore: {said} before {when}"));
                    return Ok(ExitCode::FAILURE);
                }
                life.since = Instant::now();
                life.before += 1;
                attempts = Attempts::default();
                let work = kept.directory.take_work();
                deaths.note(signal, &work, life.since, &kept.directory);
                life.hopeless = deaths.are_many();
                let what = if life.hopeless {
                    "this was once too often, and what is missing is given up (--on-failure)"
                } else {
                    "another one takes over"
                };
                mention(&format!("uffd-restore: {said}: {what}"));
            }
        }
    }
}

/// This process is the worker.
fn begin_life(kept: &Kept, life: &mut Life) {
    // Before it opens anything itself.
    life.look_around();
    // What is sent to the keeper's group, by a terminal above all, the keeper passes on.
    let _ = nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0));
    obey_only(kept.keeper);
    if let Some(store) = &kept.store {
        // The next run goes on. This one would finish, and nobody would know.
        let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
        if nix::unistd::getppid() != kept.keeper {
            let _ = kill(nix::unistd::getpid(), Signal::SIGKILL);
        }
        // Before this one does anything that whoever goes on might notice.
        if let Some(leaving) = &kept.leaving {
            leaving.is_served_by_this_process();
        }
        store.look();
    }
    let _ = SigSet::from(Signal::SIGCHLD).thread_unblock();
    let _ = nix::sys::prctl::set_name(c"uffd-worker");
    let _ = fs::write(OOM, &kept.oom);
    let directory = kept.directory.clone();
    kept.pulse.needs_keeper(move || directory.turns());
    kept.guard.is_served_by_this_process();
}

/// Ends this process, and nothing else: what is open is the keeper's to close. Why it could not take over is said once.
#[expect(
    clippy::exit,
    reason = "what belongs to the keeper must not be dropped"
)]
fn end_life(life: &Life, outcome: Result<bool, Failure>, says: bool) -> ! {
    std::process::exit(match outcome {
        Ok(well) => i32::from(!well),
        Err(failure) => {
            if says {
                say(&format!("uffd-restore: {failure}"));
            }
            // What is wrong with a journal stays wrong.
            let again = !matches!(failure, Failure::Usage(_)) && life.takes_over();
            let again = again && life.directory.has_sessions();
            i32::from(if again { NOT_BEGUN } else { failure.status() })
        }
    })
}

/// How a worker ended.
enum End {
    Exit(u8),
    Killed(Signal),
    /// It was ended, and what it served is left to the next run.
    Left,
}

/// Waits for its end, and passes on the signals that come.
fn wait_for(
    worker: Pid,
    signals: &SignalFd,
    kept: &Kept,
    alone: Alone,
    told: &mut Vec<Signal>,
) -> Result<End, Errno> {
    // What was told to those before it.
    for &signal in &*told {
        let _ = kill(worker, signal);
    }
    loop {
        // SIGCHLD may have come before anybody listened.
        if let Some(end) = end_of(worker)? {
            return Ok(end);
        }
        if kept.guard.restart_if_dead()
            && let Some(leaving) = &kept.leaving
        {
            leaving.guard_is_new(&kept.guard);
        }
        kept.directory.keeper_goes_on();
        let mut waited = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, kept.pulse.patience()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        while let Ok(Some(signal)) = signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) | Err(_) => {}
                Ok(Signal::SIGUSR1) if can_leave(kept, alone) => {
                    let _ = kill(worker, Signal::SIGKILL);
                    while matches!(waitpid(worker, None), Err(Errno::EINTR)) {}
                    return Ok(End::Left);
                }
                Ok(signal) => {
                    let signal = match signal {
                        Signal::SIGUSR1 => Signal::SIGTERM,
                        signal => signal,
                    };
                    let _ = kill(worker, signal);
                    told.push(signal);
                }
            }
        }
    }
}

/// True when all that is served is in the store. Who is just handing over is waited for.
fn can_leave(kept: &Kept, alone: Alone) -> bool {
    // The only target may be standing still, and would be lost with whoever has stopped it.
    if matches!(alone, Alone::Ends(_)) && !kept.directory.has_sessions() {
        return false;
    }
    let until = Instant::now() + HAND_OVER;
    while kept.store.is_some() {
        if kept.guard.all_are_kept() {
            return true;
        }
        if Instant::now() > until {
            mention(
                "uffd-restore: not all that is served is in the descriptor store: it is finished before this service ends",
            );
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// How it ended, if it has.
fn end_of(worker: Pid) -> Result<Option<End>, Errno> {
    loop {
        match waitpid(worker, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => {
                let code = u8::try_from(code & 0xff).unwrap_or(1);
                return Ok(Some(End::Exit(code)));
            }
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(Some(End::Killed(signal))),
            Ok(_) => return Ok(None),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// The signals that are held, and that of a child's end.
pub(super) fn signals() -> Result<SignalFd, Errno> {
    let mut held = SigSet::thread_get_mask()?;
    held.add(Signal::SIGCHLD);
    held.thread_block()?;
    SignalFd::with_flags(&held, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}
