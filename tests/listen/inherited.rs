//! Sockets that somebody else opened: systemd, or who starts the daemon.
#![expect(unsafe_code, reason = "a descriptor with a certain number for a child")]

use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::daemon::{Daemon, command};
use crate::lab::Lab;
use crate::peer::Peer;

/// The command with a descriptor as number 3, after some shell, like `A=1 B=2`.
pub(crate) fn inheriting(inner: &Command, descriptor: impl AsFd, settings: &str) -> Command {
    let number = descriptor.as_fd().as_raw_fd();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{settings} exec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let inherit = move || {
        let result = if number == 3 {
            // SAFETY: plain numbers. (It is closed at exec otherwise.)
            unsafe { libc::fcntl(3, libc::F_SETFD, 0) }
        } else {
            // SAFETY: plain numbers; the descriptor is open in the parent until the child has been started.
            unsafe { libc::dup2(number, 3) }
        };
        nix::errno::Errno::result(result)?;
        Ok(())
    };
    // SAFETY: one system call is all that is done between fork and exec.
    unsafe { shell.pre_exec(inherit) };
    shell
}

/// A daemon with a listening socket as number 3.
fn listening(lab: &Lab, words: &[&str], settings: &str) -> Daemon {
    let listener = UnixListener::bind(lab.socket()).expect("bind");
    let inner = command(&lab.snapshot(), &[words, &["--json"]].concat());
    let daemon = Daemon::spawn(inheriting(&inner, &listener, settings), lab);
    daemon.event("listening");
    daemon
}

fn serves(lab: &Lab, daemon: Daemon) {
    for _ in 0..2 {
        let mut peer = daemon.serve(lab);
        peer.check_all();
        daemon.complete(&peer);
    }
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    let ended = daemon.end();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.number("sessions"), 2);
    // It is not its own to remove.
    assert!(lab.socket().exists());
}

#[test]
fn a_descriptor() {
    let lab = Lab::new(64);
    let daemon = listening(&lab, &["--listen", "fd:3"], "");
    serves(&lab, daemon);
}

#[test]
fn socket_activation() {
    let lab = Lab::new(64);
    let daemon = listening(&lab, &["--listen", "systemd"], "LISTEN_FDS=1 LISTEN_PID=$$");
    serves(&lab, daemon);
}

/// Those who were first are first: they connected before the daemon was started.
#[test]
fn a_vm_that_waits_for_the_daemon_to_be_started() {
    let lab = Lab::new(64);
    let listener = UnixListener::bind(lab.socket()).expect("bind");
    let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
    peer.target.tell("check 0 64 2");
    let inner = command(&lab.snapshot(), &["--listen", "systemd", "--json"]);
    let settings = "LISTEN_FDS=1 LISTEN_PID=$$";
    let daemon = Daemon::spawn(inheriting(&inner, &listener, settings), &lab);
    assert_eq!(peer.target.hear(), "right");
    daemon.complete(&peer);
}

#[test]
fn nothing_was_passed_on() {
    let lab = Lab::new(16);
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    for (words, settings, part) in [
        ("systemd", "", "no socket was passed"),
        (
            "systemd",
            "LISTEN_FDS=1 LISTEN_PID=1",
            "no socket was passed",
        ),
        ("systemd", "LISTEN_FDS=0 LISTEN_PID=$$", "0 sockets"),
        ("systemd", "LISTEN_FDS=x LISTEN_PID=$$", "0 sockets"),
        ("systemd", "LISTEN_FDS=2 LISTEN_PID=$$", "2 sockets"),
        ("systemd", "LISTEN_FDS=1 LISTEN_PID=$$", "listening"),
        ("fd:3", "", "listening"),
        ("fd:77", "", "not open"),
        ("fd:1", "", "other uses"),
        ("fd:-1", "", "fd:-1"),
        ("fd:x", "", "fd:x"),
    ] {
        let inner = command(&lab.snapshot(), &["--listen", words]);
        let ended = Daemon::spawn(inheriting(&inner, &null, settings), &lab).end();
        assert!([1, 2].contains(&ended.status), "{ended:?}");
        assert!(ended.err.contains(part), "no {part:?} in {ended:?}");
    }
}

/// Numbers that nobody passed are those of nothing, although this program opens files of its own by and by.
#[test]
fn numbers_that_only_this_program_uses() {
    let lab = Lab::new(16);
    for number in 3..20 {
        let listen = format!("fd:{number}");
        let inner = command(&lab.snapshot(), &["--listen", &listen]);
        // Whoever runs the tests may have passed on what it has open.
        let mut shell = std::process::Command::new("bash");
        shell
            .args([
                "-c",
                "for n in {3..20}; do eval \"exec $n>&-\"; done; exec \"$@\"",
                "bash",
            ])
            .arg(inner.get_program())
            .args(inner.get_args());
        let ended = Daemon::spawn(shell, &lab).end();
        assert_eq!(ended.status, 2, "{ended:?}");
        assert!(ended.err.contains("not open"), "{number}: {ended:?}");
    }
}

#[test]
fn a_descriptor_has_one_use() {
    let lab = Lab::new(16);
    let null = std::fs::File::open("/dev/null").expect("/dev/null");
    let words = ["--ready-fd", "3", "--listen", "fd:3"];
    let inner = command(&lab.snapshot(), &words);
    let ended = Daemon::spawn(inheriting(&inner, &null, ""), &lab).end();
    assert_eq!(ended.status, 2, "{ended:?}");
    assert!(ended.err.contains("names the same"), "{ended:?}");
}

/// Somebody else has accepted the connection: this daemon is for that VM.
#[test]
fn a_connection() {
    let lab = Lab::new(64);
    for words in ["", "version=1", "pieces=3 on=2", "drop"] {
        drop(std::fs::remove_file(lab.socket()));
        let listener = UnixListener::bind(lab.socket()).expect("bind");
        let mut peer = Peer::start(&lab.whole(), "");
        peer.tell_to_hand_over(&lab.socket(), words);
        let (connection, _) = listener.accept().expect("accept");
        let inner = command(&lab.snapshot(), &["--peer-fd", "3", "--json"]);
        let daemon = Daemon::spawn(inheriting(&inner, &connection, ""), &lab);
        drop(connection);
        assert_eq!(peer.target.hear(), "sent");
        peer.check_all();
        daemon.complete(&peer);
        let ended = daemon.end();
        assert_eq!(ended.status, 0, "{ended:?}");
        peer.check_all();
        peer.finish();
    }
}

#[test]
fn a_connection_to_one_that_cannot_be_served() {
    let lab = Lab::new(64);
    let listener = UnixListener::bind(lab.socket()).expect("bind");
    let mut peer = Peer::start("63", "");
    peer.tell_to_hand_over(&lab.socket(), "");
    let (connection, _) = listener.accept().expect("accept");
    let inner = command(&lab.snapshot(), &["--peer-fd", "3"]);
    let ended = Daemon::spawn(inheriting(&inner, &connection, ""), &lab).end();
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(ended.err.contains("258048"), "{ended:?}");
    assert!(!peer.end().success());
}
