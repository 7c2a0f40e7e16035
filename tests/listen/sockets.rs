//! Who may connect, and where.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};

use crate::daemon::{Daemon, command};
use crate::lab::Lab;
use crate::peer::Peer;

const NOBODY: &str = "65534";

fn mode(lab: &Lab) -> u32 {
    let metadata = fs::metadata(lab.socket()).expect("the socket");
    metadata.permissions().mode() & 0o777
}

#[test]
fn by_itself_it_is_for_its_own_user_only() {
    let lab = Lab::new(16);
    let daemon = Daemon::listening(&lab, &[]);
    assert_eq!(mode(&lab), 0o600);
    daemon.terminate();
}

#[test]
fn mode_and_owner_as_told() {
    let lab = Lab::new(64);
    let words = [
        "--socket-mode",
        "0620",
        "--socket-owner",
        "65534:12",
        "--allow-uid",
        NOBODY,
    ];
    let daemon = Daemon::listening(&lab, &words);
    let metadata = fs::metadata(lab.socket()).expect("the socket");
    assert_eq!(mode(&lab), 0o620);
    assert_eq!((metadata.uid(), metadata.gid()), (65534, 12));
    // Who owns it may use it.
    let mut peer = Peer::start(&lab.whole(), "uid=65534");
    peer.hand_over(&lab.socket(), "");
    peer.check_all();
    daemon.complete(&peer);
    daemon.terminate();
}

#[test]
fn users_that_are_not_allowed_are_sent_away() {
    let lab = Lab::new(64);
    // By itself it serves its own user, and whoever is named else.
    for allowed in [&[][..], &["--allow-uid", "0"], &["--allow-uid", "65533"]] {
        sends_nobody_away(&lab, &[&["--socket-mode", "0666"], allowed].concat());
    }
}

fn sends_nobody_away(lab: &Lab, words: &[&str]) {
    let daemon = Daemon::listening(lab, words);
    let mut nobody = Peer::start(&lab.whole(), "uid=65534");
    nobody.tell_to_hand_over(&lab.socket(), "");
    let refused = daemon.event_of("refused", nobody.pid());
    let why = refused["why"].as_str().expect("a sentence");
    assert!(why.contains(NOBODY), "{why}");
    // It keeps its memory, and is not killed: nothing was taken from it.
    if nobody.target.hear() == "sent" {
        assert_eq!(nobody.ask("is-closed"), "true");
    }
    assert!(!nobody.has_ended());
    let mut root = daemon.serve(lab);
    root.check_all();
    daemon.complete(&root);
    assert_eq!(daemon.terminate().number("sessions"), 1);
}

#[test]
fn users_that_are_allowed() {
    let lab = Lab::new(64);
    let words = [
        "--socket-mode",
        "0666",
        "--allow-uid",
        "1",
        "--allow-uid",
        NOBODY,
    ];
    let daemon = Daemon::listening(&lab, &words);
    let mut nobody = Peer::start(&lab.whole(), "uid=65534");
    nobody.hand_over(&lab.socket(), "");
    nobody.check_all();
    daemon.complete(&nobody);
    let mut other = Peer::start(&lab.whole(), "uid=65533");
    other.tell_to_hand_over(&lab.socket(), "");
    daemon.event_of("refused", other.pid());
    // Root may do everything anyway.
    let mut root = daemon.serve(&lab);
    root.check_all();
    daemon.terminate();
}

/// What a daemon that was killed has left is replaced.
#[test]
fn a_socket_that_nobody_listens_at() {
    let lab = Lab::new(64);
    drop(UnixListener::bind(lab.socket()).expect("bind"));
    assert!(lab.socket().exists());
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = daemon.serve(&lab);
    peer.check_all();
    daemon.terminate();
}

#[test]
fn a_socket_that_somebody_listens_at() {
    let lab = Lab::new(64);
    let first = Daemon::listening(&lab, &[]);
    let mut second = command(&lab.snapshot(), &["--json", "--listen"]);
    second.arg(lab.socket());
    let ended = Daemon::spawn(second, &lab).end();
    assert_eq!(ended.status, 2, "{ended:?}");
    assert!(
        ended.err.contains(&lab.socket().display().to_string()),
        "{ended:?}"
    );
    // The first one has not noticed.
    let mut peer = first.serve(&lab);
    peer.check_all();
    first.terminate();
}

#[test]
fn a_file_that_is_no_socket_is_not_replaced() {
    let lab = Lab::new(16);
    fs::write(lab.socket(), "precious").expect("write");
    let mut command = command(&lab.snapshot(), &["--listen"]);
    command.arg(lab.socket());
    let ended = Daemon::spawn(command, &lab).end();
    assert_eq!(ended.status, 2, "{ended:?}");
    let kept = fs::read_to_string(lab.socket()).expect("the file");
    assert_eq!(kept, "precious");
}

/// Nobody is to be let in and then told that there is nothing to serve.
#[test]
fn without_a_good_snapshot_it_does_not_listen() {
    let lab = Lab::new(16);
    for name in ["none", "folder"] {
        if name == "folder" {
            fs::create_dir(lab.path(name)).expect("a folder");
        }
        let mut command = command(&lab.path(name), &["--listen"]);
        command.arg(lab.socket());
        let ended = Daemon::spawn(command, &lab).end();
        assert_eq!(ended.status, 1, "{ended:?}");
        assert!(ended.err.contains(name), "{ended:?}");
        assert!(!lab.socket().exists());
        UnixStream::connect(lab.socket()).expect_err("nobody listens");
    }
}
