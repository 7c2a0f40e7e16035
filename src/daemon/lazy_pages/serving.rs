//! The processes that serve, one after the other: the first one receives what `criu restore` restores, and when all of that has come the
//! others go on whenever one is killed.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use snapshot_format::PAGE_BYTES;

use super::Paths;
use super::background::Background;
use super::dump::Dump;
use super::metrics::Metrics;
use super::receiving;
use super::waiting::Entrance;
use crate::cli::lazy_pages::LazyPages;
use crate::cli::restore::{OnFailureName, PrefillName};
use crate::daemon::confining::{confine, powerless_workers};
use crate::daemon::readiness::StatusDescriptor;
use crate::daemon::summary;
use crate::daemon::working_sets::{Records, Wanted, WorkingSets};
use crate::failure::Failure;
use crate::serve::{self, Observer, Orders, Prefill, Report, ServeError, Server};
use crate::service::{Allowed, Confinement, Plan, TO_WRITE, born_with};
use crate::takeover::{self, Blaming, Kept, Life};
use crate::terminal::printable;
use crate::tool;

/// What only the first one has.
pub(super) struct First {
    pub(super) entrance: Entrance,
    pub(super) status: Option<StatusDescriptor>,
    pub(super) background: Option<Background>,
}

/// What the keeper has prepared for its workers.
pub(super) struct Work<'a> {
    args: &'a LazyPages,
    paths: &'a Paths,
    dump: &'a Dump,
    kept: &'a Kept,
}

/// What each of them prepares: everything that can fail.
struct Prepared {
    sets: Arc<WorkingSets>,
    server: Server,
    metrics: Option<Metrics>,
    confinement: Confinement,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        args: &'a LazyPages,
        paths: &'a Paths,
        dump: &'a Dump,
        kept: &'a Kept,
    ) -> Self {
        Self {
            args,
            paths,
            dump,
            kept,
        }
    }

    /// What the first one does. If it is killed before all have been handed over there is no other.
    pub(super) fn begin(&self, first: First) -> Result<bool, Failure> {
        let args = self.args;
        let First {
            entrance,
            status,
            background,
        } = first;
        let metrics = |path: PathBuf| Metrics::start(path, self.kept.keeper());
        let Prepared {
            sets,
            server,
            metrics,
            confinement,
        } = self.prepare(&receiving_too(args), Records::Must, metrics)?;
        let (set, recording) = sets.for_restore();
        let server = server
            .replaying(set)
            .recording(recording)
            .kept(&self.kept.directory, self.kept.journal()?);
        if let Some(status) = status {
            status.say();
        }
        if let Some(background) = background {
            background.ready();
        }
        if !args.quiet {
            summary::announce(self.dump.listening(&entrance.path(), args.json));
        }
        let patience = Some(args.connect_timeout).filter(|time| *time > Duration::ZERO);
        let (stream, host) = entrance.admit(patience)?;
        let host = Arc::new(host);
        let (herald, arrivals) = serve::arrivals()?;
        confine(confinement);
        let expected = Arc::clone(&self.dump.expected);
        let guard = Arc::clone(&self.kept.guard);
        receiving::start(stream, Arc::clone(&host), expected, guard, herald)
            .map_err(ServeError::Thread)?;
        let report = server.serve_all(host, arrivals, self.announcement());
        sets.finish();
        let decoded = self.dump.packed.as_ref();
        let decoded = decoded.map(|packed| packed.cache.counts().decodes);
        Ok(self.say_how_it_went(&report, decoded, metrics))
    }

    /// What the others do.
    pub(super) fn take_over(&self, life: &Life) -> Result<bool, Failure> {
        let args = self.args;
        // First: what fails here can be tried again.
        let metrics = |path: PathBuf| Metrics::go_on(path, self.kept.keeper());
        let Prepared {
            sets,
            server,
            metrics,
            confinement,
        } = self.prepare(&serving_only(args), Records::Not, metrics)?;
        let found = takeover::orphaned(life, &self.kept.guard, args.on_failure.into());
        let Some(mut orphaned) = found.sessions.into_iter().next() else {
            return Ok(!found.lost);
        };
        orphaned.watch(&self.kept.guard);
        confine(confinement);
        if !self.kept.directory.is_said_to_have_begun() {
            self.announcement()(orphaned.owes());
        }
        // What was being recorded is not complete.
        let (set, _) = sets.for_restore();
        let host = orphaned.target();
        let server = server.replaying(set);
        let report = server.go_on(orphaned, host, life.is_hopeless());
        // What those before it have decoded is not known.
        Ok(self.say_how_it_went(&report, None, metrics))
    }

    /// What is to be said, with the bytes that are owed, when all have come.
    fn announcement(&self) -> impl FnOnce(u64) + use<> {
        let serving = self.dump.serving(self.args.json);
        let (quiet, directory) = (self.args.quiet, self.kept.directory.clone());
        move |owed| {
            if !quiet {
                summary::announce_then(serving(owed), move || directory.has_begun());
            }
        }
    }

    /// Says so, and then nobody need do so again if this process is killed.
    fn say_how_it_went(
        &self,
        report: &Report,
        decoded: Option<u64>,
        metrics: Option<Metrics>,
    ) -> bool {
        if let Some(metrics) = metrics {
            metrics.finish(report);
        }
        let name = printable(&self.dump.expected.folder().display().to_string());
        let how = (self.args.quiet, self.args.json);
        let well = summary::done(&name, report, decoded, how);
        self.kept.directory.is_over(well);
        well
    }

    fn prepare(
        &self,
        plan: &Plan,
        records: Records,
        metrics: impl FnOnce(PathBuf) -> Result<Metrics, Failure> + Send,
    ) -> Result<Prepared, Failure> {
        let (args, dump) = (self.args, self.dump);
        let wanted = Wanted {
            records,
            touched: &self.paths.touched,
            prefill: args.prefill,
            runs: 1,
            json: args.json,
            quiet: args.quiet,
        };
        let beside = self.paths.snapshot.clone().unwrap_or_default();
        let snapshot = dump.packed.as_ref();
        let snapshot = snapshot.map(|packed| Arc::clone(&packed.snapshot));
        let sets = WorkingSets::open(wanted, &beside, snapshot)?;
        if self.kept.directory.has_crashed() {
            sets.replay_nothing();
        }
        let options = options(args);
        let source = Blaming::new(Arc::clone(&dump.source), &self.kept.directory);
        let workers = powerless_workers(&source, options.jobs)?;
        let confinement = Confinement::prepare(plan)?;
        let path = args.metrics_file.clone();
        let metrics = path.map(|path| born_with(&TO_WRITE, || metrics(path)));
        let metrics = metrics.transpose().map_err(ServeError::Thread)?;
        let metrics = metrics.transpose()?;
        let server = Server::prepare(&source, workers, Orders::Signals, options)?
            .observed(observer(dump, metrics.as_ref()));
        Ok(Prepared {
            sets,
            server,
            metrics,
            confinement,
        })
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
fn receiving_too(args: &LazyPages) -> Plan {
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

/// What it takes when all have come, and nothing is recorded.
fn serving_only(args: &LazyPages) -> Plan {
    Plan {
        allowed: Allowed {
            files: args.metrics_file.is_some(),
            ..Allowed::default()
        },
        // Which child it was that needs a page that cannot be served.
        looks_into_processes: args.on_failure == OnFailureName::Kill,
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
