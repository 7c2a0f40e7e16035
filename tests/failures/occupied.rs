//! Memory that somebody serves already.

use super::actor::Actor;
use super::daemon::{Daemon, restoring, run};
use super::lab::Lab;

#[test]
fn the_second_of_two_daemons_is_refused_and_harms_nothing() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    let mut actor = Actor::start(64);
    let first = Daemon::serving(&snapshot, &actor, &[]);
    assert_eq!(actor.ask("read 3"), "new");
    run(restoring(&snapshot, &actor, &[])).assert(
        1,
        &[
            "another userfaultfd",
            "another uffd-restore",
            "End that first",
        ],
    );
    actor.assert_restored();
    first.end().assert(0, &["all memory is in place"]);
}

#[test]
fn two_daemons_that_start_at_once_do_not_disturb_each_other() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    for _ in 0..5 {
        let mut actor = Actor::start(64);
        let two = [(); 2].map(|()| Daemon::spawn(restoring(&snapshot, &actor, &["--prefill=all"])));
        let ended = two.map(Daemon::end);
        // One after the other they may both do it.
        assert!(ended.iter().any(|ended| ended.status == 0), "{ended:?}");
        for ended in &ended {
            if ended.status != 0 {
                let parts = ["another userfaultfd", "already traced by uffd-worker"];
                assert!(
                    parts.iter().any(|part| ended.err.contains(part)),
                    "{ended:?}"
                );
                ended.assert(1, &[]);
            }
        }
        actor.assert_restored();
    }
}

#[test]
fn a_userfaultfd_of_the_targets_own_is_respected() {
    let (_lab, snapshot) = Lab::with_snapshot(64);
    // Missing pages; write protection, which can be seen only by trying.
    for mode in [1, 2] {
        let mut actor = Actor::with(64, &format!("registered={mode}"));
        run(restoring(&snapshot, &actor, &[]))
            .assert(1, &[&format!("{:x}", actor.address), "another userfaultfd"]);
        actor.assert_untouched();
        // And it still has it.
        let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", actor.pid())).expect("smaps");
        let flag = if mode == 1 { " um" } else { " uw" };
        assert!(smaps.contains(flag), "no longer registered");
    }
}
