//! Killing all of a daemon, and going on with what it has left.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Restorer, Scene};
use crate::support::service::{guard_of, signal_daemon};
use crate::support::{state, wait_until};

/// A folder in memory, for what is needed to go on.
pub(crate) struct Folder(pub(crate) tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir_in("/dev/shm").expect("memory"))
    }

    pub(crate) fn words(&self) -> [&str; 2] {
        ["--state-dir", self.0.path().to_str().expect("UTF-8")]
    }

    pub(crate) fn state_of(&self, pid: i32) -> PathBuf {
        self.0.path().join(format!("{pid}.state"))
    }

    pub(crate) fn journal(&self, scene: &Scene) -> PathBuf {
        let name = format!("{}.uffd-restore-journal", scene.pid);
        self.0.path().join(name)
    }

    pub(crate) fn is_empty(&self) -> bool {
        fs::read_dir(self.0.path())
            .expect("a folder")
            .next()
            .is_none()
    }

    pub(crate) fn resume(&self, scene: &Scene, words: &[&str]) -> Restorer {
        let resume = Resume {
            state: self.state_of(scene.pid),
            errors: scene.folder.path().join("errors"),
        };
        resume.start(words)
    }

    /// Goes on with what was killed.
    pub(crate) fn go_on(&self, scene: &mut Scene) {
        let mut restorer = self.resume(scene, &[]);
        let said = restorer.json();
        assert_eq!(
            (&said["event"], &said["pid"]),
            (&"goes_on".into(), &scene.pid.into())
        );
        scene.restorer = restorer;
    }

    /// Nobody can, and says why.
    pub(crate) fn cannot(&self, scene: &Scene, words: &[&str], status: i32, why: &str) {
        let mut restorer = self.resume(scene, words);
        let ended = restorer.wait();
        let said = restorer.errors();
        assert_eq!(ended.code(), Some(status), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

/// How to go on, and where what is said then goes.
pub(crate) struct Resume {
    pub(crate) state: PathBuf,
    pub(crate) errors: PathBuf,
}

impl Resume {
    pub(crate) fn start(&self, words: &[&str]) -> Restorer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-restore"));
        command.arg("--resume").arg(&self.state).args(words);
        Restorer::spawn(command, self.errors.clone())
    }
}

/// Kills all of the daemon but its guard, or that as well.
pub(crate) fn kill_all(restorer: &Restorer, guard_too: bool) {
    let guard = guard_of(restorer.pid()).expect("it watches");
    if guard_too {
        // First, so that nobody is held in between.
        let keeper = Pid::from_raw(restorer.pid());
        kill(keeper, Signal::SIGSTOP).expect("it runs");
        wait_until("the keeper stands still", || state(restorer.pid()) == 'T');
        kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it runs");
        wait_until("the guard is dead", || {
            matches!(state(guard), 'Z' | 'X' | '?')
        });
    }
    signal_daemon(restorer.pid(), Signal::SIGKILL);
    wait_until("the keeper is dead", || {
        matches!(state(restorer.pid()), 'Z' | 'X' | '?')
    });
}

pub(crate) fn sockets_of(pid: i32) -> usize {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let links = open
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    links
        .filter(|link| link.to_string_lossy().starts_with("socket:"))
        .count()
}

/// Everything is put in place, and nothing is left behind.
pub(crate) fn assert_over(folder: &Folder, mut scene: Scene, sockets: usize) {
    scene.restorer.signal(Signal::SIGTERM);
    let done = scene.restorer.finish();
    // Children may have ended that were owed something.
    let well = ["complete", "target-ended"];
    assert!(well.contains(&done.outcome()), "{done:?}");
    assert!(folder.is_empty());
    assert_eq!(sockets_of(scene.pid), sockets);
    scene.target.finish();
}
