//! What is needed to serve a target, and serving it from the first moment to the last.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use snapshot_format::working_set::WorkingSet;

use super::arriving::Arrivals;
use super::engine::{Engine, LOOK_AROUND, reserve};
use super::orphaned::Orphaned;
use super::poller::Poller;
use super::pool::{Pool, Workers};
use super::supply::Supply;
use super::{Handover, Observer, Options, Orders, Recording, Report, ServeError, Target, cannot};
use crate::session::Journal;
use crate::source::PageSource;
use crate::takeover::{Directory, Store};

/// Descriptors that serve a target, made before it is touched: once its memory is owed there is no way back, and
/// nothing that can fail may be left to do.
#[expect(
    missing_debug_implementations,
    reason = "descriptors, nothing to look at"
)]
pub struct Server {
    pub(super) supply: Supply,
    pub(super) poller: Poller,
    pub(super) reserve: Option<OwnedFd>,
    pub(super) options: Options,
    pub(super) set: Option<Arc<WorkingSet<File>>>,
    pub(super) recording: Option<Recording>,
    pub(super) observer: Option<Observer>,
    /// Where it is to stand that the session is kept, and in what.
    pub(super) keeping: Option<(Directory, Journal)>,
    pub(super) store: Option<Store>,
}

impl Server {
    /// Opens what is needed.
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn prepare(
        source: &dyn PageSource,
        workers: Workers,
        orders: Orders,
        options: Options,
    ) -> Result<Self, ServeError> {
        let pool = Pool::of(workers)?;
        let poller =
            Poller::new(pool.bell(), orders, LOOK_AROUND).map_err(cannot("wait for events"))?;
        Ok(Self {
            supply: Supply::new(source, pool),
            poller,
            reserve: reserve(),
            options,
            set: None,
            recording: None,
            observer: None,
            keeping: None,
            store: None,
        })
    }

    /// The same, which installs what was touched last time before it is asked for. The set is of the snapshot that the source is.
    #[must_use]
    pub fn replaying(self, set: Option<Arc<WorkingSet<File>>>) -> Self {
        Self { set, ..self }
    }

    /// The same, which records what is touched.
    #[must_use]
    pub fn recording(self, recording: Option<Recording>) -> Self {
        Self { recording, ..self }
    }

    /// The same, which tells somebody now and then how it goes.
    #[must_use]
    pub fn observed(self, observer: Option<Observer>) -> Self {
        Self { observer, ..self }
    }

    /// The same, which another process can go on with when this one is killed, by what is in a journal.
    #[must_use]
    pub fn kept(self, directory: &Directory, journal: Journal) -> Self {
        let keeping = Some((directory.clone(), journal));
        Self { keeping, ..self }
    }

    /// The same, which the next run of this program can go on with when all of it is killed.
    #[must_use]
    pub fn stored(self, store: Option<&Store>) -> Self {
        let store = store.cloned();
        Self { store, ..self }
    }

    /// Serves a target until nothing is owed to it or its descendants any more, or they have ended. `let_go` is called when
    /// it is being served, and may run; `ready` when it survives this program, if it does. There is no error that is not part of the report.
    pub fn serve(self, handover: Handover, let_go: impl FnOnce(), ready: impl FnOnce()) -> Report {
        let engine = Engine::new(self, Arc::clone(&handover.target));
        drive(engine, |engine, started| match engine.take_over(handover) {
            Ok(()) => {
                engine.begin_replay();
                engine.replay_before(started);
                let_go();
                engine.leave_to_store();
                ready();
                engine.run();
            }
            Err(errno) => engine.end_at_once(&format!("cannot watch it: {errno}")),
        })
    }

    /// Goes on serving a session. If `hopeless`, it is given up: nothing that is missing becomes zeros.
    pub fn go_on(self, orphaned: Orphaned, target: Arc<Target>, hopeless: bool) -> Report {
        let mut engine = Engine::new(self, target);
        let Orphaned {
            recovered,
            roots,
            entry,
            useless,
            ..
        } = orphaned;
        if let Some(store) = &engine.store {
            for name in useless {
                store.forget(name);
            }
        }
        engine.entry = Some(entry);
        drive(engine, |engine, _| match engine.go_on(recovered, roots) {
            Ok(()) if hopeless => engine.end_at_once("too many processes died of serving it"),
            Ok(()) => {
                engine.leave_to_store();
                engine.begin_replay();
                engine.run();
            }
            Err(errno) => engine.end_at_once(&format!("cannot watch it: {errno}")),
        })
    }

    /// Serves the processes that `host` hands over one after the other, as [`Server::serve`] does one. `complete` is called
    /// when all have come, with the bytes that are owed to them.
    pub fn serve_all(
        self,
        host: Arc<Target>,
        arrivals: Arrivals,
        complete: impl FnOnce(u64) + 'static,
    ) -> Report {
        let engine = Engine::new(self, host);
        drive(engine, |engine, _| {
            match engine.expect(arrivals, Box::new(complete)) {
                Ok(()) => engine.run(),
                Err(errno) => engine.end_at_once(&format!("cannot wait for processes: {errno}")),
            }
        })
    }
}

/// Runs a session to its end.
fn drive(mut engine: Engine, run: impl FnOnce(&mut Engine, Instant)) -> Report {
    let started = Instant::now();
    // Whatever happens, nothing that is owed may become zeros.
    if catch_unwind(AssertUnwindSafe(|| run(&mut engine, started))).is_err() {
        if engine.entry.is_some() {
            // With what is in the journal, not with what may be half done.
            std::process::abort();
        }
        engine.end_at_once("this program failed (please report it)");
    }
    engine.report(started)
}
