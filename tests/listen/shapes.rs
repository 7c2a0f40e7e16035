//! Several mappings in a region, holes, faults of the kernel's, packed snapshots and raw files.

use std::fs;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;

#[test]
fn a_raw_file_and_a_snapshot_of_it_are_the_same() {
    // A last frame that is not full.
    let lab = Lab::with(333, &["--frame-pages", "16", "--codec", "zstd"]);
    for snapshot in [lab.snapshot(), lab.memory()] {
        for words in [&[][..], &["--prefill", "all"]] {
            let daemon = Daemon::listening_with(&lab, &snapshot, words);
            let mut peer = Peer::served("300,33", "", &lab.socket());
            peer.check_all();
            let done = daemon.complete(&peer);
            let installed = ["demand", "neighbours", "prefill", "zero"];
            let installed: u64 = installed.iter().map(|kind| done.pages(kind)).sum();
            assert!(installed >= 333, "{done:?}");
            daemon.terminate();
        }
    }
}

/// Holes of a raw file are zeros.
#[test]
fn a_sparse_raw_file() {
    let lab = Lab::new(64);
    let file = fs::File::create(lab.path("sparse")).expect("a file");
    file.set_len(64 * 4096).expect("a length");
    let daemon = Daemon::listening_with(&lab, &lab.path("sparse"), &["--prefill", "all"]);
    let mut peer = daemon.serve(&lab);
    let survey = peer.survey();
    // Every fifth page is zero in the file that the peer knows.
    assert_eq!((survey.right, survey.zero), (13, 51), "{survey:?}");
    daemon.complete(&peer);
}

/// Zero pages cost no bytes, and are installed all the same.
#[test]
fn in_any_order_and_whoever_is_first() {
    let lab = Lab::new(1024);
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = daemon.serve(&lab);
    peer.must("check 0 1024 8");
    let done = daemon.complete(&peer);
    assert!(done.pages("zero") >= 1024 / 5, "{done:?}");
}

#[test]
fn several_mappings_in_a_region() {
    let lab = Lab::with(512, &["--frame-pages", "64", "--codec", "zstd"]);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        // They meet in the middle of a frame.
        let mut peer = Peer::served("65,447", "split", &lab.socket());
        peer.check_all();
        daemon.complete(&peer);
        daemon.terminate();
    }
}

#[test]
fn holes_are_stepped_over() {
    let lab = Lab::with(512, &["--frame-pages", "64", "--codec", "zstd"]);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        // Slots of 28 pages: a frame has pages of several.
        let mut peer = Peer::served("64,448", "slots=16", &lab.socket());
        peer.check_all();
        daemon.terminate();
        peer.check_all();
        peer.finish();
    }
}

/// As for a snapshot of the VM that is being restored.
#[test]
fn the_kernel_reads_and_writes_memory_that_is_missing() {
    let lab = Lab::new(1024);
    // Each frame is to be asked for.
    let daemon = Daemon::listening(&lab, &["--read-ahead", "0"]);
    let mut peer = daemon.serve(&lab);
    for page in [7, 8, 23, 512] {
        peer.must(&format!("poke {page}"));
    }
    peer.must("remove 600 9");
    peer.must("poke 604");
    peer.must("pipe 0 1024");
    peer.check_all();
    let done = daemon.complete(&peer);
    assert!(done.faults() > 100, "{done:?}");
}

/// Pages that the VMM wrote to while it handed over are its own.
#[test]
fn what_was_there_before_stays() {
    let lab = Lab::new(128);
    let daemon = Daemon::listening(&lab, &["--prefill", "all"]);
    let mut peer = Peer::start(&lab.whole(), "");
    // Removed before anybody reads events would wait for ever; so only what needs no fault: another mapping.
    peer.must("replace 17 3");
    peer.must("write 17 3");
    peer.hand_over(&lab.socket(), "");
    peer.check_all();
    daemon.terminate();
    peer.check_all();
}
