//! `--pid`: attach to a process, serve it, say how it went.

use std::cell::{Cell, OnceCell};
use std::fs::File;
use std::mem::ManuallyDrop;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use snapshot_format::{PAGE_BYTES, Snapshot};

use super::confining::{WorkersStarting, begin_workers, confine};
use super::inherited::Inherited;
use super::limits::raise_descriptors;
use super::readiness::{Pidfile, ReadyDescriptor};
use super::resuming::{beginning, clean_up};
use super::summary::{self, Serving};
use super::working_sets::{Records, Wanted, WorkingSets};
use crate::cli::restore::{Cli, OnFailureName, PlacementName, PrefillName};
use crate::failure::Failure;
use crate::handover::{self, AttachError, Attached};
use crate::serve::{self, Orders, Prefill, Report, Server};
use crate::service::{Allowed, Confinement, Plan, Pulse};
use crate::source::SnapshotSource;
use crate::takeover::{self, Alone, Blaming, Kept, Life, Resumed};
use crate::terminal::mention;
use crate::tool;
use crate::tracee::TraceError;

pub(super) fn run(args: &Cli, resumed: Option<Resumed>) -> Result<ExitCode, Failure> {
    // It is there unless --check is.
    let path = args.snapshot.clone().unwrap_or_default();
    let mut inherited = Inherited::default();
    let ready = args.ready_fd;
    let ready = ready
        .map(|number| ReadyDescriptor::take(&mut inherited, number))
        .transpose()?;
    let pulse = Pulse::from_environment();
    // Before there is any other thread, and before the target is touched.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    raise_descriptors();
    // The process that attaches is another one, and would not notice.
    let pid = args.what.pid.unwrap_or_default();
    if u32::try_from(pid) == Ok(std::process::id()) {
        return Err(AttachError::from(TraceError::Myself { pid }).into());
    }
    let beginning = beginning(args, &mut inherited, &pulse, resumed)?;
    let kept = Kept::start(&pulse, beginning)?;
    let status = kept.run(|| keep(args, path, ready, pulse, &kept));
    clean_up(&kept);
    status
}

/// The keeper's life.
fn keep(
    args: &Cli,
    path: PathBuf,
    ready: Option<ReadyDescriptor>,
    pulse: Pulse,
    kept: &Kept,
) -> Result<ExitCode, Failure> {
    let snapshot = tool::open(&path)?;
    kept.check_resumed()?;
    let work = Work {
        args,
        path,
        source: SnapshotSource::new(Arc::clone(&snapshot)),
        snapshot,
        pulse,
        kept,
    };
    let pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    // The first worker closes it, for the keeper as well.
    let ready = ManuallyDrop::new(Cell::new(ready));
    let status = takeover::keep(kept, Alone::Ends("it served anything"), |life| {
        // To the others its number means something else.
        let ready = life.is_first().then(|| ready.take()).flatten();
        if life.takes_over() {
            work.take_over(life, ready)
        } else {
            work.attach(ready)
        }
    });
    drop(pidfile);
    status
}

/// What the keeper has prepared for its workers.
struct Work<'a> {
    args: &'a Cli,
    path: PathBuf,
    snapshot: Arc<Snapshot<File>>,
    source: SnapshotSource,
    pulse: Pulse,
    kept: &'a Kept,
}

impl Work<'_> {
    /// What the first one does.
    fn attach(&self, ready: Option<ReadyDescriptor>) -> Result<bool, Failure> {
        let args = self.args;
        let Prepared {
            sets,
            server,
            confinement,
            workers,
        } = self.prepare(Records::Must)?;
        workers.wait()?;
        let (set, recording) = sets.for_restore();
        let server = server
            .replaying(set)
            .recording(recording)
            .kept(&self.kept.directory, self.kept.journal()?);
        let options = handover::Options {
            pid: args.what.pid.unwrap_or_default(),
            choices: &args.regions,
            stop_timeout: args.stop_timeout,
            on_failure: args.on_failure.into(),
            leaves: self.kept.to_be_left(),
        };
        let attached = handover::attach(&self.snapshot, &self.source, &options)?;
        let known = attached
            .left
            .map(|number| self.kept.was_left(options.pid, number));
        let server = match known {
            Some(Err(failure)) => {
                // Its memory is gone already: it is served as if there were no such folder.
                mention(&format!(
                    "uffd-restore: {failure}: if all of this program is killed, the target is, too"
                ));
                server.stored(None)
            }
            _ => server,
        };
        let serving = Serving::new(&attached, &self.path);
        let Attached {
            handover, standing, ..
        } = attached;
        let target = handover.target.describe();
        let released = OnceCell::new();
        let let_go = || {
            let standing = standing.release(Some(&self.kept.guard));
            confine(confinement);
            let _ = released.set(standing);
        };
        let report = server.serve(handover, let_go, || {
            let Some(Ok(released)) = released.get() else {
                return;
            };
            if let Some(ready) = ready {
                ready.ready();
            }
            self.pulse.ready(&serving.status());
            summary::announce(serving.line(released.stood_still, args.json));
            if released.watched.is_none() {
                let what = "nobody watches over it: if this program is killed, what is missing in it becomes zeros";
                mention(&format!("uffd-restore: {target}: {what}"));
            }
        });
        // Nothing is owed any more: whatever becomes of this program, the target goes on.
        let released = released.into_inner().transpose().map(drop);
        self.pulse
            .stopping(&format!("{target}: {}", summary::how(report.outcome)));
        sets.finish();
        let well = self.say_how_it_went(&target, report);
        released?;
        Ok(well)
    }

    /// What the others do.
    fn take_over(&self, life: &Life, ready: Option<ReadyDescriptor>) -> Result<bool, Failure> {
        let args = self.args;
        // First: what fails here can be tried again.
        let Prepared {
            sets,
            server,
            confinement,
            workers,
        } = self.prepare(Records::Not)?;
        let found = takeover::orphaned(life, &self.kept.guard, args.on_failure.into());
        let Some(mut orphaned) = found.sessions.into_iter().next() else {
            return Ok(!found.lost);
        };
        orphaned.watch(&self.kept.guard);
        self.kept.goes_on();
        let target = orphaned.target();
        let name = target.describe();
        workers.wait_or_do_without();
        confine(confinement);
        self.pulse.ready(&format!("goes on serving {name}"));
        if let Some(ready) = ready {
            ready.ready();
        }
        if life.is_first() {
            summary::announce(summary::goes_on(&target, orphaned.owes(), args.json));
        }
        if args.touched.record_working_set.is_some() && life.deaths() < 2 {
            mention(&format!(
                "uffd-restore: {name}: what was touched is not recorded, for the process that did so is dead"
            ));
        }
        let (set, _) = sets.for_restore();
        let server = server.replaying(set);
        let report = server.go_on(orphaned, target, life.is_hopeless());
        self.pulse
            .stopping(&format!("{name}: {}", summary::how(report.outcome)));
        Ok(self.say_how_it_went(&name, report))
    }

    /// Says so, and then nobody need do so again if this process is killed.
    #[expect(clippy::needless_pass_by_value, reason = "dropped when all is said")]
    fn say_how_it_went(&self, target: &str, report: Report) -> bool {
        let how = (self.args.quiet, self.args.json);
        let well = summary::done(target, &report, None, how);
        self.kept.directory.is_over(well);
        well
    }

    fn prepare(&self, records: Records) -> Result<Prepared, Failure> {
        let args = self.args;
        let snapshot = Some(Arc::clone(&self.snapshot));
        let sets = WorkingSets::open(wanted(args, records), &self.path, snapshot)?;
        if self.kept.directory.has_crashed() {
            sets.replay_nothing();
        }
        let options = options(args);
        let source = Arc::new(self.source.clone());
        let source = Blaming::new(source, &self.kept.directory);
        let (pool, workers) = begin_workers(&source, options.jobs)?;
        let confinement = Confinement::prepare(&plan(args, self.kept))?;
        let server = Server::prepare(&source, pool, Orders::Signals, options)?
            .observed(self.pulse.observer())
            .stored(self.kept.store.as_ref());
        Ok(Prepared {
            sets,
            server,
            confinement,
            workers,
        })
    }
}

/// What it takes to serve.
struct Prepared {
    sets: Arc<WorkingSets>,
    server: Server,
    confinement: Confinement,
    /// To be waited for.
    workers: WorkersStarting,
}

/// What serving one process takes.
fn plan(args: &Cli, kept: &Kept) -> Plan {
    Plan {
        allowed: Allowed {
            files: args.touched.record_working_set.is_some(),
            shelf: kept.to_be_left().is_some(),
            ..Allowed::default()
        },
        // Which child it was that needs a page that cannot be served.
        looks_into_processes: args.on_failure == OnFailureName::Kill,
        removes: args.pidfile.iter().cloned().collect(),
        open: args.no_seccomp,
    }
}

/// Which working sets are to be used and made, as it was typed.
pub(super) fn wanted(args: &Cli, records: Records) -> Wanted<'_> {
    Wanted {
        records,
        touched: &args.touched,
        prefill: args.prefill,
        runs: args.record_runs,
        json: args.json,
        quiet: args.quiet,
    }
}

/// How to serve, as it was typed.
pub(super) fn options(args: &Cli) -> serve::Options {
    serve::Options {
        jobs: tool::threads(args.jobs),
        prefill: match args.prefill {
            Some(PrefillName::All) => Prefill::All,
            _ => Prefill::None,
        },
        prefill_urgent: false,
        prefill_delay: args.prefill_delay,
        head_start: args.head_start,
        prefill_rate: args.prefill_rate.map(|rate| rate.as_u64()),
        record_first: false,
        read_ahead: args.read_ahead.as_u64() / PAGE_BYTES,
        on_failure: args.on_failure.into(),
        finish_within: args.finish_within,
        follow: args.placement == PlacementName::Auto,
        quiet: args.quiet || args.json,
    }
}
