//! Pages that cannot be served: poisoned, never zero.

use std::fs::File;

use super::actor::{Actor, Survey};
use super::daemon::Daemon;
use super::lab::{Lab, Plan, damage};

#[test]
fn a_damaged_frame_is_poison_for_who_touches_it_and_for_nobody_else() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let bad = damage(&snapshot, 21);
    assert_eq!(bad, [20, 21, 22, 23]);
    let mut actor = Actor::start(64);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    // The kernel, on behalf of the target.
    assert_eq!(actor.ask("send 21"), nix::errno::Errno::EFAULT.to_string());
    assert_eq!(actor.ask("read 21"), "sigbus");
    assert_eq!(actor.ask("read 19"), "new");
    assert_eq!(actor.ask("read 24"), "new");
    assert_eq!(
        actor.survey(),
        Survey {
            new: 60,
            poisoned: 4,
            ..Survey::default()
        }
    );
    let ended = daemon.end();
    let address = format!("{:#x}", actor.address + 21 * 4096);
    ended.assert(
        1,
        &[
            &address,
            "poisoned",
            "corrupt frame",
            "checksum",
            "not all of its memory could be restored",
            "4 pages poisoned",
            "another copy",
        ],
    );
    // Poison stays when the daemon has gone.
    assert_eq!(actor.ask("read 21"), "sigbus");
}

#[test]
fn prefill_poisons_what_it_finds_bad_and_goes_on() {
    let (_lab, snapshot) = Lab::with_snapshot(256);
    damage(&snapshot, 21);
    damage(&snapshot, 200);
    let mut actor = Actor::start(256);
    let ended = Daemon::serving(&snapshot, &actor, &["--prefill=all"]).end();
    ended.assert(1, &["8 pages poisoned"]);
    assert_eq!(
        actor.survey(),
        Survey {
            new: 248,
            poisoned: 8,
            ..Survey::default()
        }
    );
}

#[test]
fn pages_lost_at_capture_time_are_poison() {
    let lab = Lab::new();
    let plan = Plan {
        lost: vec![3, 4, 40],
        ..Plan::of(64)
    };
    let snapshot = lab.snapshot("snap", &plan);
    for prefill in ["--prefill=none", "--prefill=all"] {
        let mut actor = Actor::start(64);
        let daemon = Daemon::serving(&snapshot, &actor, &[prefill]);
        assert_eq!(
            actor.survey(),
            Survey {
                new: 61,
                poisoned: 3,
                ..Survey::default()
            }
        );
        daemon
            .end()
            .assert(1, &["lost at capture time", "3 pages poisoned"]);
    }
}

#[test]
fn a_snapshot_that_is_truncated_while_it_is_served_is_poison() {
    let (_lab, snapshot) = Lab::with_snapshot(2048);
    let mut actor = Actor::start(2048);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    assert_eq!(actor.ask("read 0"), "new");
    let file = File::options().write(true).open(&snapshot).expect("open");
    file.set_len(file.metadata().expect("metadata").len() / 4)
        .expect("truncate");
    let survey = actor.survey();
    assert_eq!(survey.new + survey.poisoned, 2048, "{survey:?}");
    assert!(survey.poisoned > 1000, "{survey:?}");
    let ended = daemon.end();
    ended.assert(1, &["truncated", "more pages are poisoned"]);
    assert!(ended.err.lines().count() < 15, "{ended:?}");
}

#[test]
fn a_damaged_node_of_the_index_is_poison() {
    let (_lab, snapshot) = Lab::with_snapshot(2048);
    // The first node: pages 0 to 255.
    let (start, _) = super::lab::section(&snapshot, snapshot_format::SectionKind::Index);
    super::lab::flip(&snapshot, start + 100);
    let mut actor = Actor::start(2048);
    let daemon = Daemon::serving(&snapshot, &actor, &[]);
    assert_eq!(
        actor.survey(),
        Survey {
            new: 2048 - 256,
            poisoned: 256,
            ..Survey::default()
        }
    );
    daemon
        .end()
        .assert(1, &["corrupt page index", "256 pages poisoned"]);
}
