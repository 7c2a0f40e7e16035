//! A daemon that is killed: all of it, or who serves alone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, PipeWriter, Read, Write, pipe};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::scene::{FINISHED, PAGES, Scene};
use super::support::confined::{CAP_KILL, CAP_SYS_PTRACE, assert_confined};
use super::support::service::{guard_of, worker_of};
use super::support::wait_until;

/// Nothing but the connection; the number; the descriptor; everything, and it has seen a page.
fn come_so_far(scene: &mut Scene, steps: usize) {
    scene.connect();
    if steps > 0 {
        let pid = scene.process.pid();
        scene.process.tell(&format!("number {pid}"));
    }
    if steps > 1 {
        scene.process.tell("descriptor");
    }
    if steps > 2 {
        scene.process.tell(&format!("register 0 {PAGES}"));
        scene.process.tell("close");
        assert_eq!(scene.look(7), 8);
    }
}

/// At no instant between its first byte and its descriptor can the daemon be killed and the process live.
#[test]
fn whoever_has_begun_to_hand_over_does_not_outlive_the_daemon() {
    for steps in 0..5 {
        let mut scene = Scene::new();
        come_so_far(&mut scene, steps);
        if steps > 3 {
            scene.process.tell(&format!("number {FINISHED}"));
            assert_eq!(scene.look(PAGES - 1), PAGES);
        }
        scene.signal_daemon(Signal::SIGKILL);
        scene.assert_killed();
        assert_eq!(scene.end_of_daemon(), Err(Signal::SIGKILL));
    }
}

/// Nor if it had not even let anybody in.
#[test]
fn whoever_has_handed_over_to_nobody_does_not_live() {
    let mut scene = Scene::new();
    scene.signal_daemon(Signal::SIGSTOP);
    scene.connect();
    scene.hand_over();
    scene.process.tell(&format!("register 0 {PAGES}"));
    scene.process.tell("close");
    // It waits for that, and for the number of the page.
    scene.process.tell("look 0");
    std::thread::sleep(Duration::from_millis(100));
    scene.signal_daemon(Signal::SIGKILL);
    scene.assert_killed();
    assert_eq!(scene.process.rest(), "", "it has seen zeros");
}

/// A guard that was killed is replaced by one that knows as much: where connections come in above all.
#[test]
fn nor_is_that_so_of_a_guard_that_is_not_the_first() {
    for steps in 0..2 {
        let mut scene = Scene::new();
        let guard = guard_of(scene.keeper()).expect("it watches");
        kill(Pid::from_raw(guard), Signal::SIGKILL).expect("it watches");
        let other = || guard_of(scene.keeper()).is_some_and(|other| other != guard);
        wait_until("another guard", other);
        scene.signal_daemon(Signal::SIGSTOP);
        scene.connect();
        if steps > 0 {
            scene.hand_over();
            scene.process.tell(&format!("register 0 {PAGES}"));
            scene.process.tell("close");
            scene.process.tell("look 0");
        }
        std::thread::sleep(Duration::from_millis(100));
        scene.signal_daemon(Signal::SIGKILL);
        scene.assert_killed();
        assert_eq!(scene.process.rest(), "", "it has seen zeros");
    }
}

/// What is handed over to somebody who is dead is nobody's: it goes as it would with all of the daemon.
#[test]
fn who_serves_takes_the_restore_along_before_all_have_come() {
    for steps in 0..4 {
        let mut scene = Scene::new();
        come_so_far(&mut scene, steps);
        scene.kill_worker();
        scene.assert_killed();
        assert_eq!(scene.end_of_daemon(), Ok(1));
        let said = scene.said();
        for words in [
            "SIGKILL before all that is restored",
            "must not read as zeros",
        ] {
            wait_until(words, || scene.said().contains(words));
        }
        assert!(!said.contains("takes over"), "{said}");
    }
}

/// At every page one is waited for while who serves is killed, and at every other one something is given up.
#[test]
fn who_serves_is_replaced_when_all_have_come() {
    let mut scene = Scene::new();
    scene.restore();
    let mut forgotten = BTreeSet::new();
    for page in (0..PAGES).step_by(5) {
        if page % 2 == 0 {
            scene.forget(page + 1);
            forgotten.insert(page + 1);
        }
        scene.process.tell(&format!("look {page}"));
        scene.kill_worker_if_there();
        assert_eq!(scene.process.hear_numbers()[0], page + 1);
    }
    // What is still missing is put in place, and then nobody is needed any more.
    kill(Pid::from_raw(scene.keeper()), Signal::SIGTERM).expect("it is there");
    assert_eq!(scene.end_of_daemon(), Ok(0), "{}", scene.said());
    for page in 0..PAGES {
        let wanted = if forgotten.contains(&page) {
            0
        } else {
            page + 1
        };
        assert_eq!(scene.look(page), wanted, "page {page}");
    }
    let said = scene.said();
    let count = |words: &str| said.matches(words).count();
    // Some were killed twice before they were dead.
    assert!(count("SIGKILL: another one takes over") > 50, "{said}");
    assert_eq!(count(r#""event":"serving""#), 1, "{said}");
    assert_eq!(count(r#""outcome":"complete""#), 1, "{said}");
}

/// Nothing is received any more: what that takes is not needed.
#[test]
fn who_takes_over_may_do_less() {
    let mut scene = Scene::new();
    scene.restore();
    let first = worker_of(scene.keeper()).expect("it serves");
    assert_confined(first, CAP_KILL | CAP_SYS_PTRACE);
    scene.kill_worker();
    assert_eq!(scene.look(9), 10);
    let second = worker_of(scene.keeper()).expect("it serves");
    assert_ne!(first, second);
    assert_confined(second, CAP_KILL);
}

/// Nobody is there to replace who serves, and nobody needs to be.
#[test]
fn who_serves_goes_on_without_a_keeper() {
    let mut scene = Scene::new();
    scene.restore();
    assert_eq!(scene.look(7), 8);
    let worker = worker_of(scene.keeper()).expect("it serves");
    kill(Pid::from_raw(scene.keeper()), Signal::SIGKILL).expect("it is there");
    assert_eq!(scene.end_of_daemon(), Err(Signal::SIGKILL));
    for page in 0..PAGES / 2 {
        assert_eq!(scene.look(page), page + 1);
    }
    kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it serves");
    scene.assert_killed();
}

/// Numbers for a monitoring system do not begin anew, and what was half written does not stay.
#[test]
fn who_takes_over_goes_on_counting() {
    let mut scene = Scene::with(&["--metrics-file", "numbers"]);
    scene.restore();
    let folder = scene.dump.folder();
    let text = || fs::read_to_string(folder.join("numbers")).unwrap_or_default();
    let faults = || {
        let text = text();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("uffd_restore_faults_total "));
        line.and_then(|number| number.parse::<u64>().ok())
            .expect("a number")
    };
    let mut page = 0;
    for _ in 0..3 {
        let before = faults();
        for _ in 0..20 {
            assert_eq!(scene.look(page), page + 1);
            page += 16;
        }
        wait_until("what happened since", || {
            let now = faults();
            assert!(now >= before, "{now} after {before}");
            now > before
        });
        scene.kill_worker();
    }
    kill(Pid::from_raw(scene.keeper()), Signal::SIGTERM).expect("it is there");
    assert_eq!(scene.end_of_daemon(), Ok(0), "{}", scene.said());
    assert!(text().contains(r#"outcome="complete""#), "{}", text());
    let files = fs::read_dir(&folder).expect("a folder").flatten();
    let left = files.filter(|file| file.file_name().to_string_lossy().starts_with("numbers."));
    assert_eq!(left.count(), 0);
}

/// Who reads what it prints is slow, and the line waits in who serves when that is killed.
#[test]
fn who_takes_over_says_what_has_not_been_said() {
    let (output, input) = pipe().expect("a pipe");
    let full = input.try_clone().expect("a descriptor");
    let mut scene = Scene::printing_to(input.into());
    let mut output = BufReader::new(output);
    let mut line = String::new();
    output.read_line(&mut line).expect("it listens");
    assert!(line.contains("listening"), "{line}");
    fill(&full);
    scene.hand_over_all();
    for _ in 0..3 {
        wait_until("somebody who has something to say", || {
            let worker = worker_of(scene.keeper());
            worker.is_some_and(|worker| has_thread(worker, "announce"))
        });
        scene.kill_worker();
    }
    assert_eq!(scene.look(5), 6);
    drop(full);
    kill(Pid::from_raw(scene.keeper()), Signal::SIGTERM).expect("it is there");
    let mut said = String::new();
    output.read_to_string(&mut said).expect("text");
    assert_eq!(scene.end_of_daemon(), Ok(0), "{}", scene.said());
    assert_eq!(said.matches(r#""event":"serving""#).count(), 1, "{said}");
}

fn fill(pipe: &PipeWriter) {
    let set = |flags| fcntl(pipe, FcntlArg::F_SETFL(flags)).expect("a pipe");
    set(OFlag::O_NONBLOCK);
    let mut pipe = pipe;
    while pipe.write(b"\n").is_ok() {}
    set(OFlag::empty());
}

fn has_thread(pid: i32, name: &str) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().any(|task| {
        let its = fs::read_to_string(task.path().join("comm"));
        its.is_ok_and(|its| its.trim() == name)
    })
}
