//! Targets that are not there, are no targets, or end.

use nix::sys::signal::Signal;

use super::actor::{Actor, Survey};
use super::daemon::{Daemon, command, in_shell, restoring, run};
use super::lab::Lab;
use super::support::{Target, wait_until};

#[test]
fn what_is_no_process_is_said_to_be_none() {
    let (_lab, snapshot) = Lab::with_snapshot(4);
    let snapshot = snapshot.to_str().expect("UTF-8");
    let attach = |pid: &str| run(command(&["--snapshot", snapshot, "--pid", pid]));
    // Above the largest id that the kernel gives, 2^22.
    attach("4194305").assert(1, &["no process 4194305", "check the id"]);
    attach("2").assert(1, &["process 2 (kthreadd)", "kernel thread"]);
    for bad in ["0", "-1", "99999999999", "x"] {
        let ended = run(command(&["--snapshot", snapshot, &format!("--pid={bad}")]));
        ended.assert(2, &["--pid <PID>", bad]);
    }
}

#[test]
fn a_zombie_is_called_one() {
    let (_lab, snapshot) = Lab::with_snapshot(4);
    let mut target = Target::start("memory", "4 zombie");
    let zombie = target.hear();
    let snapshot = snapshot.to_str().expect("UTF-8");
    run(command(&["--snapshot", snapshot, "--pid", &zombie])).assert(
        1,
        &[&format!("process {zombie}"), "zombie", "memory is gone"],
    );
}

#[test]
fn it_does_not_restore_itself() {
    let (_lab, snapshot) = Lab::with_snapshot(4);
    let inner = command(&["--snapshot", snapshot.to_str().expect("UTF-8")]);
    run(in_shell("exec \"$@\" --pid $$", &inner))
        .assert(1, &["is this process", "another process"]);
}

#[test]
fn a_target_that_ends_while_it_is_served_is_no_failure() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    for way in ["exit", "exec", "kill"] {
        let mut actor = Actor::start(64);
        let daemon = Daemon::serving(&snapshot, &actor, &[]);
        assert_eq!(actor.ask("read 5"), "new");
        if way == "kill" {
            actor.target.kill();
        } else {
            actor.target.tell(way);
        }
        daemon
            .end()
            .assert(0, &[&actor.pid().to_string(), "it ended"]);
    }
}

#[test]
fn children_are_served_when_their_parent_has_ended() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    actor.target.tell("orphan");
    assert_eq!(Survey::parse(&actor.target.hear()), Survey::new(64));
    daemon.end().assert(0, &[]);
}

/// Before a moment that is chosen at random, the target is killed.
#[test]
fn a_target_killed_at_any_moment_of_attaching_leaves_a_clean_end() {
    let (_lab, snapshot) = Lab::with_snapshot(256);
    let mut state = u64::from(std::process::id()) | 1;
    println!("seed {state}");
    let mut attached = 0;
    for _ in 0..40 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let actor = Actor::start(256);
        let daemon = Daemon::spawn(restoring(&snapshot, &actor, &["--prefill=all"]));
        // The moment is what is tried, not waited for.
        let moment = std::time::Instant::now() + std::time::Duration::from_micros(state % 20_000);
        while std::time::Instant::now() < moment {
            std::hint::spin_loop();
        }
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(actor.pid()), Signal::SIGKILL)
            .expect("kill");
        let ended = daemon.end();
        wait_until("the target's end", || actor.has_ended());
        assert!(!ended.err.contains("panicked"), "{ended:?}");
        let pid = actor.pid().to_string();
        assert!(ended.err.contains(&pid), "{ended:?}");
        match ended.status {
            0 => attached += 1,
            1 => assert!(
                ["zombie", "ended", "no process"]
                    .iter()
                    .any(|word| ended.err.contains(word)),
                "{ended:?}"
            ),
            _ => panic!("{ended:?}"),
        }
    }
    println!("{attached} of 40 had been attached to");
}
