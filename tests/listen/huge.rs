//! Huge pages: the page size is what the hand-over says, whatever was packed.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::{Peer, SMALL_IN_HUGE};
use crate::support::huge::HugePages;

const HUGE: usize = 6;

fn lab(frame_pages: &str) -> Lab {
    Lab::with(
        HUGE * SMALL_IN_HUGE,
        &["--frame-pages", frame_pages, "--codec", "lz4"],
    )
}

fn regions() -> String {
    format!("{},{}", 4 * SMALL_IN_HUGE, 2 * SMALL_IN_HUGE)
}

#[test]
fn frames_of_small_pages_are_served_in_huge_ones() {
    let _reserved = HugePages::reserve(8);
    for frame_pages in ["1", "16", "512"] {
        let lab = lab(frame_pages);
        for words in [&[][..], &["--prefill", "all"]] {
            let daemon = Daemon::listening(&lab, words);
            let mut peer = Peer::start(&regions(), "huge");
            peer.hand_over(&lab.socket(), "");
            peer.check_all();
            let done = daemon.complete(&peer);
            let installed = ["demand", "neighbours", "prefill", "zero"];
            let installed: u64 = installed.iter().map(|kind| done.pages(kind)).sum();
            assert!(installed >= (HUGE * SMALL_IN_HUGE) as u64, "{done:?}");
            peer.finish();
            daemon.terminate();
        }
    }
}

/// The first version that had them called it `page_size_kib`, and meant bytes.
#[test]
fn the_size_has_an_older_name() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("4");
    let daemon = Daemon::listening_with(&lab, &lab.memory(), &[]);
    let mut peer = Peer::start(&regions(), "huge");
    peer.hand_over(&lab.socket(), "version=7");
    peer.check_all();
    daemon.complete(&peer);
}

#[test]
fn whole_pages_are_removed_and_parts_are_not() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("4");
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = Peer::start(&regions(), "huge");
    peer.hand_over(&lab.socket(), "");
    // The kernel frees no part of a page: in a page that never came, in one that is there.
    peer.must("remove 512 1");
    peer.must("remove 512 511");
    let inside = peer.ask("remove 515 4");
    assert!(inside.contains("EINVAL"), "{inside}");
    peer.must("check 0 512 2");
    peer.must("remove 0 100");
    // One and a half.
    peer.must("remove 1024 768");
    peer.check_all();
    peer.must("remove 2560 512");
    peer.check_all();
    let done = daemon.complete(&peer);
    assert!(done.pages("removed") >= 512, "{done:?}");
}

#[test]
fn the_kernel_reads_huge_pages_that_are_missing() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("16");
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = Peer::start(&regions(), "huge");
    peer.hand_over(&lab.socket(), "");
    peer.must("poke 1000");
    peer.must("pipe 0 2048");
    peer.check_all();
    daemon.complete(&peer);
}

/// Slots of virtio-mem, each a huge page.
#[test]
fn huge_slots() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("16");
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = Peer::start(&format!("{},{}", 2 * 512, 4 * 512), "huge slots=4");
    peer.hand_over(&lab.socket(), "");
    peer.check_all();
    peer.must("unplug 1024 512");
    peer.must("plug-zero 1024 512");
    peer.must("plug 1536 512");
    peer.check_all();
    daemon.terminate();
    peer.check_all();
}

/// Memory that is not of the size that the file has is not served in part.
#[test]
fn one_that_has_a_page_more_is_refused() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("16");
    let daemon = Daemon::listening(&lab, &[]);
    let mut peer = Peer::start(&(7 * 512).to_string(), "huge");
    peer.tell_to_hand_over(&lab.socket(), "");
    daemon.event_of("refused", peer.pid());
    assert!(!peer.end().success());
    let mut next = Peer::start(&regions(), "huge");
    next.hand_over(&lab.socket(), "");
    next.check_all();
}

/// Small pages are promised, and the memory has huge ones; or the other way round.
#[test]
fn a_size_that_is_not_that_of_the_memory() {
    let _reserved = HugePages::reserve(8);
    let lab = lab("16");
    let daemon = Daemon::listening(&lab, &[]);
    for (layout, words) in [("huge", "page-size=4096"), ("", "page-size=2097152")] {
        let mut peer = Peer::start(&regions(), layout);
        peer.tell_to_hand_over(&lab.socket(), words);
        daemon.verdict(peer.pid());
        // It may have been killed by now.
        let pages = HUGE * SMALL_IN_HUGE;
        drop(peer.target.try_tell(&format!("check 0 {pages} 2;quit")));
        let said = peer.target.rest();
        assert!(!said.contains("should be"), "{layout} {words}: {said}");
        // Served right, or killed.
        assert_eq!(said.contains("right"), peer.end().success(), "{said}");
    }
}
