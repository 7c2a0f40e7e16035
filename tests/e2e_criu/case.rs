//! A target, its images, and its restores.

use std::env;
use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use super::board::{Board, Slot, target_words};
use super::daemon::{self, Daemon, Done, Kind};
use super::stage::{Ended, Line, Stage};
use super::support::wait_until;

/// When the pages come that nobody waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fill {
    AtOnce,
    /// Later than anything that the targets do.
    Late,
    Never,
}

impl Fill {
    pub(crate) fn words(self) -> &'static [&'static str] {
        match self {
            Self::AtOnce => &[],
            Self::Late => &["--prefill-delay", "2s"],
            Self::Never => &["--prefill", "none"],
        }
    }

    /// So many of something are certain to be seen in this way.
    pub(crate) fn certain(self, count: u64) -> u64 {
        match self {
            Self::AtOnce => 0,
            Self::Late | Self::Never => count,
        }
    }
}

/// Where the pages are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// In the folder that CRIU wrote.
    Images,
    /// In a snapshot; the folder has the rest.
    Snapshot,
}

/// CRIU's program. Says loudly if it is not there: scripts/test makes a failure of it.
pub(crate) fn criu() -> Option<PathBuf> {
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cache")));
    let program = env::var_os("UFFD_RESTORE_CRIU")
        .map(PathBuf::from)
        .or_else(|| Some(cache?.join("uffd-restore/criu/criu")))
        .filter(|path| path.exists());
    if program.is_none() {
        println!("SKIPPED: there is no CRIU that works: run scripts/fetch-criu");
        // The runner hides what a test that passes says.
        let tolerated = env::var_os("UFFD_RESTORE_SKIP_NOTHING").is_none();
        assert!(tolerated, "a test that cannot run counts as failed");
    }
    program
}

/// Why a restore failed: a process can be waited for a moment before the numbers of its threads are free.
pub(crate) fn numbers_are_taken(why: &str) -> bool {
    why.contains("File exists") || why.contains("create a thread: -17")
}

pub(crate) struct Case {
    pub(crate) stage: Stage,
    pub(crate) board: Board,
    criu: PathBuf,
    folder: tempfile::TempDir,
    /// The first process of the target.
    root: i32,
    /// Its folder of images; there may be several.
    images: PathBuf,
}

impl Case {
    /// Starts a target and waits until it can be dumped. None if there is no CRIU.
    pub(crate) fn start(role: &str, words: &str, processes: u64) -> Option<Self> {
        let mut case = Self::empty()?;
        let program = env::current_exe().expect("this program");
        let target = Line::new("setsid")
            .word("env")
            .words(
                target_words(role, &case.path("board"), words)
                    .iter()
                    .map(String::as_str),
            )
            .path(program)
            .words(["role", "--exact", "--nocapture", "--test-threads=1"]);
        case.root = case.stage.start(case.folder.path(), "target", &target);
        case.board.wait(Slot::Ready, processes);
        Some(case)
    }

    /// Without a target.
    pub(crate) fn empty() -> Option<Self> {
        let criu = criu()?;
        let folder = tempfile::tempdir().expect("a folder");
        Some(Self {
            board: Board::create(&folder.path().join("board")),
            stage: Stage::new(),
            criu,
            images: folder.path().join("images"),
            folder,
            root: 0,
        })
    }

    /// Starts any other program as the target, in a session of its own.
    pub(crate) fn start_other(&mut self, line: &Line) {
        let mut words = Line::new("setsid");
        words = words.line(line);
        self.root = self.stage.start(self.folder.path(), "target", &words);
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> i32 {
        self.root
    }

    /// All processes that have announced themselves; the root in any case.
    fn pids(&self) -> Vec<i32> {
        let mut pids = self.board.pids();
        if !pids.contains(&self.root) {
            pids.push(self.root);
        }
        pids
    }

    /// Its processes that are alive, as they are known outside.
    pub(crate) fn outside(&self) -> Vec<i32> {
        let pids = self.pids().into_iter();
        pids.filter_map(|pid| self.stage.outside(pid)).collect()
    }

    /// Dumps the target, which is gone after that, with all its pids, into a folder of this name.
    pub(crate) fn dump(&mut self, name: &str) {
        self.images = self.path(name);
        fs::create_dir(&self.images).expect("a folder for the images");
        self.stage.forget_ends();
        let line = Line::new(&self.criu)
            .words(["dump", "-o", "dump.log", "-D"])
            .path(&self.images)
            .words(["-t", &self.root.to_string()]);
        let ended = self.stage.run(self.folder.path(), "dump", &line);
        assert_eq!(ended, Ended::GOOD, "criu dump: {}", self.log("dump"));
        for pid in self.pids() {
            self.stage.await_end(pid, "a process that was dumped");
        }
        self.board.reset();
    }

    fn log(&self, name: &str) -> String {
        let log = self.images.join(name).with_extension("log");
        fs::read_to_string(log).unwrap_or_default()
    }

    /// What the target has complained about.
    fn complaints(&self) -> String {
        fs::read_to_string(self.path("target.err")).unwrap_or_default()
    }

    /// Moves the pages of the images to a snapshot.
    pub(crate) fn import(&mut self) {
        self.pack(Some("--strip"));
    }

    /// Writes the pages of the images to a snapshot, with this word.
    pub(crate) fn pack(&mut self, word: Option<&str>) {
        let line = Line::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
            .word("import-criu")
            .words(word)
            .path(&self.images)
            .word("-o")
            .path(self.snapshot());
        let ended = self.stage.run(self.folder.path(), "import", &line);
        let said = fs::read_to_string(self.path("import.err")).unwrap_or_default();
        assert_eq!(ended, Ended::GOOD, "import-criu: {said}");
    }

    /// The snapshot that belongs to the images.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.images.with_extension("snapshot")
    }

    /// The words of a daemon for these images.
    pub(crate) fn daemon_line(&self, kind: Kind, source: Source) -> Line {
        let line = daemon::line(kind, &self.criu, &self.images, self.folder.path());
        match source {
            Source::Images => line,
            Source::Snapshot => line.word("--snapshot").path(self.snapshot()),
        }
    }

    /// Starts a daemon with these words more, and waits until it listens.
    pub(crate) fn serve(&mut self, kind: Kind, source: Source, words: &[&str]) -> Daemon {
        let line = self.daemon_line(kind, source);
        let line = line.words(words.iter().copied());
        let daemon = Daemon::start(&mut self.stage, self.folder.path(), kind, line);
        daemon.await_listening(&mut self.stage);
        daemon
    }

    /// The words of a restore.
    pub(crate) fn restore_line(&self) -> Line {
        let lazy = (Kind::chosen() != Kind::Nobody).then_some("--lazy-pages");
        Line::new(&self.criu)
            .words(["restore", "-d", "-o", "restore.log"])
            .words(lazy)
            .word("-D")
            .path(&self.images)
            .word("-W")
            .path(self.folder.path())
    }

    /// Starts a daemon, and restores the target: it runs.
    pub(crate) fn bring_back(&mut self, kind: Kind, source: Source, words: &[&str]) -> Daemon {
        for attempt in 1.. {
            let daemon = self.serve(kind, source, words);
            let Err(why) = self.restore() else {
                return daemon;
            };
            assert!(
                numbers_are_taken(&why) && attempt < 3,
                "criu restore: {why}; the daemon: {}",
                daemon.said()
            );
            daemon.ended(&mut self.stage);
        }
        unreachable!("the last attempt returns or panics")
    }

    /// Restores the target.
    pub(crate) fn restore(&mut self) -> Result<(), String> {
        let restore = self.begin_restore();
        match self.stage.await_end(restore, "criu restore") {
            Ended::GOOD => Ok(()),
            ended => {
                let log = fs::read_to_string(self.path("restore.log")).unwrap_or_default();
                Err(format!("{ended:?} {log}"))
            }
        }
    }

    /// Begins to restore the target: the pid of `criu restore`.
    pub(crate) fn begin_restore(&mut self) -> i32 {
        self.await_nobody();
        self.stage.forget_ends();
        let line = self.restore_line();
        self.stage.start(self.folder.path(), "restore", &line)
    }

    /// Waits until nobody of the target is left. Whoever is in its session needs its number, and what was forked after a restore
    /// is not known by name.
    pub(crate) fn await_nobody(&self) {
        wait_until("the end of what was forked", || {
            self.stage.is_empty(self.root)
        });
    }

    /// Kills all processes of the target, and waits until they are gone.
    pub(crate) fn kill(&mut self) {
        let pids = self.pids();
        for &pid in &pids {
            self.stage.kill(pid, Signal::SIGKILL);
        }
        for pid in pids {
            let ended = self.stage.await_end(pid, "a target that was killed");
            // Zombies have ended before.
            let as_expected = ended == Ended::by(Signal::SIGKILL) || ended == Ended::GOOD;
            assert!(as_expected, "process {pid} of the target: {ended:?}");
        }
    }

    /// Dumps the target, and restores it in every way: from each source, with each fill.
    pub(crate) fn in_all_ways(&mut self, mut play: impl FnMut(&mut Run<'_>)) {
        self.dump("images");
        let kind = Kind::chosen();
        let (sources, fills): (&[Source], &[Fill]) = match kind {
            Kind::Ours => (
                &[Source::Images, Source::Snapshot],
                &[Fill::AtOnce, Fill::Late, Fill::Never],
            ),
            Kind::Stock => (&[Source::Images], &[Fill::AtOnce]),
            Kind::Nobody => (&[Source::Images], &[Fill::Never]),
        };
        for &source in sources {
            if source == Source::Snapshot {
                self.import();
            }
            for &fill in fills {
                eprintln!("{source:?} {fill:?}");
                let mut run = Run::start(self, kind, source, fill);
                play(&mut run);
                run.case.kill();
            }
        }
    }
}

/// One restore. The target runs.
pub(crate) struct Run<'a> {
    pub(crate) case: &'a mut Case,
    pub(crate) daemon: Daemon,
    pub(crate) fill: Fill,
}

impl<'a> Run<'a> {
    pub(crate) fn start(case: &'a mut Case, kind: Kind, source: Source, fill: Fill) -> Self {
        case.board.reset();
        let daemon = case.bring_back(kind, source, fill.words());
        Self { case, daemon, fill }
    }

    pub(crate) fn board(&self) -> Board {
        self.case.board
    }

    /// Lets the target go on, until so many threads or processes have done everything.
    pub(crate) fn go(&mut self, done: u64) {
        self.board().set(Slot::Go, 1);
        self.await_done(done);
    }

    pub(crate) fn await_done(&mut self, done: u64) {
        let board = self.board();
        let start = std::time::Instant::now();
        while board.get(Slot::Done) < done {
            let ended = self
                .case
                .stage
                .end_within(self.case.root, std::time::Duration::from_millis(2));
            assert!(
                ended.is_none() && start.elapsed() < super::support::PATIENCE,
                "the target has not done it: {ended:?} {board:?} {}; the daemon: {}",
                self.case.complaints(),
                self.daemon.said()
            );
        }
    }

    /// All memory is in place and the daemon has ended; by itself, if it fills memory at all.
    pub(crate) fn complete(&mut self) -> Done {
        let stage = &mut self.case.stage;
        let done = match self.fill {
            Fill::AtOnce | Fill::Late => self.daemon.ended(stage),
            Fill::Never => self.daemon.end(stage),
        };
        done.assert("complete");
        done
    }
}
