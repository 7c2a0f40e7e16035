//! In the place of CRIU's own daemon, in the ways in which that is started.

use std::fs;

use nix::sys::signal::Signal;

use super::board::Slot;
use super::case::{Case, Fill, Source, numbers_are_taken};
use super::daemon::{Elsewhere, Kind};
use super::stage::{Ended, Line};
use super::support::wait_until;

const THREADS: u64 = super::threads::THREADS;

/// It returns when it listens, and goes on by itself.
#[test]
fn it_goes_on_in_the_background() {
    let Some(mut case) = Case::start("threads", "32", 1) else {
        return;
    };
    case.dump("images");
    let folder = case.path("");
    for source in [Source::Images, Source::Snapshot] {
        if source == Source::Snapshot {
            case.import();
        }
        case.board.reset();
        let line = case.daemon_line(Kind::Ours, source);
        let line = line.words(["-d", "--pidfile", "lazy.pid", "-o", "lazy.log", "-v4"]);
        assert_eq!(case.stage.run(&folder, "daemon", &line), Ended::GOOD);
        let pid = fs::read_to_string(case.path("lazy.pid")).expect("its pid");
        let pid = pid.trim().parse().expect("a number");
        case.restore().expect("criu restore");
        case.board.set(Slot::Go, 1);
        case.board.wait(Slot::Done, THREADS);
        case.board.assert_right(THREADS);
        let log = fs::read_to_string(case.path("lazy.log")).unwrap_or_default();
        assert_eq!(
            case.stage.await_end(pid, "the daemon"),
            Ended::GOOD,
            "{log}"
        );
        let log = fs::read_to_string(case.path("lazy.log")).expect("its log");
        assert!(
            log.lines().all(|line| line.starts_with("uffd-restore: ")),
            "{log}"
        );
        case.kill();
        fs::remove_file(case.path("lazy.pid")).expect("its pid");
    }
}

/// One zero byte, and the end. On standard error others may follow, as they do with CRIU's own.
#[test]
fn it_writes_a_byte_when_it_listens() {
    let Some(mut case) = Case::start("threads", "8", 1) else {
        return;
    };
    case.dump("images");
    let folder = case.path("");
    for (kind, number) in [Kind::Ours, Kind::Stock]
        .into_iter()
        .flat_map(|kind| [(kind, 0), (kind, 1), (kind, 2), (kind, 3)])
    {
        let byte = case.path("byte");
        case.board.reset();
        let script = format!("exec \"$@\" --status-fd {number} -o lazy.log {number}<>\"$0\"");
        let line = Line::new("sh")
            .words(["-c", &script])
            .path(&byte)
            .line(&case.daemon_line(kind, Source::Images));
        let daemon = loop {
            fs::write(&byte, "").expect("a file");
            let daemon = case.stage.start(&folder, "daemon", &line);
            wait_until("the byte", || {
                fs::read(&byte).is_ok_and(|said| !said.is_empty())
            });
            match case.restore() {
                Ok(()) => break daemon,
                Err(why) => assert!(numbers_are_taken(&why), "criu restore: {why}"),
            }
            case.stage.await_end(daemon, "the daemon");
        };
        case.board.set(Slot::Go, 1);
        case.board.wait(Slot::Done, THREADS);
        assert_eq!(case.stage.await_end(daemon, "the daemon"), Ended::GOOD);
        case.kill();
        let said = fs::read(&byte).expect("its output");
        assert_eq!(said, [0], "{kind:?} {number}");
    }
}

/// The pids in the images are those of a namespace that the daemon is not in.
#[test]
fn it_serves_processes_of_another_pid_namespace() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    for source in [Source::Images, Source::Snapshot] {
        if source == Source::Snapshot {
            case.import();
        }
        case.board.reset();
        let line = case.daemon_line(Kind::Ours, source);
        let line = line.words(Fill::Late.words().iter().copied());
        let daemon = Elsewhere::listening(&case.path(""), line);
        case.restore().expect("criu restore");
        case.board.set(Slot::Go, 1);
        case.board.wait(Slot::Done, 3);
        case.board.assert_right(1000);
        let done = daemon.ended();
        done.assert("complete");
        done.require("/events/fork", 1);
        case.kill();
    }
    // When it is killed, so are they.
    case.board.reset();
    let line = case.daemon_line(Kind::Ours, Source::Snapshot);
    let line = line.words(Fill::Never.words().iter().copied());
    let daemon = Elsewhere::listening(&case.path(""), line);
    case.restore().expect("criu restore");
    daemon.await_event("serving");
    drop(daemon);
    let ended = case.stage.await_end(case.root(), "who was served");
    assert_eq!(ended, Ended::by(Signal::SIGKILL));
}
