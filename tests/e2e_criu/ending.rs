//! A target that ends during the fill.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::board::Slot;
use super::case::{Case, Fill, Run, Source};
use super::daemon::Kind;
use super::support::wait_until;

#[test]
fn a_target_that_is_killed_during_the_fill_is_not_a_failure() {
    let Some(mut case) = Case::start("threads", "32", 1) else {
        return;
    };
    case.dump("images");
    for fill in [Fill::Late, Fill::Never] {
        let run = Run::start(&mut case, Kind::Ours, Source::Images, fill);
        run.board().set(Slot::Go, 1);
        run.board().wait(Slot::Checked, 100);
        run.case.kill();
        let done = run.daemon.ended(&mut run.case.stage);
        done.assert("target-ended");
    }
}

#[test]
fn a_family_that_is_killed_one_by_one_is_served_to_the_last() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    let run = Run::start(&mut case, Kind::Ours, Source::Images, Fill::Never);
    // Parents first: who ends then is taken in by the stage.
    let mut pids = run.board().pids();
    pids.sort_unstable();
    let stage = &mut run.case.stage;
    for pid in pids {
        let stat = fs::read_to_string(stage.proc(pid, "stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z") {
            // The zombie, or where it was.
            continue;
        }
        assert!(
            stage
                .end_within(run.daemon.pid, Duration::from_millis(50))
                .is_none(),
            "it ends too early: {}",
            run.daemon.said()
        );
        stage.kill(pid, Signal::SIGKILL);
        stage.await_end(pid, "a process that was killed");
    }
    run.daemon.ended(stage).assert("target-ended");
}

/// Who reads a process's memory from outside gets nothing as long as it is not there.
#[test]
fn arguments_and_environment_can_be_read_soon() {
    let Some(mut case) = Case::start("threads", "32", 1) else {
        return;
    };
    let files = ["cmdline", "environ"].map(|name| case.stage.proc(case.root(), name));
    let before = files
        .each_ref()
        .map(|file| fs::read(file).expect("it runs"));
    assert!(before.iter().all(|text| text.len() > 20), "{before:?}");
    case.dump("images");
    for source in [Source::Images, Source::Snapshot] {
        if source == Source::Snapshot {
            case.import();
        }
        let run = Run::start(&mut case, Kind::Ours, source, Fill::Never);
        for (file, before) in files.iter().zip(&before) {
            wait_until(&format!("{} as before", file.display()), || {
                fs::read(file).expect("it runs") == *before
            });
        }
        run.case.kill();
        run.daemon.ended(&mut run.case.stage).assert("target-ended");
    }
}
