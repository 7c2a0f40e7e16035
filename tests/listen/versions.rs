//! What each version of Firecracker says. The message may come in pieces, and with more descriptors than one.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;

const PAGES: usize = 192;

/// Everything is right, and came from this daemon.
fn all_is_served(daemon: &Daemon, mut peer: Peer) {
    let serving = daemon.event_of("serving", peer.pid());
    assert!(serving["session"].is_u64(), "{serving}");
    peer.check_all();
    let done = daemon.complete(&peer);
    assert_eq!(done.0["session"], serving["session"]);
    assert!(done.faults() > 0 && done.pages("demand") > 0, "{done:?}");
    peer.finish();
}

#[test]
fn every_version_is_understood() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &[]);
    for (version, regions) in [
        (1, "192"),
        (7, "128,64"),
        (12, "128,64"),
        // RAM below and above the gaps, and virtio-mem.
        (16, "16,64,48,64"),
        (99, "100,92"),
    ] {
        for drops in ["", "drop"] {
            let mut peer = Peer::start(regions, "");
            peer.hand_over(&lab.socket(), &format!("version={version} {drops}"));
            all_is_served(&daemon, peer);
        }
    }
    assert_eq!(daemon.terminate().number("sessions"), 10);
}

#[test]
fn twenty_regions() {
    let lab = Lab::new(20 * 7);
    let daemon = Daemon::listening(&lab, &[]);
    let regions = ["7"; 20].join(",");
    all_is_served(&daemon, Peer::served(&regions, "", &lab.socket()));
}

/// Whichever piece the descriptor comes with.
#[test]
fn a_message_in_pieces() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &[]);
    for (pieces, on) in [
        (2, 0),
        (2, 1),
        (5, 0),
        (5, 3),
        (5, 4),
        (60, 0),
        (60, 31),
        (60, 59),
    ] {
        let mut peer = Peer::start("128,64", "");
        peer.hand_over(&lab.socket(), &format!("pieces={pieces} on={on}"));
        all_is_served(&daemon, peer);
    }
}

/// The connection is closed right behind the last piece.
#[test]
fn a_message_in_pieces_and_the_end() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &[]);
    for on in 0..3 {
        let mut peer = Peer::start("192", "");
        peer.hand_over(&lab.socket(), &format!("version=1 pieces=3 on={on}"));
        all_is_served(&daemon, peer);
    }
}

/// The peer sees that they are closed.
#[test]
fn surplus_descriptors_are_closed() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &[]);
    for words in [
        "surplus=1",
        "surplus=2",
        "surplus=15",
        "pieces=4 on=2 surplus=3",
        "pieces=4 on=0 stray",
        "pieces=4 on=1 surplus=1 stray",
    ] {
        let mut peer = Peer::start("192", "");
        peer.hand_over(&lab.socket(), words);
        all_is_served(&daemon, peer);
    }
}

/// Without --json there is a line for people, and the socket is in it.
#[test]
fn it_says_so_to_people() {
    let lab = Lab::new(PAGES);
    let mut command = crate::daemon::command(&lab.snapshot(), &["--listen"]);
    command.arg(lab.socket());
    let daemon = Daemon::spawn(command, &lab);
    let line = daemon.line("listening on ");
    assert!(line.contains(&lab.socket().display().to_string()), "{line}");
    let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
    peer.check_all();
    let ended = daemon.terminate();
    for part in [peer.pid().to_string(), "all memory is in place".to_owned()] {
        assert!(ended.err.contains(&part), "no {part:?} in {ended:?}");
    }
    assert_eq!(ended.out.len(), 1, "{ended:?}");
}

#[test]
fn it_says_so_on_a_descriptor() {
    use std::io::Read;
    let lab = Lab::new(PAGES);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    let mut inner = crate::daemon::command(&lab.snapshot(), &["--ready-fd", "3", "--listen"]);
    inner.arg(lab.socket());
    let command = crate::inherited::inheriting(&inner, &writer, "");
    let daemon = Daemon::spawn(command, &lab);
    drop(writer);
    let mut said = String::new();
    reader.read_to_string(&mut said).expect("the end");
    assert_eq!(said, "\n");
    let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
    peer.check_all();
    daemon.terminate();
}

#[test]
fn after_the_first_one_it_may_end() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &["--once"]);
    let mut peer = daemon.serve(&lab);
    peer.check_all();
    let ended = daemon.end();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(ended.number("sessions"), 1);
    assert!(!lab.socket().exists());
    peer.check_all();
}
