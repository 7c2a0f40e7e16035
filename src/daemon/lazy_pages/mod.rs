//! `lazy-pages`: what `criu lazy-pages` does, with its command line, its socket, its signs of readiness and its exit status.
//!
//! | file           | holds                                                              |
//! |----------------|--------------------------------------------------------------------|
//! | `dump.rs`      | the images: what is owed to whom                                   |
//! | `content.rs`   | where those pages are: in the images, or in a snapshot             |
//! | `waiting.rs`   | the socket, until `criu restore` connects                          |
//! | `background.rs` | going on in the background, and standard error                    |
//! | `receiving.rs` | what comes from `criu restore`, on a thread of its own             |
//! | `metrics.rs`   | numbers for a monitoring system                                    |

mod background;
mod content;
mod dump;
mod metrics;
mod receiving;
mod waiting;

use std::path::{Path, PathBuf, absolute};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use snapshot_format::PAGE_BYTES;

use self::background::{Background, Began};
use self::dump::Dump;
use self::metrics::Metrics;
use self::waiting::Entrance;
use super::confining::{confine, powerless_workers};
use super::inherited::Inherited;
use super::limits::{raise_descriptors, share_memory};
use super::readiness::StatusDescriptor;
use super::summary;
use super::working_sets::{Records, Wanted, WorkingSets};
use crate::cli::lazy_pages::LazyPages;
use crate::cli::restore::{PrefillName, SetName, Touched};
use crate::failure::Failure;
use crate::serve::{self, Guard, Observer, Orders, Prefill, ServeError, Server};
use crate::service::{Allowed, Confinement, Plan, TO_WRITE, born_with};
use crate::terminal::printable;
use crate::tool;

/// Runs `uffd-restore lazy-pages`.
///
/// # Errors
/// [`Failure`]; nobody has been served.
pub(super) fn run(args: &LazyPages) -> Result<ExitCode, Failure> {
    args.check().map_err(Failure::Usage)?;
    // Before any descriptor is opened: what was inherited is known by its number.
    let mut inherited = Inherited::default();
    let status = args.status_fd;
    let status = status
        .map(|number| StatusDescriptor::take(&mut inherited, number))
        .transpose()?;
    // Before there is any other thread.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    // Each file of the images takes a descriptor, and each process.
    let descriptors = raise_descriptors();
    share_memory();
    let paths = Paths::of(args)?;
    // What is wrong with them is found out before anybody can connect.
    let dump = Dump::open(&paths.images, paths.snapshot.as_deref(), args)?;
    dump.refuse_without_room(descriptors)?;
    std::env::set_current_dir(&paths.work).map_err(Failure::io("go to", &paths.work))?;
    let log = background::log(args.log_file.as_deref())?;
    let entrance = Entrance::make(&paths.work)?;
    let background = match args.daemon {
        true => match Background::begin(args.pidfile.as_deref(), log, args.json)? {
            Began::Here(background) => Some(background),
            Began::There(code) => {
                // The socket is the other's now.
                std::mem::forget(entrance);
                return Ok(code);
            }
        },
        false => None,
    };
    let prepared = Prepared::new(args, &paths, &dump, &entrance)?;
    if let Some(status) = status {
        status.say();
    }
    if let Some(background) = background {
        background.ready();
    }
    if !args.quiet {
        summary::announce(dump.listening(&entrance.path(), args.json));
    }
    prepared.serve(args, dump, entrance)
}

/// Where everything is, whatever directory this program goes to.
struct Paths {
    images: PathBuf,
    work: PathBuf,
    snapshot: Option<PathBuf>,
    touched: Touched,
}

impl Paths {
    fn of(args: &LazyPages) -> Result<Self, Failure> {
        let whole = |path: &Path| absolute(path).map_err(Failure::io("find", path));
        let images = whole(&args.images_dir)?;
        let mut touched = args.touched.clone();
        if let Some(SetName::File(path)) = &mut touched.working_set {
            *path = whole(path)?;
        }
        if let Some(Some(path)) = &mut touched.record_working_set {
            *path = whole(path)?;
        }
        Ok(Self {
            work: args.work_dir.as_deref().map_or(Ok(images.clone()), whole)?,
            snapshot: args.snapshot.as_deref().map(whole).transpose()?,
            images,
            touched,
        })
    }
}

/// Everything that can fail, before anybody has to do with it.
struct Prepared {
    guard: Guard,
    sets: Arc<WorkingSets>,
    server: Server,
    metrics: Option<Metrics>,
    confinement: Confinement,
}

impl Prepared {
    fn new(
        args: &LazyPages,
        paths: &Paths,
        dump: &Dump,
        entrance: &Entrance,
    ) -> Result<Self, Failure> {
        let guard = Guard::start_with(entrance.unread()?).map_err(|errno| ServeError::Kernel {
            doing: "start the process that watches over this one",
            errno,
        })?;
        let wanted = Wanted {
            records: Records::Must,
            touched: &paths.touched,
            prefill: args.prefill,
            runs: 1,
            json: args.json,
            quiet: args.quiet,
        };
        let beside = paths.snapshot.clone().unwrap_or_default();
        let snapshot = dump.packed.as_ref();
        let snapshot = snapshot.map(|packed| Arc::clone(&packed.snapshot));
        let sets = WorkingSets::open(wanted, &beside, snapshot)?;
        let options = options(args);
        let workers = powerless_workers(&*dump.source, options.jobs)?;
        let confinement = Confinement::prepare(&plan(args))?;
        let metrics = args
            .metrics_file
            .as_deref()
            .map(|path| born_with(&TO_WRITE, || Metrics::start(path)));
        let metrics = metrics.transpose().map_err(ServeError::Thread)?;
        let metrics = metrics.transpose()?;
        let (set, recording) = sets.for_restore();
        let server = Server::prepare(&*dump.source, workers, Orders::Signals, options)?
            .replaying(set)
            .recording(recording)
            .observed(observer(dump, metrics.as_ref()));
        Ok(Self {
            guard,
            sets,
            server,
            metrics,
            confinement,
        })
    }

    fn serve(self, args: &LazyPages, dump: Dump, entrance: Entrance) -> Result<ExitCode, Failure> {
        let name = printable(&dump.folder().display().to_string());
        let patience = Some(args.connect_timeout).filter(|time| *time > Duration::ZERO);
        let (stream, host) = entrance.admit(patience)?;
        let host = Arc::new(host);
        let (herald, arrivals) = serve::arrivals()?;
        let serving = dump.serving(args.json);
        let cache = dump.packed.as_ref().map(|packed| Arc::clone(&packed.cache));
        confine(self.confinement);
        let from = Arc::clone(&host);
        receiving::start(stream, from, dump, self.guard, herald).map_err(ServeError::Thread)?;
        let quiet = args.quiet;
        let report = self.server.serve_all(host, arrivals, move |owed| {
            if !quiet {
                summary::announce(serving(owed));
            }
        });
        self.sets.finish();
        if let Some(metrics) = self.metrics {
            metrics.finish(&report);
        }
        let decoded = cache.map(|cache| cache.counts().decodes);
        let how = (args.quiet, args.json);
        let well = summary::done(&name, &report, decoded, how);
        Ok(ExitCode::from(u8::from(!well)))
    }
}

/// What is forked has pages in common with who forked it, and from then on it is worth something to keep what is decoded.
fn observer(dump: &Dump, metrics: Option<&Metrics>) -> Option<Observer> {
    let shares = dump
        .packed
        .as_ref()
        .map(|packed| Arc::clone(&packed.shares));
    let mut told = metrics.map(Metrics::observer);
    Some(Observer(Box::new(move |so_far| {
        if let Some(shares) = shares.as_ref().filter(|_| so_far.counts.forks > 0) {
            shares.store(true, Ordering::Relaxed);
        }
        if let Some(told) = &mut told {
            told.0(so_far);
        }
    })))
}

/// What it takes to serve what `criu restore` restores, while it does.
fn plan(args: &LazyPages) -> Plan {
    Plan {
        allowed: Allowed {
            connections: true,
            // They are agreed on when they come.
            agreements: true,
            files: args.touched.record_working_set.is_some() || args.metrics_file.is_some(),
            shelf: false,
        },
        // Which process is which.
        looks_into_processes: true,
        removes: Vec::new(),
        open: args.no_seccomp,
    }
}

/// How to serve, as it was typed.
fn options(args: &LazyPages) -> serve::Options {
    let records = args.touched.record_working_set.is_some();
    serve::Options {
        jobs: tool::threads(args.jobs),
        prefill: match args.prefill {
            Some(PrefillName::None | PrefillName::WorkingSet) => Prefill::None,
            Some(PrefillName::All) | None => Prefill::All,
        },
        prefill_rate: args.prefill_rate.map(|rate| rate.as_u64()),
        prefill_urgent: true,
        prefill_delay: args.prefill_delay,
        record_first: records && args.prefill.is_none(),
        // Nobody stands still for us.
        head_start: Duration::ZERO,
        read_ahead: args.read_ahead.as_u64() / PAGE_BYTES,
        on_failure: args.on_failure.into(),
        finish_within: args.finish_within,
        // The kernel does not say which thread it is that faults, for criu does not ask for that; but many processes have only one.
        follow: true,
        quiet: args.quiet || args.json || args.log_file.is_some() || args.daemon,
    }
}
