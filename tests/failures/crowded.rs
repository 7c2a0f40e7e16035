//! Limits: descriptors of the daemon and of the target, memory of its cgroup, threads.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::actor::Actor;
use super::daemon::{Daemon, command, in_shell, restoring, run};
use super::lab::Lab;
use super::support::service::worker_of;
use super::support::wait_until;

/// Ends each child that lingers, as soon as it has said what it saw, which must be right.
fn end_children(actor: &mut Actor, count: usize) {
    let mut ended = 0;
    loop {
        let line = actor.target.hear();
        if let Some((pid, page)) = line.split_once(' ')
            && let Ok(pid) = pid.parse()
        {
            assert_eq!(page, "new");
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("kill");
            ended += 1;
        } else if line == "all ended" {
            break;
        }
    }
    assert_eq!(ended, count);
}

#[test]
fn a_target_with_more_children_than_the_daemon_has_descriptors_waits_for_some_to_end() {
    const CHILDREN: usize = 24;
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let inner = restoring(&snapshot, &actor, &[]);
    let daemon = Daemon::spawn(in_shell("ulimit -n 24; exec \"$@\"", &inner));
    daemon.hear("serving");
    actor.target.tell(&format!("linger {CHILDREN}"));
    daemon.complain("no more descriptors");
    end_children(&mut actor, CHILDREN);
    actor.assert_restored();
    let ended = daemon.end();
    ended.assert(0, &["raise RLIMIT_NOFILE", "24 forks"]);
    assert_eq!(ended.err.matches("no more descriptors").count(), 1);
}

/// With every number of descriptors, it either refuses before anything is touched, or serves all.
#[test]
fn too_few_descriptors_are_found_out_before_the_target_is_touched() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut refused = 0;
    for limit in 3..24 {
        let mut actor = Actor::start(16);
        let inner = restoring(&snapshot, &actor, &["--prefill=all"]);
        let ended = run(in_shell(&format!("ulimit -n {limit}; exec \"$@\""), &inner));
        if ended.status == 0 {
            actor.assert_restored();
        } else if ended.status == 1 {
            refused += 1;
            actor.assert_untouched();
            ended.assert(1, &["open files"]);
        } else {
            // Even the C library could not start it.
            assert_eq!(ended.status, 127, "{ended:?}");
            actor.assert_untouched();
        }
    }
    assert!(refused > 0);
}

#[test]
fn too_few_threads_are_found_out_before_the_target_is_touched() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let mut inner = command(&["--jobs=1000", "--snapshot"]);
    inner
        .arg(&snapshot)
        .args(["--pid", &actor.pid().to_string(), &actor.region()]);
    // For root there is no such limit.
    let nobody = super::permissions::as_nobody(&inner, &["sys_ptrace", "dac_override"]);
    let ended = run(in_shell("exec prlimit --nproc=100 \"$@\"", &nobody));
    ended.assert(1, &["cannot start a thread", "ulimit -u", "--jobs"]);
    actor.assert_untouched();
}

#[test]
fn a_target_without_room_for_a_descriptor_is_told_how_to_get_some() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::with(16, "full");
    let advice = format!("prlimit --pid {}", actor.pid());
    run(restoring(&snapshot, &actor, &[])).assert(1, &["may not open more files", &advice]);
    actor.assert_untouched();
}

/// It has taken over, for the system calls that it may make are limited.
fn serves(worker: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{worker}/status"));
    status.is_ok_and(|status| status.contains("Seccomp:\t2"))
}

/// Who takes over needs descriptors before it knows which ones the dead one had.
#[test]
fn the_process_that_serves_is_killed_when_all_descriptors_are_in_use() {
    const CHILDREN: usize = 128;
    let (_lab, snapshot) = Lab::with_snapshot(128);
    let mut actor = Actor::start(128);
    let inner = restoring(&snapshot, &actor, &[]);
    let daemon = Daemon::spawn(in_shell("ulimit -n 120; exec \"$@\"", &inner));
    daemon.hear("serving");
    actor.target.tell(&format!("linger {CHILDREN}"));
    daemon.complain("no more descriptors");
    for _ in 0..6 {
        let worker = worker_of(daemon.pid()).expect("it serves");
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it lives");
        wait_until("another one", || {
            worker_of(daemon.pid()).is_some_and(|another| another != worker && serves(another))
        });
    }
    end_children(&mut actor, CHILDREN);
    actor.assert_restored();
    daemon.finish().assert(0, &["another one takes over"]);
}

/// A cgroup for so many processes and threads, removed at the end. `None` where there is none of version 1.
struct Few(PathBuf);

impl Few {
    fn new(name: &str) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/pids/uffd-restore-test-{name}"));
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn limit(&self, most: &str) {
        fs::write(self.0.join("pids.max"), most).expect("a limit");
    }
}

impl Drop for Few {
    fn drop(&mut self) {
        // Those in it may need a moment to end.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// No process may be made, or no thread of it: whoever waits for memory waits until one may.
#[test]
fn who_cannot_take_over_tries_again() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    // The keeper and the guard; and one that cannot start threads.
    for most in ["2", "3"] {
        let mut actor = Actor::start(64);
        let Some(few) = Few::new(&actor.pid().to_string()) else {
            println!("SKIPPED: no cgroup for processes can be made here");
            return;
        };
        let script = format!("echo $$ >{}/cgroup.procs; exec \"$@\"", few.0.display());
        let daemon = Daemon::spawn(in_shell(&script, &restoring(&snapshot, &actor, &[])));
        daemon.hear("serving");
        assert_eq!(actor.ask("read 19"), "new");
        few.limit(most);
        let worker = worker_of(daemon.pid()).expect("it serves");
        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it lives");
        daemon.complain(if most == "2" {
            "nobody can take over"
        } else {
            "cannot start a thread"
        });
        actor.target.tell("read 40");
        std::thread::sleep(Duration::from_secs(1));
        few.limit("max");
        assert_eq!(actor.target.hear(), "new");
        actor.assert_restored();
        let ended = daemon.finish();
        ended.assert(0, &["all memory is in place"]);
        assert!(ended.err.lines().count() < 8, "{ended:?}");
    }
}
