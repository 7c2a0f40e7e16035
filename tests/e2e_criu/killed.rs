//! A daemon that is killed, all of it. The processes are killed too, whenever it is, and before one of them reads zeros.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::board::{Board, Slot};
use super::case::{Case, Fill, Run, Source};
use super::daemon::{Daemon, Elsewhere, Kind};
use super::family::{ended_well, fork};
use super::memory::{MIB, Memory, PAGE, WORDS};
use super::stage::Ended;

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
        run.daemon.signal(&run.case.stage, Signal::SIGKILL);
        let ended = run.case.stage.await_end(run.daemon.pid, "the daemon");
        assert_eq!(ended, Ended::by(Signal::SIGKILL));
        let daemon = run.daemon;
        // Whoever had nothing to do goes on now, if it can.
        case.board.set(Slot::Go, 1);
        assert_nobody_is_left(&mut case, &daemon);
    }
}

/// Where the daemon is.
enum Server {
    Here(Daemon),
    There(Elsewhere),
}

impl Server {
    /// With a daemon in another pid namespace, or not.
    fn start(case: &mut Case, elsewhere: bool) -> Self {
        let words = Fill::Never.words();
        if elsewhere {
            let line = case.daemon_line(Kind::Ours, Source::Images);
            let line = line.words(words.iter().copied());
            return Self::There(Elsewhere::listening(&case.path(""), line));
        }
        Self::Here(case.serve(Kind::Ours, Source::Images, words))
    }

    fn stop(&self, case: &Case) {
        match self {
            Self::Here(daemon) => daemon.signal(&case.stage, Signal::SIGSTOP),
            Self::There(daemon) => daemon.signal(Signal::SIGSTOP),
        }
    }

    fn kill(self, case: &mut Case) {
        match self {
            Self::Here(daemon) => {
                daemon.signal(&case.stage, Signal::SIGKILL);
                case.stage.await_end(daemon.pid, "the daemon");
            }
            Self::There(daemon) => drop(daemon),
        }
    }
}

/// All that there is to do is done now, and nobody is left in the end who waits for somebody.
fn assert_all_end(case: &mut Case) {
    case.board.set(Slot::Go, 1);
    case.await_nobody();
    case.board.assert_right(0);
}

/// How often each is done; more often by hand.
fn rounds() -> u64 {
    let rounds = std::env::var("UFFD_RESTORE_E2E_ROUNDS");
    rounds.map_or(1, |rounds| rounds.parse().expect("a number"))
}

/// It may not have received everything then.
#[test]
fn nothing_is_left_of_a_restore_whose_daemon_is_killed_when_it_has_succeeded() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    for after in (0..rounds()).flat_map(|_| [0, 1, 2, 5, 10, 20]) {
        for elsewhere in [false, true] {
            case.board.reset();
            let server = Server::start(&mut case, elsewhere);
            case.restore().expect("criu restore");
            sleep(Duration::from_millis(after));
            server.kill(&mut case);
            assert_all_end(&mut case);
        }
    }
}

#[test]
fn nothing_is_left_of_a_restore_whose_daemon_is_killed_meanwhile() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    for after in (0..rounds()).flat_map(|_| (0..100).step_by(7)) {
        for elsewhere in [false, true] {
            case.board.reset();
            let server = Server::start(&mut case, elsewhere);
            let restore = case.begin_restore();
            sleep(Duration::from_millis(after));
            server.kill(&mut case);
            case.stage.await_end(restore, "criu restore");
            assert_all_end(&mut case);
        }
    }
}

/// A daemon that has read nothing by then, and perhaps not even accepted the connection: all userfaultfds are still under way.
#[test]
fn nothing_is_left_of_a_restore_that_nobody_has_listened_to() {
    let Some(mut case) = Case::start("family", "", 4) else {
        return;
    };
    case.dump("images");
    for elsewhere in [false, true] {
        for orphaned in [false, true] {
            case.board.reset();
            let server = Server::start(&mut case, elsewhere);
            server.stop(&case);
            let restore = case.begin_restore();
            // Long enough for them all to have sent theirs; they need pages to go on.
            sleep(Duration::from_millis(500));
            if orphaned {
                case.stage.kill(restore, Signal::SIGKILL);
                case.stage.await_end(restore, "criu restore");
            }
            server.kill(&mut case);
            if !orphaned {
                let ended = case.stage.await_end(restore, "criu restore");
                assert_ne!(ended, Ended::GOOD);
            }
            assert_all_end(&mut case);
        }
    }
}

/// The words: the board. When it goes on it has a grandchild whose parent has ended, which looks at its memory in the second step.
pub(crate) fn target(words: &[&str]) {
    let board = Board::open(Path::new(words[0]));
    let memory = Memory::new(MIB);
    let pages = || (0..memory.pages()).map(|number| memory.page(number));
    for page in pages() {
        page.fill(page.key(0), 0..WORDS);
    }
    board.ready();
    let child = fork(|| {
        fork(|| {
            board.set(Slot::Step, 1);
            while board.get(Slot::Step) < 2 {
                sleep(Duration::from_micros(200));
            }
            for page in pages() {
                board.note(page.holds(page.key(0), 0..WORDS));
            }
        });
    });
    assert!(ended_well(child), "its child");
    board.done();
}

/// Nobody knows whose it is, and CRIU does not ask the kernel to say who touches a page.
#[test]
fn an_orphan_never_sees_a_page_that_is_missing_when_the_daemon_was_killed() {
    let Some(mut case) = Case::start("orphan", "", 1) else {
        return;
    };
    case.dump("images");
    for elsewhere in [false, true] {
        case.board.reset();
        let server = Server::start(&mut case, elsewhere);
        case.restore().expect("criu restore");
        case.board.set(Slot::Go, 1);
        case.board.wait(Slot::Done, 1);
        case.board.wait(Slot::Step, 1);
        server.kill(&mut case);
        let ended = case.stage.await_end(case.root(), "who was served");
        assert_eq!(ended, Ended::by(Signal::SIGKILL));
        assert!(!case.stage.is_empty(case.root()), "the orphan is there");
        case.board.set(Slot::Step, 2);
        case.await_nobody();
        // What was read with others, because somebody asked for those, is there and right.
        case.board.assert_right(0);
        let seen = case.board.get(Slot::Checked);
        assert!(seen < MIB / PAGE, "{:?}", case.board);
    }
}
