//! `--pid`: attach to a process, serve it, say how it went.

use std::process::ExitCode;
use std::sync::Arc;

use snapshot_format::PAGE_BYTES;

use super::confining::{confine, powerless_workers};
use super::inherited::Inherited;
use super::limits::raise_descriptors;
use super::readiness::{Pidfile, ReadyDescriptor};
use super::summary::{self, Serving};
use super::working_sets::{Wanted, WorkingSets};
use crate::cli::restore::{Cli, OnFailureName, PlacementName, PrefillName};
use crate::failure::Failure;
use crate::handover::{self, Attached};
use crate::serve::{self, Guard, Orders, Prefill, ServeError, Server};
use crate::service::{Allowed, Confinement, Plan, Pulse};
use crate::source::SnapshotSource;
use crate::terminal::mention;
use crate::tool;

pub(super) fn run(args: &Cli) -> Result<ExitCode, Failure> {
    // Both are there unless --check is.
    let path = args.snapshot.clone().unwrap_or_default();
    let pid = args.what.pid.unwrap_or_default();
    let mut inherited = Inherited::default();
    let ready = args.ready_fd;
    let ready = ready
        .map(|number| ReadyDescriptor::take(&mut inherited, number))
        .transpose()?;
    let pulse = Pulse::from_environment();
    // Before there is any other thread, and before the target is touched.
    serve::hold_signals()
        .map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    // A copy of this one thread.
    let guard = Guard::start().map_err(|errno| ServeError::Kernel {
        doing: "start the process that watches over this one",
        errno,
    })?;
    raise_descriptors();
    let snapshot = tool::open(&path)?;
    let source = SnapshotSource::new(Arc::clone(&snapshot));
    let sets = WorkingSets::open(wanted(args), &path, Some(Arc::clone(&snapshot)))?;
    let options = options(args);
    let on_failure = options.on_failure;
    let workers = powerless_workers(&source, options.jobs)?;
    let confinement = Confinement::prepare(&plan(args))?;
    let (set, recording) = sets.for_restore();
    let server = Server::prepare(&source, workers, Orders::Signals, options)?
        .replaying(set)
        .recording(recording)
        .observed(pulse.observer());
    let pidfile = args.pidfile.as_deref().map(Pidfile::write).transpose()?;
    let options = handover::Options {
        pid,
        choices: &args.regions,
        stop_timeout: args.stop_timeout,
        on_failure,
    };
    let attached = handover::attach(&snapshot, &source, &options)?;
    let serving = Serving::new(&attached, &path);
    let Attached {
        handover, standing, ..
    } = attached;
    let target = handover.target.describe();
    let mut released = None;
    let report = server.serve(handover, || {
        let standing = standing.release(Some(&guard));
        confine(confinement);
        if let Ok(released) = &standing {
            if let Some(ready) = ready {
                ready.ready();
            }
            pulse.ready(&serving.status());
            summary::announce(serving.line(released.stood_still, args.json));
            if released.watched.is_none() {
                let what = "nobody watches over it: if this program is killed, what is missing in it becomes zeros";
                mention(&format!("uffd-restore: {target}: {what}"));
            }
        }
        released = Some(standing);
    });
    // Nothing is owed any more: whatever becomes of this program, the target goes on.
    let released = released.transpose().map(drop);
    pulse.stopping(&format!("{target}: {}", summary::how(report.outcome)));
    sets.finish();
    drop(pidfile);
    let status = summary::done(&target, &report, None, (args.quiet, args.json));
    released?;
    Ok(status)
}

/// What serving one process takes.
fn plan(args: &Cli) -> Plan {
    Plan {
        allowed: Allowed {
            files: args.touched.record_working_set.is_some(),
            ..Allowed::default()
        },
        // Which child it was that needs a page that cannot be served.
        looks_into_processes: args.on_failure == OnFailureName::Kill,
        removes: args.pidfile.iter().cloned().collect(),
        open: args.no_seccomp,
    }
}

/// Which working sets are to be used and made, as it was typed.
pub(super) fn wanted(args: &Cli) -> Wanted<'_> {
    Wanted {
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
