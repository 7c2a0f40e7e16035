//! The first VM is recorded; those that come later get what it touched before they ask.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::{PAGE, Peer};
use crate::support::wait_until;

const PAGES: usize = 1024;
const TOUCHED: usize = 300;

/// Which of these pages of a peer's memory are there.
fn present(peer: &Peer, pages: Range<usize>) -> usize {
    const PRESENT: u8 = 0x80;
    let pagemap = File::open(format!("/proc/{}/pagemap", peer.pid())).expect("it lives");
    let first = peer.regions[0].0 / PAGE as u64 + pages.start as u64;
    let mut entries = vec![[0; 8]; pages.len()];
    pagemap
        .read_exact_at(entries.as_flattened_mut(), first * 8)
        .expect("entries");
    let there = entries.iter().filter(|entry| entry[7] & PRESENT != 0);
    there.count()
}

#[test]
fn the_second_vm_has_what_the_first_touched() {
    let lab = Lab::new(PAGES);
    let set = lab.path("snapshot.ws");
    let daemon = Daemon::listening(&lab, &["--record-working-set"]);
    let mut first = daemon.serve(&lab);
    first.must(&format!("check 100 {TOUCHED} 1"));
    first.target.kill();
    let done = daemon.event_of("done", first.pid());
    assert_eq!(done["pages"]["neighbours"], 0, "one by one: {done}");
    let recorded = daemon.event("recorded");
    assert_eq!(recorded["touches"], TOUCHED, "{recorded}");
    assert!(set.exists());

    // The same daemon has it at once, and nobody is recorded any more.
    let mut second = daemon.serve(&lab);
    wait_until("the set to be installed", || {
        present(&second, 100..100 + TOUCHED) == TOUCHED
    });
    second.must(&format!("check 100 {TOUCHED} 1"));
    second.check_all();
    let done = daemon.complete(&second);
    assert!(done.pages("replayed") > 0, "{done:?}");
    assert_eq!(daemon.count("recorded"), 1);
    daemon.terminate();

    // And another one finds it beside the snapshot.
    let daemon = Daemon::listening(&lab, &[]);
    let mut third = daemon.serve(&lab);
    wait_until("the set to be installed", || {
        present(&third, 100..100 + TOUCHED) == TOUCHED
    });
    third.check_all();
    assert!(daemon.complete(&third).pages("replayed") > 0);
    daemon.terminate();
    for peer in [second, third] {
        peer.finish();
    }
}

/// What the balloon takes back while the set is being installed stays away, and several at once have their own.
#[test]
fn many_at_once_with_a_balloon() {
    let lab = Lab::new(PAGES);
    let daemon = Daemon::listening(&lab, &["--record-working-set"]);
    let mut first = daemon.serve(&lab);
    first.check_all();
    first.target.kill();
    daemon.event("recorded");
    let mut peers: Vec<_> = (0..12).map(|_| daemon.serve(&lab)).collect();
    for peer in &mut peers {
        peer.target.tell("sweep");
    }
    let mut replayed = 0;
    for peer in &mut peers {
        assert_eq!(peer.target.hear(), "right");
        peer.check_all();
        replayed += daemon.complete(peer).pages("replayed");
    }
    assert!(replayed > 100, "{replayed}");
    daemon.terminate();
    for mut peer in peers {
        peer.check_all();
        peer.finish();
    }
}

/// Who is recorded while another one is being recorded is not: one at a time, as many as were asked for.
#[test]
fn one_at_a_time_is_recorded() {
    let lab = Lab::new(PAGES);
    let words = [
        "--record-working-set",
        "--record-runs",
        "2",
        "--record-idle",
        "100ms",
    ];
    let daemon = Daemon::listening(&lab, &words);
    let mut recorded = daemon.serve(&lab);
    let mut other = daemon.serve(&lab);
    recorded.must("check 0 100 1");
    other.must("check 0 100 1");
    let value = daemon.event("recorded");
    assert_eq!(value["touches"], 100, "{value}");
    // It goes on with its neighbours and all.
    recorded.check_all();
    other.check_all();
    for peer in [&recorded, &other] {
        daemon.complete(peer);
    }
    let mut third = daemon.serve(&lab);
    third.must("check 50 100 1");
    third.check_all();
    daemon.complete(&third);
    let ended = daemon.terminate();
    let lines = ended
        .out
        .iter()
        .filter(|line| line.contains("\"recorded\""));
    assert_eq!(lines.count(), 2, "{ended:?}");
    for peer in [recorded, other, third] {
        peer.finish();
    }
}

#[test]
fn a_raw_file_has_none() {
    let lab = Lab::new(16);
    let command = |words: &[&str]| {
        let mut command = crate::daemon::command(&lab.memory(), words);
        command.arg("--listen").arg(lab.socket());
        command.output().expect("it runs")
    };
    let refused = command(&["--record-working-set"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("uffd-snapshot pack"), "{said}");
}
