//! Who serves is killed, again and again, while the restored processes are at work: another one goes on, and they notice nothing.

use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::board::Slot;
use super::case::{Case, Fill, Run, Source, numbers_are_taken};
use super::daemon::{Daemon, Done, Elsewhere, Kind};
use super::stage::Ended;
use super::support::killing::{Kills, has_session, killing};
use super::support::service::worker_of;
use super::support::{state, wait_until};
use super::{discard, family, moves, threads};

/// Where the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Where {
    OnTheStage,
    /// In a pid namespace around it.
    Outside,
}

/// Restores, and kills who serves from the moment on when all have been handed over, until so many threads or processes have done everything.
fn survive(case: &mut Case, place: Where, source: Source, fill: Fill, done: u64) -> Done {
    eprintln!("{place:?} {source:?} {fill:?}");
    case.board.reset();
    let (kills, done) = match place {
        Where::OnTheStage => {
            let daemon = case.bring_back(Kind::Ours, source, fill.words());
            daemon.await_event("serving");
            let mut run = Run { case, daemon, fill };
            let kills = run.go_killing(done);
            (kills, run.complete())
        }
        Where::Outside => {
            let daemon = restored_from_outside(case, source, fill);
            daemon.await_event("serving");
            let targets = case.outside();
            let board = case.board;
            let ((), kills) = killing(daemon.pid(), &targets, 5, || {
                board.set(Slot::Go, 1);
                board.wait(Slot::Done, done);
            });
            if fill == Fill::Never {
                kill(Pid::from_raw(daemon.pid()), Signal::SIGTERM).expect("it is there");
            }
            (kills, daemon.ended())
        }
    };
    eprintln!("{kills:?}");
    done.assert("complete");
    case.kill();
    done
}

/// As [`Case::bring_back`].
fn restored_from_outside(case: &mut Case, source: Source, fill: Fill) -> Elsewhere {
    for attempt in 1.. {
        let line = case.daemon_line(Kind::Ours, source);
        let line = line.words(fill.words().iter().copied());
        let daemon = Elsewhere::listening(&case.path(""), line);
        let Err(why) = case.restore() else {
            return daemon;
        };
        assert!(
            numbers_are_taken(&why) && attempt < 5,
            "criu restore: {why}"
        );
        daemon.ended();
    }
    unreachable!("the last attempt returns or panics")
}

impl Run<'_> {
    /// As [`Run::go`], while who serves is killed.
    fn go_killing(&mut self, done: u64) -> Kills {
        let targets = self.case.outside();
        // It may have done everything, and ended.
        let Some(keeper) = self.case.stage.outside(self.daemon.pid) else {
            self.go(done);
            return Kills::default();
        };
        killing(keeper, &targets, 3, || self.go(done)).1
    }
}

/// A target in all ways. The words and the numbers are those of its own test.
fn survive_all(role: &str, words: &str, processes: u64, workers: u64, least: u64) {
    let Some(mut case) = Case::start(role, words, processes) else {
        return;
    };
    case.dump("images");
    let mut kills = 0;
    for (place, source, fills) in [
        (
            Where::OnTheStage,
            Source::Images,
            [Fill::AtOnce, Fill::Never],
        ),
        (Where::Outside, Source::Snapshot, [Fill::AtOnce, Fill::Late]),
    ] {
        if source == Source::Snapshot {
            case.import();
        }
        for fill in fills {
            let done = survive(&mut case, place, source, fill, workers);
            case.board.assert_right(least);
            let said = done.complaints;
            kills += said.matches("another one takes over").count();
        }
    }
    eprintln!("{role} {words}: {kills} replaced");
    assert!(kills > 20, "{kills}");
}

#[test]
fn threads_do_not_notice() {
    let mib = 64;
    let pages = mib * threads::PAGES_OF_A_MIB;
    let least = (threads::THREADS / 2 + 2) * pages;
    survive_all("threads", &mib.to_string(), 1, threads::THREADS, least);
}

#[test]
fn nor_does_a_family_that_grows() {
    let processes = family::PROCESSES;
    survive_all("family", "", processes, processes - 1, family::LOOKS);
}

#[test]
fn nor_do_threads_that_move_their_memory_about() {
    survive_all("moves", "apart", 1, moves::THREADS, moves::PAGES);
}

#[test]
fn nor_who_drops_most_of_it() {
    survive_all("discard", "", 1, discard::THREADS, discard::looks());
}

/// How often each is done; more often by hand.
fn rounds() -> u64 {
    let rounds = std::env::var("UFFD_RESTORE_E2E_ROUNDS");
    rounds.map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// Kills who serves after this time, which is given the numbers of the keeper and of the one that serves.
fn kill_during_restore(case: &mut Case, time: impl Fn(i32, i32)) -> Daemon {
    for attempt in 1.. {
        case.board.reset();
        let daemon = case.serve(Kind::Ours, Source::Images, Fill::Never.words());
        let keeper = case.stage.outside(daemon.pid).expect("it serves");
        let worker = worker_of(keeper).expect("it serves");
        let restore = case.begin_restore();
        time(keeper, worker);
        let killed = !has_ended(worker) && kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok();
        let restored = case.stage.await_end(restore, "criu restore");
        // The numbers of the threads may not be free yet, and then it fails by itself.
        if killed || restored == Ended::GOOD {
            return daemon;
        }
        assert!(attempt < 5, "{restored:?} {}", daemon.said());
        daemon.ended(&mut case.stage);
    }
    unreachable!("the last attempt returns or panics")
}

fn has_ended(pid: i32) -> bool {
    matches!(state(pid), 'Z' | 'X' | '?')
}

/// Either it is over before all have been handed over, and nothing is left, or nobody notices.
#[test]
fn one_that_is_killed_during_the_restore_takes_it_along_or_is_replaced() {
    let Some(mut case) = Case::start("family", "", family::PROCESSES) else {
        return;
    };
    case.dump("images");
    let mut replaced = 0;
    for after in (0..rounds()).flat_map(|_| (0..100).step_by(4)) {
        let daemon = kill_during_restore(&mut case, |_, _| {
            sleep(Duration::from_millis(after));
        });
        case.board.set(Slot::Go, 1);
        let workers = family::PROCESSES - 1;
        wait_until("the end of all, or of their work", || {
            case.board.get(Slot::Done) == workers || case.stage.is_empty(case.root())
        });
        if case.board.get(Slot::Done) == workers {
            replaced += 1;
            case.board.assert_right(family::LOOKS);
            let done = daemon.end(&mut case.stage);
            done.assert("complete");
            assert!(done.complaints.contains("takes over"), "{done:?}");
            case.kill();
        } else {
            case.board.assert_right(0);
            daemon.ended(&mut case.stage).assert_failed(&[]);
        }
        case.await_nobody();
    }
    eprintln!("{replaced} of {} replaced", 25 * rounds());
}

/// What others look at in ways that do not fault comes also from who takes over.
#[test]
fn arguments_and_environment_come_from_who_takes_over() {
    let Some(mut case) = Case::start("threads", "32", 1) else {
        return;
    };
    let files = ["cmdline", "environ"].map(|name| case.stage.proc(case.root(), name));
    let read = |file| std::fs::read(file).expect("it runs");
    let before = files.each_ref().map(read);
    case.dump("images");
    for _ in 0..10 {
        // From that moment on they come, within a millisecond.
        let daemon = kill_during_restore(&mut case, |keeper, worker| {
            while !has_session(keeper) && !has_ended(worker) {}
        });
        for (file, before) in files.iter().zip(&before) {
            wait_until("arguments and environment", || read(file) == *before);
        }
        case.kill();
        daemon.ended(&mut case.stage).assert("target-ended");
    }
}

/// What was touched before is known to nobody any more: a set without it would be wrong.
#[test]
fn what_was_being_recorded_is_not_written() {
    let Some(mut case) = Case::start("touched", "", 1) else {
        return;
    };
    case.dump("images");
    case.pack(None);
    let set = case.path("set");
    let name = set.to_str().expect("a path").to_owned();
    let record = ["--record-working-set", &name, "--record-idle", "300s"];
    let daemon = case.bring_back(Kind::Ours, Source::Snapshot, &record);
    daemon.await_event("serving");
    case.board.set(Slot::Go, 1);
    case.board.wait(Slot::Checked, 10);
    let keeper = case.stage.outside(daemon.pid).expect("it serves");
    let worker = worker_of(keeper).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
    case.board.wait(Slot::Step, 1);
    daemon.end(&mut case.stage).assert("complete");
    case.board.set(Slot::Step, 2);
    case.board.wait(Slot::Done, 1);
    case.board.assert_right(10);
    let files = std::fs::read_dir(case.path(""))
        .expect("a folder")
        .flatten();
    let left = files.filter(|file| file.file_name().to_string_lossy().starts_with("set"));
    assert_eq!(left.count(), 0);
}

/// One has ended owing when who serves is killed: whoever takes over says so in the end.
#[test]
fn who_has_ended_meanwhile_is_not_forgotten() {
    let Some(mut case) = Case::start("family", "", family::PROCESSES) else {
        return;
    };
    case.dump("images");
    let run = Run::start(&mut case, Kind::Ours, Source::Images, Fill::Never);
    run.daemon.await_event("serving");
    let keeper = run.case.stage.outside(run.daemon.pid);
    let keeper = keeper.expect("it serves");
    let first = run.board().pids()[0];
    run.case.stage.kill(first, Signal::SIGKILL);
    run.case.stage.await_end(first, "a process that was killed");
    // It is noticed ten times a second.
    sleep(Duration::from_millis(300));
    let worker = worker_of(keeper).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
    run.daemon.end(&mut run.case.stage).assert("target-ended");
}
