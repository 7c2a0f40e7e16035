//! All of the daemon is killed but its guard, and another one goes on.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::service::{guard_of, signal_daemon};
use crate::support::{state, wait_until};

/// A daemon that leaves what it has, and where.
fn leaving(lab: &Lab) -> (tempfile::TempDir, PathBuf, Daemon) {
    let folder = tempfile::tempdir_in("/dev/shm").expect("memory");
    let words = ["--state-dir", folder.path().to_str().expect("UTF-8")];
    let daemon = Daemon::listening(lab, &words);
    let name = lab.socket().file_name().expect("a name").to_owned();
    let mut state = folder.path().join(name).into_os_string();
    state.push(".state");
    (folder, state.into(), daemon)
}

fn resume(lab: &Lab, state: &PathBuf) -> Daemon {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-restore"));
    command.arg("--resume").arg(state);
    Daemon::spawn(command, lab)
}

fn ended(pid: i32) -> bool {
    matches!(state(pid), 'Z' | 'X' | '?')
}

#[test]
fn all_vmms_survive_it() {
    let lab = Lab::new(512);
    let (folder, state, mut daemon) = leaving(&lab);
    let mut peers: Vec<Peer> = (0..3).map(|_| daemon.serve(&lab)).collect();
    for seed in 0..3 {
        for peer in &mut peers {
            peer.target.tell(&format!("race {seed} 1"));
        }
        signal_daemon(daemon.pid(), Signal::SIGKILL);
        wait_until("its death", || ended(daemon.pid()));
        daemon = resume(&lab, &state);
        for peer in &mut peers {
            assert_eq!(peer.target.hear(), "right");
        }
        // Others are served as before.
        daemon.event("listening");
        peers.push(daemon.serve(&lab));
    }
    for peer in &mut peers {
        peer.check_all();
    }
    let ended = daemon.terminate();
    assert_eq!(ended.status, 0, "{ended:?}");
    for peer in &mut peers {
        assert!(!peer.is_registered());
        peer.check_all();
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0);
}

/// A VMM that keeps its own descriptor waits, and nobody else has what is needed.
#[test]
fn without_its_guard_nothing_can_be_done() {
    let lab = Lab::new(64);
    let (_folder, state, daemon) = leaving(&lab);
    let peer = daemon.serve(&lab);
    let guard = guard_of(daemon.pid()).expect("it watches");
    kill(Pid::from_raw(daemon.pid()), Signal::SIGSTOP).expect("it runs");
    wait_until("the keeper stands still", || {
        crate::support::state(daemon.pid()) == 'T'
    });
    kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it runs");
    wait_until("its death", || ended(guard));
    signal_daemon(daemon.pid(), Signal::SIGKILL);
    wait_until("its death", || ended(daemon.pid()));
    let refused = resume(&lab, &state).end();
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.err.contains("guard is dead"), "{refused:?}");
    assert!(peer.is_registered(), "it waits");
}
