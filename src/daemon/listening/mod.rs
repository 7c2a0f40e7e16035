//! `--listen`, `--peer-fd`: VMMs come, hand over their memory, and are served from one snapshot.
//!
//! | file         | holds                                                           |
//! |--------------|-----------------------------------------------------------------|
//! | `socket.rs`  | where they come in                                              |
//! | `hall.rs`    | who is there: the first thread's loop                           |
//! | `session.rs` | one of them, from its connection to its end                     |
//! | `places.rs`  | how many of them are served at a time                           |
//! | `log.rs`     | what is said about them                                         |

mod hall;
mod log;
mod places;
mod session;
mod socket;

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use self::hall::{Hall, Limits};
use self::log::Log;
use self::places::Places;
use self::session::Common;
use self::socket::Entrance;
use super::attaching::{options, wanted};
use super::confining::{WorkersStarting, begin_workers, confine};
use super::inherited::Inherited;
use super::limits::{raise_descriptors, share_memory};
use super::readiness::{Pidfile, ReadyDescriptor};
use super::resuming::{beginning, clean_up};
use super::working_sets::{Records, WorkingSets};
use crate::cli::restore::{Cli, Listen};
use crate::failure::Failure;
use crate::serve::{self, EndingSignals, ServeError};
use crate::service::{Allowed, Confinement, Plan, Pulse, born_with};
use crate::source::{self, FrameCache, Opened};
use crate::takeover::{self, Alone, Blaming, Found, Kept, Life, Resumed};
use crate::terminal::{mention, printable};
use crate::tool;
use snapshot_format::PAGE_BYTES;

/// Runs `uffd-restore --listen` and `--peer-fd`.
///
/// # Errors
/// [`Failure`]; nobody has been served.
pub(super) fn run(args: &Cli, resumed: Option<Resumed>) -> Result<ExitCode, Failure> {
    // Before any descriptor is opened: those that were inherited are known by their numbers.
    let mut inherited = Inherited::default();
    let ready = args.ready_fd;
    let ready = ready
        .map(|number| ReadyDescriptor::take(&mut inherited, number))
        .transpose()?;
    // Of a run that is gone on with, it was that one's.
    let peer = args.what.peer_fd.filter(|_| resumed.is_none());
    let peer = peer
        .map(|number| socket::peer(&mut inherited, number))
        .transpose()?;
    let listen = args.what.listen.as_ref();
    let entrance = listen
        .map(|listen| Entrance::inherit(&mut inherited, listen))
        .transpose()?
        .flatten();
    let pulse = Pulse::from_environment();
    // Before there is any other thread.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    raise_descriptors();
    let beginning = beginning(args, &mut inherited, &pulse, resumed)?;
    let kept = Kept::start(&pulse, beginning)?;
    let given = Given {
        first: First { ready, peer },
        entrance,
    };
    let status = kept.run(|| keep(args, given, pulse, &kept));
    clean_up(&kept);
    status
}

/// What this program was given by who started it.
struct Given {
    first: First,
    entrance: Option<Entrance>,
}

/// The keeper's life.
fn keep(args: &Cli, given: Given, pulse: Pulse, kept: &Kept) -> Result<ExitCode, Failure> {
    let Given {
        first,
        mut entrance,
    } = given;
    share_memory();
    let path = args.snapshot.clone().unwrap_or_default();
    let cache = Arc::new(FrameCache::new(args.peers.cache_size.as_u64()));
    let opened = source::open(&path, Some(Arc::clone(&cache)))?;
    let pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    if let Some(Listen::Path(path)) = &args.what.listen {
        entrance = Some(Entrance::make(path, &args.peers)?);
    }
    let work = Work {
        args,
        path,
        cache,
        opened,
        entrance,
        pulse,
        kept,
    };
    // The first worker closes them, for the keeper as well.
    let first = ManuallyDrop::new(Cell::new(Some(first)));
    let status = takeover::keep(kept, Alone::GoesOn, |life| {
        // To the others their numbers mean something else: not even to be closed.
        work.run(life, life.is_first().then(|| first.take()).flatten())
    });
    drop(pidfile);
    status
}

/// What only the first worker has.
struct First {
    ready: Option<ReadyDescriptor>,
    peer: Option<UnixStream>,
}

/// What the keeper has prepared for its workers.
struct Work<'a> {
    args: &'a Cli,
    path: PathBuf,
    cache: Arc<FrameCache>,
    opened: Opened,
    entrance: Option<Entrance>,
    pulse: Pulse,
    kept: &'a Kept,
}

impl Work<'_> {
    /// What each of them does.
    fn run(&self, life: &Life, first: Option<First>) -> Result<bool, Failure> {
        let args = self.args;
        let confinement = Confinement::prepare(&plan(args))?;
        let log = born_with(&[], || Log::start(args.json, args.quiet));
        let log = log.and_then(|log| log).map_err(ServeError::Thread)?;
        let (ready, peer) = match first {
            Some(First { ready, peer }) => (ready, peer),
            // It was closed by the worker before, and its number may mean something else.
            None => (None, None),
        };
        let records = if life.takes_over() {
            Records::May
        } else {
            Records::Must
        };
        let (common, workers) = self.common(log.clone(), records)?;
        let sets = Arc::clone(&common.sets);
        let signals = EndingSignals::held().map_err(|errno| ServeError::Kernel {
            doing: "wait for signals",
            errno,
        })?;
        let limits = Limits {
            sessions: usize::from(args.peers.max_sessions),
            once: args.peers.once || args.what.peer_fd.is_some(),
        };
        let mut hall = Hall::new(common, signals, limits)?;
        // Last: what fails before can be tried again.
        let Found {
            sessions: orphaned,
            lost,
        } = self.take_over(life);
        if orphaned.is_empty() {
            workers.wait()?;
        } else {
            workers.wait_or_do_without();
        }
        confine(confinement);
        if life.is_first() && !orphaned.is_empty() {
            let vmms = tool::counted(orphaned.len() as u64, "VMM");
            mention(&format!("uffd-restore: goes on serving {vmms}"));
        }
        for orphaned in orphaned {
            hall.take_over(orphaned, life.is_hopeless());
        }
        if let Some(peer) = peer {
            hall.admit(peer);
        }
        if let Some(ready) = ready {
            ready.ready();
        }
        self.pulse.ready("VMMs can connect");
        if let Some(listen) = args.what.listen.as_ref().filter(|_| life.is_first()) {
            let path = printable(&self.path.display().to_string());
            let bytes = self.opened.pages * PAGE_BYTES;
            log.listening(&printable(&listen.to_string()), &path, bytes);
        }
        let good = hall.run(self.entrance.as_ref());
        self.pulse.stopping("no more VMMs are served");
        sets.finish();
        log.end(hall.served(), self.cache.counts());
        drop(hall);
        log.finish();
        Ok(good && !lost)
    }

    /// The sessions of the worker before.
    fn take_over(&self, life: &Life) -> Found {
        if !life.takes_over() {
            return Found::default();
        }
        let found = takeover::orphaned(life, &self.kept.guard, self.args.on_failure.into());
        self.kept.goes_on();
        found
    }

    fn common(&self, log: Log, records: Records) -> Result<(Common, WorkersStarting), Failure> {
        let args = self.args;
        let wanted = wanted(args, records);
        let sets = WorkingSets::open(wanted, &self.path, self.opened.snapshot.clone())?;
        if self.kept.directory.has_crashed() {
            sets.replay_nothing();
        }
        let options = serve::Options {
            // A bar for each of them would be too many.
            quiet: true,
            // A VMM lets itself go.
            head_start: Duration::ZERO,
            ..options(args)
        };
        let source = Blaming::new(Arc::clone(&self.opened.source), &self.kept.directory);
        let (workers, starting) = begin_workers(&source, options.jobs)?;
        let common = Common {
            pages: self.opened.pages,
            workers,
            source: Arc::new(source),
            guard: Arc::clone(&self.kept.guard),
            directory: self.kept.directory.clone(),
            store: self.kept.store.clone(),
            places: Places::new(usize::from(args.peers.max_sessions)),
            sets,
            options,
            allowed_uids: args.peers.allow_uids.clone(),
            handshake_timeout: args.peers.handshake_timeout,
            doubts_owner: args.what.peer_fd.is_some(),
            log,
            pulse: self.pulse.clone(),
        };
        Ok((common, starting))
    }
}

/// What it takes to serve VMMs, and to receive those that come meanwhile.
fn plan(args: &Cli) -> Plan {
    let socket = args.what.listen.as_ref().and_then(|listen| match listen {
        Listen::Path(path) => Some(path.clone()),
        Listen::Descriptor(_) | Listen::Systemd => None,
    });
    Plan {
        allowed: Allowed {
            connections: true,
            agreements: false,
            files: args.touched.record_working_set.is_some(),
            // Those of connections are allowed.
            shelf: false,
        },
        // Whose memory it is that somebody hands over.
        looks_into_processes: true,
        removes: args.pidfile.iter().cloned().chain(socket).collect(),
        open: args.no_seccomp,
    }
}
