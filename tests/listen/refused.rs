//! Hand-overs that cannot be served. Whoever has handed its memory over does not go on without it.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;

/// Hands over in this manner, is refused, and is killed or not.
#[track_caller]
fn refused(lab: &Lab, daemon: &Daemon, regions: &str, words: &str, parts: &[&str]) -> Peer {
    let mut peer = Peer::start(regions, "");
    // It may be killed before it can say that it has sent everything.
    peer.tell_to_hand_over(&lab.socket(), words);
    let refused = daemon.event_of("refused", peer.pid());
    let why = refused["why"].as_str().expect("a sentence");
    for part in parts {
        assert!(why.contains(part), "{words}: no {part:?} in {why:?}");
    }
    peer
}

#[track_caller]
fn killed(lab: &Lab, daemon: &Daemon, regions: &str, words: &str, parts: &[&str]) {
    use std::os::unix::process::ExitStatusExt;
    let peer = refused(lab, daemon, regions, words, parts);
    let status = peer.end();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{words}: {status}");
}

/// And serves the next one.
fn goes_on(lab: &Lab, daemon: Daemon) {
    let mut peer = daemon.serve(lab);
    peer.check_all();
    daemon.complete(&peer);
    daemon.terminate();
}

#[test]
fn sizes_that_differ_are_named_and_the_peer_is_killed() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    let (have, less, more) = ("262144", "258048", "266240");
    for drops in ["", "drop"] {
        killed(&lab, &daemon, "63", drops, &[have, less]);
        killed(&lab, &daemon, "64,1", drops, &[have, more]);
    }
    killed(&lab, &daemon, "64", "version=1 longer=1", &[have, more]);
    goes_on(&lab, daemon);
}

#[test]
fn regions_that_make_no_sense() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    for words in [
        "shifted=1",
        "shifted=-1",
        "page-size=0",
        "page-size=3",
        "page-size=8192",
        "page-size=1073741824",
        "text=empty",
        "text=object",
        "text=negative",
        "text=strings",
        "text=overflow",
    ] {
        killed(&lab, &daemon, "32,32", words, &[]);
    }
    goes_on(&lab, daemon);
}

/// What came first is not JSON, and nothing that follows makes it so.
#[test]
fn garbage_with_a_userfaultfd() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    killed(&lab, &daemon, "64", "text=garbage", &[]);
    goes_on(&lab, daemon);
}

/// Which of them has the memory?
#[test]
fn two_userfaultfds() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    killed(&lab, &daemon, "64", "descriptor=two", &["userfaultfds"]);
    goes_on(&lab, daemon);
}

/// It hands its userfaultfd over and no more, and then says nothing or goes away.
#[test]
fn half_a_message_with_a_userfaultfd() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--handshake-timeout", "1s"]);
    for version in [1, 16] {
        let words = format!("text=half version={version}");
        killed(&lab, &daemon, "64", &words, &["userfaultfd"]);
    }
    goes_on(&lab, daemon);
}

/// Nothing was handed over, so nothing is missing.
#[test]
fn a_message_without_a_userfaultfd() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--handshake-timeout", "1s"]);
    for words in ["descriptor=none version=1", "descriptor=none"] {
        let mut peer = refused(&lab, &daemon, "64", words, &["userfaultfd"]);
        assert_eq!(peer.target.hear(), "sent");
        assert!(!peer.has_ended());
        peer.finish();
    }
    goes_on(&lab, daemon);
}

#[test]
fn a_descriptor_of_something_else() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    drop(refused(
        &lab,
        &daemon,
        "64",
        "descriptor=null",
        &["userfaultfd"],
    ));
    goes_on(&lab, daemon);
}

/// Memory beyond the file would have no content.
#[test]
fn a_raw_file_that_is_too_short() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening_with(&lab, &lab.memory(), &[]);
    killed(&lab, &daemon, "65", "", &["262144", "266240"]);
    goes_on(&lab, daemon);
}
