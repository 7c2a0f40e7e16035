//! Ready descriptors, pid files, output that nobody takes, and what is said for programs.

use std::io::Read;
use std::process::Stdio;

use nix::sys::signal::Signal;

use super::actor::Actor;
use super::daemon::{Daemon, in_shell, restoring, run};
use super::lab::{Lab, damage};
use super::support::wait_until;

#[test]
fn the_ready_descriptor_gets_a_line_when_the_target_is_served_and_nothing_otherwise() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let ready = lab.path("ready");
    let script = format!("exec \"$@\" 5>{}", ready.display());
    let mut actor = Actor::start(16);

    let bad = lab.write("bad", b"no snapshot");
    let refused = run(in_shell(
        &script,
        &restoring(&bad, &actor, &["--ready-fd=5"]),
    ));
    refused.assert(1, &["not a snapshot"]);
    assert!(std::fs::read(&ready).expect("the file").is_empty());

    nix::unistd::unlink(&ready).expect("unlink");
    nix::unistd::mkfifo(&ready, nix::sys::stat::Mode::S_IRWXU).expect("a fifo");
    let daemon = Daemon::spawn(in_shell(
        &script,
        &restoring(&snapshot, &actor, &["--ready-fd=5", "--quiet"]),
    ));
    let mut said = Vec::new();
    // Until it is closed, which is long before the program ends.
    std::fs::File::open(&ready)
        .and_then(|mut file| file.read_to_end(&mut said))
        .expect("the other end");
    assert_eq!(said, b"\n");
    actor.assert_restored();
    let ended = daemon.end();
    ended.assert(0, &[]);
    assert!(ended.err.is_empty(), "quiet: {ended:?}");
}

#[test]
fn who_waits_at_the_ready_descriptor_may_be_gone() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let inner = restoring(&snapshot, &actor, &["--ready-fd=5"]);
    // The other end of standard output is closed before anything is written to it.
    let (read, write) = std::io::pipe().expect("pipe");
    drop(read);
    let command = in_shell("exec \"$@\" 5>&1 >/dev/null", &inner);
    let daemon = Daemon::unheard(command, write.into(), Stdio::null());
    wait_until("an old page to go", || actor.ask("read 5") == "new");
    actor.assert_restored();
    daemon.end().assert(0, &[]);
}

#[test]
fn the_pid_file_is_there_while_it_runs() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let path = lab.path("pid");
    let option = format!("--pidfile={}", path.display());
    let daemon = Daemon::serving(&snapshot, &actor, &[&option]);
    let content = std::fs::read_to_string(&path).expect("the file");
    assert_eq!(content, format!("{}\n", daemon.pid()));
    actor.assert_restored();
    daemon.end().assert(0, &[]);
    assert!(!path.exists());

    // Nothing remains of one that was refused.
    let bad = lab.write("bad", b"no snapshot");
    run(restoring(&bad, &actor, &[&option])).assert(1, &[]);
    assert!(!path.exists());
}

#[test]
fn a_pid_file_that_cannot_be_written_is_found_out_before_the_target_is_touched() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let path = lab.path("no such folder/pid");
    let option = format!("--pidfile={}", path.display());
    run(restoring(&snapshot, &actor, &[&option]))
        .assert(1, &["cannot write", "no such folder/pid"]);
    actor.assert_untouched();
}

#[test]
fn outputs_that_nobody_takes_keep_nobody_from_being_served() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    for script in [
        "exec \"$@\" >&-",
        "exec \"$@\" 2>&-",
        "exec \"$@\" >&- 2>&-",
        "exec \"$@\" >/dev/full 2>/dev/full",
    ] {
        for more in [&[][..], &["--json"]] {
            let mut actor = Actor::start(64);
            let daemon = Daemon::spawn(in_shell(script, &restoring(&snapshot, &actor, more)));
            wait_until("an old page to go", || actor.ask("read 5") == "new");
            actor.assert_restored();
            daemon.end().assert(0, &[]);
        }
    }
}

/// A pipe that is full.
fn full_pipe() -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).expect("pipe");
    nix::fcntl::fcntl(
        &write,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .expect("nonblocking");
    while nix::unistd::write(&write, &[0; 4096]).is_ok() {}
    nix::fcntl::fcntl(
        &write,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
    )
    .expect("blocking");
    (read, write)
}

#[test]
fn a_full_pipe_keeps_nobody_from_being_served() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    damage(&snapshot, 21);
    for full_errors in [false, true] {
        let mut actor = Actor::start(64);
        let (read, write) = full_pipe();
        let command = restoring(&snapshot, &actor, &[]);
        let daemon = if full_errors {
            Daemon::unheard(command, Stdio::null(), write.into())
        } else {
            Daemon::unheard(command, write.into(), Stdio::null())
        };
        wait_until("an old page to go", || actor.ask("read 5") == "new");
        let survey = actor.survey();
        assert_eq!((survey.new, survey.poisoned), (60, 4), "{survey:?}");
        // The last word waits, as everybody's does; but nobody waits for it any more.
        drop(read);
        daemon.end().assert(1, &[]);
    }
}

#[test]
fn quiet_says_only_that_it_serves_and_what_went_wrong() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--quiet"]);
    actor.assert_restored();
    let ended = daemon.end();
    ended.assert(0, &[]);
    assert!(ended.err.is_empty(), "{ended:?}");
    assert_eq!(ended.out.lines().count(), 1, "{ended:?}");

    damage(&snapshot, 5);
    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--quiet"]);
    assert_eq!(actor.survey().poisoned, 4);
    daemon
        .end()
        .assert(1, &["poisoned", "not all of its memory"]);
}

#[test]
fn json_has_a_line_at_the_start_and_one_at_the_end() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--json"]);
    actor.assert_restored();
    let ended = daemon.end();
    ended.assert(0, &[]);
    assert!(ended.err.is_empty(), "{ended:?}");
    let lines: Vec<serde_json::Value> = ended
        .out
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let [serving, done] = &lines[..] else {
        panic!("{ended:?}")
    };
    assert_eq!(serving["event"], "serving");
    assert_eq!(serving["pid"], actor.pid());
    assert_eq!(serving["owed_bytes"], 16 * 4096);
    assert_eq!(done["event"], "done");
    assert_eq!(done["outcome"], "complete");
    let pages = &done["pages"];
    let sum = pages["demand"].as_u64().unwrap_or(0) + pages["neighbours"].as_u64().unwrap_or(0);
    assert_eq!(sum, 16, "{done}");

    damage(&snapshot, 5);
    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--json"]);
    assert_eq!(actor.survey().poisoned, 4);
    let ended = daemon.end();
    ended.assert(1, &["poisoned"]);
    assert_eq!(ended.json()["outcome"], "failed");
    assert_eq!(ended.json()["pages"]["poisoned"], 4);

    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--json"]);
    actor.target.kill();
    let ended = daemon.end();
    ended.assert(0, &[]);
    assert_eq!(ended.json()["outcome"], "target-ended");

    let mut actor = Actor::start(16);
    let daemon = Daemon::serving(&snapshot, &actor, &["--json"]);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(actor.survey().zero, 0);
    assert_eq!(daemon.end().json()["event"], "done");
}
