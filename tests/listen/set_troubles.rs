//! What can go wrong around working sets of many VMs: it did, when a reviewer tried.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;
use crate::peer::Peer;

/// Nobody reads standard output. `log.rs` is made for that; a recording that has been written is said by another way, and the daemon
/// cannot be ended any more.
fn ends_although_nobody_reads(words: &[&str]) -> bool {
    let lab = Lab::new(64);
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
    while nix::unistd::write(writer.as_fd(), &[b'x'; 4096]).is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).expect("fcntl");
    let mut command = crate::daemon::command(&lab.snapshot(), words);
    command.args(["--json", "--listen"]).arg(lab.socket());
    let mut daemon = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .stderr(File::create(lab.path("errors")).expect("a file"))
        .spawn()
        .expect("it runs");
    while !lab.socket().exists() {
        std::thread::yield_now();
    }
    let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
    peer.must("check 0 64 1");
    std::thread::sleep(Duration::from_secs(1));
    let pid = Pid::from_raw(i32::try_from(daemon.id()).expect("a pid"));
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut ended = false;
    while !ended && Instant::now() < deadline {
        kill(pid, Signal::SIGTERM).expect("it lives");
        std::thread::sleep(Duration::from_millis(500));
        ended = daemon.try_wait().expect("a child").is_some();
    }
    drop(reader);
    let _ = daemon.kill();
    let _ = daemon.wait();
    ended
}

#[test]
fn it_ends_although_nobody_reads() {
    assert!(ends_although_nobody_reads(&[]), "control");
    assert!(
        ends_although_nobody_reads(&["--record-working-set"]),
        "twenty signals in ten seconds"
    );
}

/// `--prefill none` says none. What was recorded in the meantime is installed all the same.
#[test]
fn prefill_none_replays_nothing() {
    let lab = Lab::new(256);
    let daemon =
        crate::daemon::Daemon::listening(&lab, &["--record-working-set", "--prefill", "none"]);
    let mut first = daemon.serve(&lab);
    first.must("check 0 100 1");
    first.target.kill();
    daemon.event("recorded");
    let mut second = daemon.serve(&lab);
    second.check_all();
    let done = daemon.complete(&second);
    assert_eq!(done.pages("replayed"), 0, "{done:?}");
}

/// The first VMM is connected, but its guest does nothing yet: the recording is over, and there will be no other.
#[test]
fn a_vm_that_is_resumed_late_is_recorded() {
    let lab = Lab::new(256);
    let words = ["--record-working-set", "--record-idle", "300ms"];
    let daemon = crate::daemon::Daemon::listening(&lab, &words);
    let mut first = daemon.serve(&lab);
    std::thread::sleep(Duration::from_secs(1));
    first.check_all();
    daemon.complete(&first);
    let mut second = daemon.serve(&lab);
    second.check_all();
    daemon.complete(&second);
    let ended = daemon.terminate();
    let recorded = ended
        .out
        .iter()
        .filter(|line| line.contains("\"recorded\""))
        .count();
    assert_eq!(recorded, 1, "{ended:?}");
}
