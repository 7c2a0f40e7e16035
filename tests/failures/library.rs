//! What the program itself cannot be made to do from outside: panics, and dying in the worst moment.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use snapshot_format::{PageNo, Snapshot};
use uffd_restore::handover::{self, AttachError, placement::Choice};
use uffd_restore::serve::{self, Orders, Outcome, Prefill, Report, Server, Workers};
use uffd_restore::session::{Block, OnFailure, What};
use uffd_restore::source::{PageReader, PageSource, SnapshotSource};

use super::actor::{Actor, Survey};
use super::lab::{Lab, Plan};
use super::support::{PATIENCE, Target, hear, say, wait_until};

/// What a source does beside giving pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// Nothing.
    None,
    /// Panics at page 21.
    Panics,
    /// Never returns from the second reading of what must be there at once: that is when it is written.
    Blocks,
    /// Has nothing at that moment.
    Fails,
}

struct Troubled {
    source: SnapshotSource,
    trouble: Trouble,
    granularity: u64,
    readings: Arc<AtomicU32>,
}

struct TroubledReader {
    reader: Box<dyn PageReader>,
    trouble: Trouble,
    readings: Arc<AtomicU32>,
}

impl Troubled {
    fn new(snapshot: &Arc<Snapshot<File>>, trouble: Trouble) -> Self {
        Self {
            source: SnapshotSource::new(Arc::clone(snapshot)),
            trouble,
            granularity: 4,
            readings: Arc::default(),
        }
    }
}

impl PageSource for Troubled {
    fn reader(&self) -> Box<dyn PageReader> {
        Box::new(TroubledReader {
            reader: self.source.reader(),
            trouble: self.trouble,
            readings: Arc::clone(&self.readings),
        })
    }

    fn granularity(&self) -> u64 {
        self.granularity
    }
}

impl PageReader for TroubledReader {
    fn read(&mut self, page: PageNo, needed: u64, welcome: &Range<u64>, block: &mut Block) {
        assert!(
            self.trouble != Trouble::Panics || page.0 != 21,
            "a panic of the test's"
        );
        self.reader.read(page, needed, welcome, block);
    }

    fn read_all(&mut self, pages: &Range<u64>, block: &mut Block) {
        assert!(
            self.trouble != Trouble::Panics || !pages.contains(&21),
            "a panic of the test's"
        );
        let again = self.readings.fetch_add(1, Ordering::SeqCst) > 0;
        match self.trouble {
            Trouble::Blocks if again => {
                say("blocked");
                loop {
                    nix::unistd::pause();
                }
            }
            Trouble::Fails if again => {
                block.clear();
                block.push(pages.start, What::Bad("of the test".into()));
            }
            _ => self.reader.read_all(pages, block),
        }
    }
}

fn open(lab: &Lab, plan: &Plan) -> Arc<Snapshot<File>> {
    let file = File::open(lab.snapshot("snap", plan)).expect("open");
    Arc::new(Snapshot::open(file).expect("a snapshot"))
}

/// Two threads that decode, and nothing that nobody asks for but for `prefill`.
pub(crate) fn options(prefill: Prefill, on_failure: OnFailure) -> serve::Options {
    serve::Options {
        jobs: 2,
        prefill,
        prefill_rate: None,
        prefill_urgent: false,
        prefill_delay: Duration::ZERO,
        record_first: false,
        head_start: Duration::ZERO,
        read_ahead: 0,
        on_failure,
        finish_within: PATIENCE,
        follow: true,
        quiet: true,
    }
}

/// Serves an actor in another thread of this process.
fn serve(
    snapshot: &Arc<Snapshot<File>>,
    source: Troubled,
    actor: &Actor,
    on_failure: OnFailure,
    ready: fn(),
) -> std::thread::JoinHandle<Report> {
    let options = options(Prefill::None, on_failure);
    let choice: Choice = format!("largest={:#x}", actor.address)
        .parse()
        .expect("a choice");
    let (snapshot, pid) = (Arc::clone(snapshot), actor.pid());
    let (attached, waits) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let workers = Workers::start(&source, options.jobs).expect("threads");
        let server = Server::prepare(&source, workers, Orders::Signals, options);
        let server = server.expect("descriptors");
        let options = handover::Options {
            pid,
            choices: &[choice],
            stop_timeout: PATIENCE,
            on_failure,
            leaves: None,
        };
        let done = handover::attach(&snapshot, &source, &options).expect("attach");
        attached.send(()).expect("the test waits");
        server.serve(
            done.handover,
            || {
                done.standing.release(None).expect("it is let go");
                ready();
            },
            || {},
        )
    });
    waits.recv_timeout(PATIENCE).expect("attached");
    thread
}

#[test]
fn a_panic_of_a_reader_is_a_bad_page() {
    let lab = Lab::new();
    let snapshot = open(&lab, &Plan::of(64));
    // Small frames are decoded by the loop, large ones by the pool.
    for granularity in [4, 64] {
        let mut actor = Actor::start(64);
        let source = Troubled {
            granularity,
            ..Troubled::new(&snapshot, Trouble::Panics)
        };
        let thread = serve(&snapshot, source, &actor, OnFailure::Poison, || {});
        assert_eq!(actor.ask("read 21"), "sigbus");
        let survey = actor.survey();
        assert_eq!((survey.new, survey.poisoned), (63, 1), "{survey:?}");
        let report = thread.join().expect("no panic");
        assert_eq!(report.outcome, Outcome::Failed);
    }
}

#[test]
fn a_panic_of_a_reader_kills_if_that_was_asked_for() {
    let lab = Lab::new();
    let snapshot = open(&lab, &Plan::of(64));
    let mut actor = Actor::start(64);
    let source = Troubled::new(&snapshot, Trouble::Panics);
    let thread = serve(&snapshot, source, &actor, OnFailure::Kill, || {});
    actor.target.tell("read 21");
    assert_eq!(thread.join().expect("no panic").outcome, Outcome::Failed);
    wait_until("its death", || actor.has_ended());
}

#[test]
fn a_panic_anywhere_else_poisons_everything_that_is_owed_or_kills() {
    let lab = Lab::new();
    let snapshot = open(&lab, &Plan::of(64));
    for on_failure in [OnFailure::Poison, OnFailure::Kill] {
        let mut actor = Actor::start(64);
        let source = Troubled::new(&snapshot, Trouble::None);
        let thread = serve(&snapshot, source, &actor, on_failure, || {
            panic!("a panic of the test's")
        });
        let report = thread.join().expect("no panic");
        assert_eq!(report.outcome, Outcome::Failed);
        if on_failure == OnFailure::Kill {
            wait_until("its death", || actor.has_ended());
            continue;
        }
        let expected = Survey {
            poisoned: 64,
            ..Survey::default()
        };
        assert_eq!(actor.survey(), expected);
    }
}

/// Attaches with a source in trouble: the words are the target's id, the snapshot, where its two regions go, and the trouble.
pub(crate) fn attacher(words: &[&str]) {
    let &[pid, snapshot, lazy, eager, trouble] = words else {
        panic!("{words:?}")
    };
    let trouble = match trouble {
        "blocks" => Trouble::Blocks,
        "fails" => Trouble::Fails,
        _ => panic!("{words:?}"),
    };
    if trouble == Trouble::Fails {
        super::roles::give_up_cap_kill();
    }
    let file = File::open(snapshot).expect("open");
    let snapshot = Arc::new(Snapshot::open(file).expect("a snapshot"));
    let source = Troubled::new(&snapshot, trouble);
    let choices = [
        format!("lazy={lazy}").parse().expect("a choice"),
        format!("eager={eager}").parse().expect("a choice"),
    ];
    let options = handover::Options {
        pid: pid.parse().expect("a pid"),
        choices: &choices,
        stop_timeout: Duration::from_secs(10),
        on_failure: OnFailure::Poison,
        leaves: None,
    };
    let error = handover::attach(&snapshot, &source, &options).expect_err("trouble");
    assert!(matches!(error, AttachError::Destroyed { .. }), "{error}");
    say(&error.to_string());
    while hear().is_some() {}
    super::support::end();
}

fn start_attacher(lab: &Lab, actor: &mut Actor, trouble: &str) -> Target {
    let eager = actor.target.hear();
    let snapshot = lab.snapshot("snap", &Plan::named(8, &["lazy", "eager"]));
    let words = format!(
        "{} {} {:#x} {eager} {trouble}",
        actor.pid(),
        snapshot.display(),
        actor.address
    );
    Target::start("attacher", &words)
}

/// The old content is dropped and the new one is being written: without a daemon nothing would be right any more.
#[test]
fn a_daemon_killed_in_the_middle_of_attaching_takes_the_target_with_it() {
    let (lab, mut actor) = (Lab::new(), Actor::with(8, "eager"));
    let mut attacher = start_attacher(&lab, &mut actor, "blocks");
    assert_eq!(attacher.hear(), "blocked");
    assert_eq!(super::support::state(actor.pid()), 't');
    attacher.kill();
    wait_until("its death", || actor.has_ended());
}

#[test]
fn a_target_that_lost_its_memory_and_may_not_be_killed_never_runs_again() {
    let (lab, mut actor) = (Lab::new(), Actor::with(8, "eager nobody"));
    let mut attacher = start_attacher(&lab, &mut actor, "fails");
    let error = attacher.hear();
    let pid = actor.pid().to_string();
    for part in [
        &pid,
        "lost its memory",
        "of the test",
        "when this program ends",
    ] {
        assert!(error.contains(part), "no {part:?} in {error}");
    }
    assert_eq!(super::support::state(actor.pid()), 't', "it runs");
    attacher.finish();
    wait_until("its death", || actor.has_ended());
}
