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

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use self::hall::{Hall, Limits};
use self::log::Log;
use self::places::Places;
use self::session::Common;
use self::socket::Entrance;
use super::attaching::{options, wanted};
use super::confining::{confine, powerless_workers};
use super::inherited::Inherited;
use super::limits::{raise_descriptors, share_memory};
use super::readiness::{Pidfile, ReadyDescriptor};
use super::working_sets::WorkingSets;
use crate::cli::restore::{Cli, Listen};
use crate::failure::Failure;
use crate::serve::{self, EndingSignals, Guard, ServeError};
use crate::service::{Allowed, Confinement, Plan, Pulse, born_with};
use crate::source::{self, FrameCache};
use crate::terminal::printable;
use snapshot_format::PAGE_BYTES;

/// Runs `uffd-restore --listen` and `--peer-fd`.
///
/// # Errors
/// [`Failure`]; nobody has been served.
pub(super) fn run(args: &Cli) -> Result<ExitCode, Failure> {
    // Before any descriptor is opened: those that were inherited are known by their numbers.
    let mut inherited = Inherited::default();
    let ready = args.ready_fd;
    let ready = ready
        .map(|number| ReadyDescriptor::take(&mut inherited, number))
        .transpose()?;
    let peer = args.what.peer_fd;
    let peer = peer
        .map(|number| socket::peer(&mut inherited, number))
        .transpose()?;
    let listen = args.what.listen.as_ref();
    let mut entrance = listen
        .map(|listen| Entrance::inherit(&mut inherited, listen))
        .transpose()?
        .flatten();
    let pulse = Pulse::from_environment();
    // Before there is any other thread.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    let kernel = |doing| move |errno| ServeError::Kernel { doing, errno };
    let guard = Guard::start().map_err(kernel("start the process that watches over this one"))?;
    raise_descriptors();
    share_memory();
    let path = args.snapshot.clone().unwrap_or_default();
    let cache = Arc::new(FrameCache::new(args.peers.cache_size.as_u64()));
    let opened = source::open(&path, Some(Arc::clone(&cache)))?;
    let bytes = opened.pages * PAGE_BYTES;
    let sets = WorkingSets::open(wanted(args), &path, opened.snapshot.clone())?;
    // A bar for each of them would be too many.
    let options = serve::Options {
        quiet: true,
        // A VMM lets itself go.
        head_start: Duration::ZERO,
        ..options(args)
    };
    let workers = powerless_workers(&*opened.source, options.jobs)?;
    let confinement = Confinement::prepare(&plan(args))?;
    let signals = EndingSignals::held().map_err(kernel("wait for signals"))?;
    let pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    if let Some(Listen::Path(path)) = listen {
        entrance = Some(Entrance::make(path, &args.peers)?);
    }
    let log = born_with(&[], || Log::start(args.json, args.quiet));
    let log = log.and_then(|log| log).map_err(ServeError::Thread)?;
    let limits = Limits {
        sessions: usize::from(args.peers.max_sessions),
        once: args.peers.once || peer.is_some(),
    };
    let common = Common {
        pages: opened.pages,
        source: opened.source,
        workers,
        guard,
        places: Places::new(limits.sessions),
        sets: Arc::clone(&sets),
        options,
        allowed_uids: args.peers.allow_uids.clone(),
        handshake_timeout: args.peers.handshake_timeout,
        doubts_owner: peer.is_some(),
        log: log.clone(),
        pulse: pulse.clone(),
    };
    let mut hall = Hall::new(common, signals, limits)?;
    confine(confinement);
    if let Some(peer) = peer {
        hall.admit(peer);
    }
    if let Some(ready) = ready {
        ready.ready();
    }
    pulse.ready("VMMs can connect");
    if let Some(listen) = listen {
        let path = printable(&path.display().to_string());
        log.listening(&printable(&listen.to_string()), &path, bytes);
    }
    let good = hall.run(entrance);
    pulse.stopping("no more VMMs are served");
    sets.finish();
    drop(pidfile);
    log.end(hall.served(), cache.counts());
    drop(hall);
    log.finish();
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
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
        },
        // Whose memory it is that somebody hands over.
        looks_into_processes: true,
        removes: args.pidfile.iter().cloned().chain(socket).collect(),
        open: args.no_seccomp,
    }
}
