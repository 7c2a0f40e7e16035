//! A target that ends during the fill, and a daemon that does.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::board::Slot;
use super::case::{Case, Fill, Run, Source};
use super::daemon::{Daemon, Kind};
use super::stage::Ended;
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

/// All processes end by SIGKILL, and none has found anything wrong before.
fn assert_nobody_is_left(case: &mut Case, daemon: &Daemon) {
    for pid in case.board.pids() {
        let ended = case.stage.end_within(pid, Duration::from_secs(20));
        let Some(ended) = ended else {
            panic!("process {pid} goes on; the daemon: {}", daemon.said())
        };
        // The zombie had ended before.
        assert!(
            ended == Ended::by(Signal::SIGKILL) || ended == Ended::GOOD,
            "{ended:?}"
        );
    }
    case.board.assert_right(0);
}

#[test]
fn nobody_reads_zeros_when_the_daemon_is_killed() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    for checked in [0, 1, 1000, 10_000] {
        let run = Run::start(&mut case, Kind::Ours, Source::Images, Fill::Never);
        if checked > 0 {
            run.board().set(Slot::Go, 1);
            run.board().wait(Slot::Checked, checked);
        }
        run.case.stage.kill(run.daemon.pid, Signal::SIGKILL);
        let ended = run.case.stage.await_end(run.daemon.pid, "the daemon");
        assert_eq!(ended, Ended::by(Signal::SIGKILL));
        let daemon = run.daemon;
        // Whoever had nothing to do goes on now, if it can.
        case.board.set(Slot::Go, 1);
        assert_nobody_is_left(&mut case, &daemon);
    }
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
