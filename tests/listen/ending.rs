//! The daemon is asked to end, or is killed.

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::Signal;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::{state, wait_until};

/// Everything that is owed to every VM comes first.
#[test]
fn it_finishes_what_it_has_begun() {
    let lab = Lab::new(2048);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peers: Vec<Peer> = (0..4).map(|_| daemon.serve(&lab)).collect();
    let mut dropping = Peer::start(&lab.whole(), "");
    dropping.hand_over(&lab.socket(), "version=1 drop");
    daemon.event_of("serving", dropping.pid());
    peers.push(dropping);
    peers[0].must("check 0 5 1");
    peers[1].must("remove 40 300");
    peers[2].must("write 100 20");
    peers[3].target.tell("check 0 2048 2");
    let ended = daemon.terminate();
    assert_eq!(peers[3].target.hear(), "right");
    assert_eq!(ended.number("sessions"), 5);
    let done = ended.out.iter().filter(|line| line.contains("complete"));
    assert_eq!(done.count(), 5, "{ended:?}");
    for mut peer in peers {
        assert!(!peer.is_registered());
        peer.check_all();
        peer.finish();
    }
}

/// One is just handing over.
#[test]
fn whoever_has_handed_over_is_not_forgotten() {
    let lab = Lab::new(256);
    for _ in 0..10 {
        let daemon = Daemon::listening(&lab, &[]);
        let mut peer = Peer::start(&lab.whole(), "");
        peer.tell_to_hand_over(&lab.socket(), "drop");
        drop(peer.target.try_tell("check 0 256 1;quit"));
        daemon.signal(Signal::SIGTERM);
        let ended = daemon.end();
        // It came in time, or too late: then it could not connect, or is killed. It has not gone on with zeros.
        let said = peer.target.rest();
        let served = ended.out.iter().any(|line| line.contains(r#""complete""#));
        assert!(
            said.starts_with("not sent") || !said.contains("should be"),
            "{said}: {ended:?}"
        );
        assert_eq!(served, said.contains("right"), "{said}: {ended:?}");
    }
}

#[test]
fn nobody_new_is_let_in() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = daemon.serve(&lab);
    daemon.terminate();
    peer.check_all();
    let mut late = Peer::start(&lab.whole(), "");
    late.tell_to_hand_over(&lab.socket(), "");
    let answer = late.target.hear();
    assert!(answer.contains("not sent"), "{answer}");
}

/// Two requests: pages are right or poisoned.
#[test]
fn asked_twice_it_gives_up_and_nothing_is_zero() {
    let lab = Lab::new(4096);
    for on_failure in ["poison", "kill"] {
        let words = ["--on-failure", on_failure];
        let daemon = Daemon::listening(&lab, &words);
        let mut peer = daemon.serve(&lab);
        peer.must("check 0 5 1");
        daemon.signal(Signal::SIGSTOP);
        wait_until("the daemon stands still", || state(daemon.pid()) == 'T');
        daemon.signal(Signal::SIGTERM);
        daemon.signal(Signal::SIGINT);
        daemon.signal(Signal::SIGCONT);
        daemon.end();
        if !peer.has_ended() {
            let survey = peer.survey();
            assert_eq!((survey.zero, survey.wrong), (0, 0), "{survey:?}");
            assert_eq!(survey.right + survey.poisoned, 4096, "{survey:?}");
        }
    }
}

/// VMMs keep their userfaultfds, or have given them away. The former may wait for ever; the latter must die.
#[test]
fn killed_it_leaves_no_zeros() {
    let lab = Lab::new(256);
    for _ in 0..4 {
        let daemon = Daemon::listening(&lab, &[]);
        let mut peers: Vec<Peer> = ["", "version=1", "drop", "version=1 drop"]
            .iter()
            .map(|words| {
                let mut peer = Peer::start(&lab.whole(), "");
                peer.hand_over(&lab.socket(), words);
                daemon.event_of("serving", peer.pid());
                peer.must("check 0 5 1");
                peer
            })
            .collect();
        // Some pages are asked for before, and some after.
        daemon.signal(Signal::SIGSTOP);
        wait_until("the daemon stands still", || state(daemon.pid()) == 'T');
        peers[0].target.tell("read 100");
        peers[2].target.tell("read 100");
        daemon.signal(Signal::SIGKILL);
        daemon.end();
        drop(peers[1].target.try_tell("read 100"));
        wait_until("the death of those that keep nothing", || {
            peers[2].has_ended() && peers[3].has_ended()
        });
        for peer in &peers[..2] {
            wait_until("the others die or wait", || {
                peer.has_ended() || peer.waits()
            });
        }
        for mut peer in peers {
            peer.target.kill();
            assert_eq!(peer.target.rest(), "", "nothing was read");
            assert_eq!(peer.end().signal(), Some(libc::SIGKILL));
        }
    }
}

/// What has everything does not need the daemon, however that ends.
#[test]
fn killed_it_harms_nobody_who_has_everything() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &[]);
    let mut finished = daemon.serve(&lab);
    finished.check_all();
    daemon.complete(&finished);
    let mut dropping = Peer::start(&lab.whole(), "");
    dropping.hand_over(&lab.socket(), "drop");
    dropping.check_all();
    daemon.complete(&dropping);
    let unfinished = daemon.serve(&lab);
    daemon.signal(Signal::SIGKILL);
    daemon.end();
    drop(unfinished);
    for mut peer in [finished, dropping] {
        peer.must("remove 5 5");
        peer.check_all();
        peer.finish();
    }
}
