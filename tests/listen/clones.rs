//! Many VMs from one snapshot, at once.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;

const CLONES: usize = 32;

fn start(lab: &Lab, count: usize) -> Vec<Peer> {
    (0..count).map(|_| Peer::start(&lab.whole(), "")).collect()
}

/// All hand over at once, and then touch everything at once.
fn all_at_once(lab: &Lab, peers: &mut [Peer]) {
    let pages = lab.pages;
    for peer in &mut *peers {
        peer.tell_to_hand_over(&lab.socket(), "");
        peer.target.tell(&format!("check 0 {pages} 2"));
    }
    for peer in peers {
        assert_eq!(peer.target.hear(), "sent");
        assert_eq!(peer.target.hear(), "right", "{}", peer.pid());
    }
}

/// And each frame is decoded once for all.
#[test]
fn every_page_of_every_clone() {
    let lab = Lab::with(1024, &["--frame-pages", "8", "--codec", "zstd"]);
    let daemon = Daemon::listening(&lab, &["--cache-size", "64MiB"]);
    let mut peers = start(&lab, CLONES);
    all_at_once(&lab, &mut peers);
    let mut sessions = std::collections::BTreeSet::new();
    for peer in &peers {
        let done = daemon.complete(peer);
        sessions.insert(done.0["session"].as_u64());
        assert!(!peer.is_registered());
    }
    assert_eq!(sessions.len(), CLONES);
    let ended = daemon.terminate();
    assert_eq!(ended.number("sessions"), CLONES as u64);
    assert_eq!(ended.number("decodes"), lab.frames());
    assert!(ended.number("cache_hits") > lab.frames());
    for mut peer in peers {
        peer.check_all();
        peer.finish();
    }
}

/// As fast as it can, nobody's touching needed.
#[test]
fn prefilled_clones() {
    let lab = Lab::with(1024, &["--frame-pages", "8", "--codec", "zstd"]);
    let daemon = Daemon::listening(&lab, &["--cache-size", "64MiB", "--prefill", "all"]);
    let mut peers = start(&lab, 12);
    for peer in &mut peers {
        peer.hand_over(&lab.socket(), "");
    }
    for peer in &mut peers {
        daemon.complete(peer);
        peer.check_all();
    }
    assert_eq!(daemon.terminate().number("decodes"), lab.frames());
}

/// A cache that holds next to nothing, or nothing, is slower and not wrong.
#[test]
fn a_small_cache() {
    let lab = Lab::with(1024, &["--frame-pages", "16", "--codec", "lz4"]);
    for size in ["64KiB", "0B"] {
        let daemon = Daemon::listening(&lab, &["--cache-size", size]);
        let mut peers = start(&lab, 6);
        all_at_once(&lab, &mut peers);
        for peer in &peers {
            daemon.complete(peer);
        }
        assert!(daemon.terminate().number("decodes") >= lab.frames());
    }
}

/// Some are killed in the middle. Their sessions end, and no other one is disturbed.
#[test]
fn some_are_killed() {
    let lab = Lab::new(1024);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peers = start(&lab, 12);
    for peer in &mut peers {
        peer.hand_over(&lab.socket(), "");
        daemon.event_of("serving", peer.pid());
        peer.target.tell("check 0 1024 2");
    }
    let (killed, living) = peers.split_at_mut(4);
    // In the middle: their first threads stand at a page, or they have everything by now.
    for peer in &mut *killed {
        peer.target.kill();
    }
    for peer in living {
        assert_eq!(peer.target.hear(), "right");
        daemon.complete(peer);
    }
    for peer in killed {
        let done = daemon.event_of("done", peer.pid());
        let outcome = done["outcome"].as_str().expect("a word");
        assert!(["target-ended", "complete"].contains(&outcome), "{done}");
    }
    daemon.terminate();
}

/// One that is killed has a page outstanding for sure; also one that said nothing on its socket since, and one whose socket
/// was closed long ago.
#[test]
fn the_end_of_a_vm_is_noticed() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &[]);
    let mut other = daemon.serve(&lab);
    for words in ["version=1", "version=16", "drop", "version=1 drop"] {
        let mut peer = Peer::start(&lab.whole(), "");
        peer.hand_over(&lab.socket(), words);
        peer.must("check 0 100 2");
        peer.target.kill();
        peer.target.end();
        let done = daemon.event_of("done", peer.pid());
        assert_eq!(done["outcome"], "target-ended", "{done}");
        other.must("check 0 50 2");
    }
    other.check_all();
    daemon.complete(&other);
    daemon.terminate();
}

/// One after the other: nothing of a session is left in the daemon.
#[test]
fn sessions_leave_nothing_behind() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    let count = |what: &str| {
        std::fs::read_dir(format!("/proc/{}/{what}", daemon.pid()))
            .expect("the daemon")
            .count()
    };
    let mut before = None;
    for round in 0..20 {
        let mut peer = daemon.serve(&lab);
        if round % 2 == 0 {
            peer.check_all();
            peer.finish();
        } else {
            peer.must("check 3 1 1");
            peer.target.kill();
            peer.target.end();
        }
        crate::support::wait_until("the end of the session", || {
            daemon.count("done") == round + 1
        });
        if round == 3 {
            before = Some((count("fd"), count("task")));
        }
    }
    let (files, threads) = before.expect("counted");
    crate::support::wait_until("threads and descriptors to go", || {
        count("fd") <= files && count("task") <= threads
    });
    daemon.terminate();
}
