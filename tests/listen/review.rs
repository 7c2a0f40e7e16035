//! What a review found. Each of these was red when it was written.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, command};
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::service::signal_daemon;
use crate::support::{state, wait_until};

/// Firecracker's connect(2) and sendmsg(2) succeed as soon as there is room in the queue.
#[test]
fn who_is_in_the_queue_when_the_daemon_is_asked_to_end_is_served() {
    let lab = Lab::new(64);
    for words in ["", "drop"] {
        let daemon = Daemon::listening(&lab, &[]);
        daemon.signal(Signal::SIGSTOP);
        wait_until("it to stop", || state(daemon.pid()) == 'T');
        let mut peer = Peer::served(&lab.whole(), words, &lab.socket());
        daemon.signal(Signal::SIGTERM);
        daemon.signal(Signal::SIGCONT);
        peer.target.tell("survey");
        let ended = daemon.end();
        // Served, or at least ended; neither zeros nor a wait for ever.
        let done = || peer.has_ended() || !peer.waits();
        wait_until("the VM to be served or killed", done);
        if !peer.has_ended() {
            let numbers = peer.target.hear_numbers();
            assert_eq!(numbers, [64, 0, 0, 0], "{words}: {ended:?}");
        }
    }
}

/// What can tell nothing cannot tell that its process has ended either.
#[test]
fn a_userfaultfd_that_was_never_made_ready_holds_nobody_up() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--max-sessions", "1"]);
    let mut bad = Peer::start(&lab.whole(), "");
    // It may be killed before it can say that it has sent it.
    bad.tell_to_hand_over(&lab.socket(), "descriptor=raw");
    wait_until("it to be killed", || bad.has_ended());
    let mut good = Peer::served(&lab.whole(), "", &lab.socket());
    daemon.event_of("serving", good.pid());
    good.check_all();
    daemon.complete(&good);
    daemon.signal(Signal::SIGTERM);
    daemon.end();
}

fn fill(pipe: &OwnedFd) {
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("fcntl");
    for size in [512, 1] {
        while nix::unistd::write(pipe, &vec![b'.'; size]).is_ok() {}
    }
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::empty())).expect("fcntl");
}

fn ends(child: &mut Child) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// A log that nobody reads delays no VM, nor the end.
#[test]
fn nobody_waits_for_who_reads_the_output() {
    for json in [false, true] {
        let lab = Lab::new(64);
        let (_unread, pipe) = nix::unistd::pipe().expect("a pipe");
        let mut command = command(&lab.snapshot(), if json { &["--json"] } else { &[] });
        command.arg("--listen").arg(lab.socket());
        let (full, other) = (pipe.try_clone().expect("dup"), Stdio::null());
        let (out, err) = if json {
            (full.into(), other)
        } else {
            (other, full.into())
        };
        let mut daemon = command.stdout(out).stderr(err).spawn().expect("it runs");
        wait_until("it to listen", || UnixStream::connect(lab.socket()).is_ok());
        fill(&pipe);
        let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
        peer.target.tell("check 0 64 1");
        // Room is made at the end only, whatever came of it: a test that fails must end, too.
        let deadline = Instant::now() + Duration::from_secs(5);
        std::thread::sleep(Duration::from_millis(100));
        while peer.waits() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stuck = peer.waits();
        let pid = i32::try_from(daemon.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it lives");
        let ended = ends(&mut daemon);
        drop(daemon.kill());
        drop(daemon.wait());
        assert!(!stuck, "json {json}: the VM waits for a page");
        assert!(ended, "json {json}: the daemon does not end");
        assert_eq!(peer.target.hear(), "right");
    }
}

/// Process 1 of a container, or who has said PR_SET_CHILD_SUBREAPER: the guard becomes a child of the VMM.
#[test]
fn the_guard_of_a_vmm_that_adopts_it_kills_the_vmm() {
    let lab = Lab::new(64);
    let mut peer = Peer::start(&lab.whole(), "");
    let daemon = peer.ask(&format!(
        "launch {} --quiet --snapshot {} --listen {}",
        env!("CARGO_BIN_EXE_uffd-restore"),
        lab.snapshot().display(),
        lab.socket().display()
    ));
    wait_until("it to listen", || lab.socket().exists());
    peer.hand_over(&lab.socket(), "drop");
    assert_eq!(peer.ask("read 1"), "right");
    signal_daemon(daemon.parse().expect("a pid"), Signal::SIGKILL);
    std::thread::sleep(Duration::from_secs(1));
    if !peer.has_ended() && !peer.waits() {
        let survey = peer.survey();
        assert_eq!(survey.zero, 0, "{survey:?}");
    }
    wait_until("the VMM to be killed", || peer.has_ended());
}

/// Its userfaultfd is the daemon's already, and nobody else will ever serve it.
#[test]
fn who_waits_for_a_place_does_not_outlive_the_daemon() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--max-sessions", "1"]);
    let served = daemon.serve(&lab);
    let mut waiting = Peer::served(&lab.whole(), "", &lab.socket());
    waiting.target.tell("read 1");
    wait_until("it to wait for its page", || waiting.waits());
    // Received, not only sent.
    std::thread::sleep(Duration::from_millis(200));
    daemon.signal(Signal::SIGKILL);
    wait_until("the one that was served to be killed", || {
        served.has_ended()
    });
    wait_until("the one that waited to be killed", || waiting.has_ended());
}

/// It would exist, and nobody could connect.
#[test]
fn a_name_that_nobody_can_connect_to_is_refused() {
    let lab = Lab::new(4);
    let folder = lab.path(&"x".repeat(60));
    std::fs::create_dir(&folder).expect("a folder");
    let socket = folder.join("firecracker-uffd-0123456789-0123456789.sock");
    assert!(socket.as_os_str().len() > 107);
    let mut command = command(&lab.snapshot(), &["--json", "--listen"]);
    command.arg(&socket);
    let daemon = Daemon::spawn(command, &lab);
    wait_until("a verdict", || {
        socket.exists() || daemon.errors().contains("107")
    });
    assert!(!socket.exists(), "it is there, and of no use");
}
