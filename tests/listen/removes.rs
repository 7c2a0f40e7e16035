//! Balloons and virtio-mem: what is removed is zero from then on, and not what the snapshot has.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;

#[test]
fn what_is_removed_is_zero() {
    let lab = Lab::new(256);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        let mut peer = daemon.serve(&lab);
        // Never touched, touched, written to.
        peer.must("remove 10 20");
        peer.must("check 40 20 2");
        peer.must("remove 45 30");
        peer.must("write 100 20");
        peer.must("remove 110 5");
        peer.must("check 105 20 1");
        peer.must("write 112 1");
        peer.check_all();
        let done = daemon.complete(&peer);
        if words.is_empty() {
            assert_eq!(done.removes(), 3, "{done:?}");
            assert!(done.pages("removed") >= 20, "{done:?}");
        }
        peer.check_all();
        daemon.terminate();
    }
}

/// Pages that lie in one frame with removed ones are right.
#[test]
fn every_second_page_is_removed() {
    let lab = Lab::with(512, &["--frame-pages", "64", "--codec", "zstd"]);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = daemon.serve(&lab);
    for page in (0..512).step_by(2) {
        peer.must(&format!("remove {page} 1"));
    }
    peer.check_all();
    let done = daemon.complete(&peer);
    assert_eq!(done.removes(), 256, "{done:?}");
    assert_eq!(done.pages("removed"), 256, "{done:?}");
}

/// The last page that is owed goes by being removed.
#[test]
fn all_is_removed() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = daemon.serve(&lab);
    peer.must("remove 0 256");
    let done = daemon.complete(&peer);
    assert_eq!(done.pages("removed"), 256, "{done:?}");
    peer.check_all();
}

/// Every page that a processor sees is what was there before, or zero; and zero once madvise has returned.
fn race(seeds: std::ops::Range<u64>, daemon_words: &[&str], pack: &[&str]) {
    let lab = Lab::with(4096, pack);
    let daemon = Daemon::listening(&lab, daemon_words);
    let mut removed = 0;
    for seed in seeds {
        let mut peer = daemon.serve(&lab);
        peer.must(&format!("race {seed} 3"));
        peer.check_all();
        let done = daemon.complete(&peer);
        removed += done.removes();
        peer.finish();
    }
    assert!(removed > 100 || !daemon_words.is_empty(), "{removed}");
    daemon.terminate();
}

#[test]
fn removed_while_it_is_touched() {
    race(0..6, &[], &["--frame-pages", "4", "--codec", "lz4"]);
}

#[test]
fn removed_while_it_is_touched_in_large_frames() {
    race(10..16, &[], &["--frame-pages", "32", "--codec", "zstd"]);
}

#[test]
fn removed_while_it_is_prefilled() {
    race(
        20..26,
        &["--prefill", "all"],
        &["--frame-pages", "16", "--codec", "zstd"],
    );
}

/// Several at once, with one cache between them.
#[test]
fn removed_by_many_at_once() {
    let lab = Lab::new(2048);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peers: Vec<Peer> = (0..4).map(|_| daemon.serve(&lab)).collect();
    for (seed, peer) in peers.iter_mut().enumerate() {
        peer.target.tell(&format!("race {} 2", 40 + seed));
    }
    for peer in &mut peers {
        assert_eq!(peer.target.hear(), "right");
        peer.check_all();
        daemon.complete(peer);
    }
}

/// Balloons of old map other memory there, and nobody is told.
#[test]
fn what_is_mapped_over_is_left_alone() {
    let lab = Lab::new(256);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        let mut peer = daemon.serve(&lab);
        peer.must("replace 20 33");
        peer.must("check 0 60 2");
        peer.must("replace 200 1");
        peer.must("write 30 5");
        peer.check_all();
        let ended = daemon.terminate();
        // Also when the daemon has put everything in place.
        peer.check_all();
        assert!(ended.err.lines().count() < 20, "{ended:?}");
    }
}

/// Slots of virtio-mem come and go.
#[test]
fn memory_is_plugged_and_unplugged() {
    let lab = Lab::new(64 + 256);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        // Slots of 32 pages; the second, fourth and so on are unplugged.
        let mut peer = Peer::served("64,256", "slots=8", &lab.socket());
        peer.check_all();
        peer.must("unplug 128 32");
        peer.must("plug-zero 128 32");
        peer.must("check 128 32 2");
        // One that nobody has touched: it has what the memory file has.
        peer.must("plug 96 32");
        peer.must("check 90 70 2");
        peer.must("unplug 96 32");
        peer.must("unplug 64 32");
        peer.check_all();
        daemon.terminate();
        peer.check_all();
    }
}
