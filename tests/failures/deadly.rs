//! A page at which every process dies that decodes it.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use nix::sys::resource::{Resource, setrlimit};
use snapshot_format::{PageNo, Snapshot};
use uffd_restore::handover;
use uffd_restore::serve::{self, Orders, Prefill, Server, Workers};
use uffd_restore::service::Pulse;
use uffd_restore::session::{Block, OnFailure};
use uffd_restore::source::{PageReader, PageSource, SnapshotSource};
use uffd_restore::takeover::{self, Alone, Beginning, Blaming, Kept, Stored};

use super::actor::{Actor, Survey};
use super::lab::Lab;
use super::library::options;
use super::support::child::fork_with;
use super::support::{PATIENCE, Target, say};

const DEADLY: u64 = 21;

struct Deadly(SnapshotSource, u64);

struct DeadlyReader(Box<dyn PageReader>);

impl PageSource for Deadly {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(DeadlyReader(self.0.reader()))
    }

    fn granularity(&self) -> u64 {
        self.1
    }
}

impl PageReader for DeadlyReader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        // Its neighbours are not safe either, when it comes along with them.
        die_of(welcome);
        self.0.read(page, needed, welcome, block);
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        die_of(pages);
        self.0.read_all(pages, block);
    }
}

fn die_of(pages: &Range<u64>) {
    if pages.contains(&DEADLY) {
        std::process::abort();
    }
}

/// In a role: keeps workers that serve a process, as `uffd-restore` does. The words are its id, the snapshot, where its region goes,
/// pages in a frame, and whether everything is installed ahead.
pub(crate) fn keeper(words: &[&str]) {
    // A process with one thread: signals are for that one.
    let child = fork_with(0, || {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("prctl");
        keep(words);
        0
    });
    assert_eq!(child.code(), Some(0));
    super::support::end();
}

fn keep(words: &[&str]) {
    let &[pid, path, address, granularity, prefill] = words else {
        panic!("{words:?}")
    };
    setrlimit(Resource::RLIMIT_CORE, 0, 0).expect("no core dumps");
    serve::hold_signals().expect("signals");
    let kept =
        Kept::start(&Pulse::default(), Beginning::Stored(Stored::default())).expect("a keeper");
    let snapshot = Arc::new(Snapshot::open(File::open(path).expect("open")).expect("a snapshot"));
    let granularity = granularity.parse().expect("pages");
    let source = SnapshotSource::new(Arc::clone(&snapshot));
    let source: Arc<dyn PageSource> = Arc::new(Deadly(source, granularity));
    let prefill = match prefill {
        "all" => Prefill::All,
        _ => Prefill::None,
    };
    let options = options(prefill, OnFailure::Poison);
    let choices = [format!("largest={address}").parse().expect("a choice")];
    let attaching = handover::Options {
        pid: pid.parse().expect("a pid"),
        choices: &choices,
        stop_timeout: PATIENCE,
        on_failure: OnFailure::Poison,
        leaves: None,
    };
    let kept_going = takeover::keep(&kept, Alone::Ends("it served anything"), |life| {
        let source = Blaming::new(Arc::clone(&source), &kept.directory);
        let workers = Workers::start(&source, options.jobs)?;
        let server = Server::prepare(&source, workers, Orders::Signals, options)?;
        let report = if life.is_first() {
            let server = server.kept(&kept.directory, kept.journal()?);
            let attached = handover::attach(&snapshot, &source, &attaching)?;
            let standing = attached.standing;
            server.serve(
                attached.handover,
                || {
                    standing.release(Some(&kept.guard)).expect("it is let go");
                    say("serving");
                },
                || {},
            )
        } else {
            let found = takeover::orphaned(life, &kept.guard, OnFailure::Poison).sessions;
            let mut orphaned = found.into_iter().next().expect("a session");
            orphaned.watch(&kept.guard);
            let target = orphaned.target();
            server.go_on(orphaned, target, life.is_hopeless())
        };
        say(&format!("{:?} {}", report.outcome, life.deaths()));
        Ok(true)
    });
    kept_going.expect("it serves");
}

#[test]
fn a_page_that_kills_whoever_decodes_it_is_bad_and_no_other() {
    let (lab, path) = Lab::with_snapshot(64);
    // Small frames are decoded by the loop, large ones by the pool.
    for (granularity, prefill) in [(4, "none"), (64, "none"), (4, "all")] {
        let mut actor = Actor::start(64);
        let words = format!(
            "{} {} {:#x} {granularity} {prefill}",
            actor.pid(),
            path.display(),
            actor.address
        );
        let mut keeper = Target::start("deadly", &words);
        assert_eq!(keeper.hear(), "serving");
        assert_eq!(actor.ask("read 21"), "sigbus");
        let expected = Survey {
            new: 63,
            poisoned: 1,
            ..Survey::default()
        };
        assert_eq!(actor.survey(), expected, "{granularity} {prefill}");
        let said = keeper.hear();
        let deaths = said.strip_prefix("Failed ").map(str::parse);
        // The first of them may not have known which page it was.
        assert!(matches!(deaths, Some(Ok(3..=5))), "{said}");
        keeper.finish();
    }
    drop(lab);
}
