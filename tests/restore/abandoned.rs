//! What a review of `--resume` broke: targets whose parent, first thread or descriptors are gone, runs that are killed while they go on, and
//! targets that mean harm.
#![expect(unsafe_code, reason = "system calls that a target makes by hand")]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::family;
use crate::going_on::{Folder, kill_all};
use crate::memory::{Content, Memory, advise, check};
use crate::scene::{Captured, Restorer, be_rolled_back};
use crate::support::service::{guard_of, signal_daemon};
use crate::support::{Role, end, say, state, wait_until};

pub(crate) const ROLES: &[(&str, Role)] = &[
    ("leaver", leaver),
    ("discards", discards),
    ("headless", headless),
    ("closes", closes),
];

const PAGES: usize = 512;

/// Has children that look at all of it when a file appears, and say in other files how it went.
fn leaver(words: &[&str]) {
    let memory = Memory::private(0, PAGES);
    let folder = words[0];
    be_rolled_back(std::slice::from_ref(&memory));
    for number in 0..2 {
        let kid = family::start(|| {
            while !Path::new(folder).join("look").exists() {
                std::thread::sleep(Duration::from_millis(5));
            }
            for page in 1..PAGES {
                check(memory.at(page), memory.captured(page));
            }
            fs::write(Path::new(folder).join(format!("right{number}")), "").expect("written");
        });
        fs::write(
            Path::new(folder).join(format!("kid{number}")),
            kid.pid().to_string(),
        )
        .expect("written");
    }
    say("forked");
    crate::scene::wait_for("never");
}

/// Looks at all of it when it is told so, and drops it.
fn discards(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(std::slice::from_ref(&memory));
    crate::scene::wait_for("look");
    for page in 1..PAGES {
        check(memory.at(page), memory.captured(page));
    }
    say("right");
    crate::scene::wait_for("discard");
    advise(memory.at(0), PAGES, libc::MADV_DONTNEED).expect("madvise");
    for page in 0..PAGES {
        check(memory.at(page), Content::Zero);
    }
    say("discarded");
    crate::scene::wait_for("end");
    end();
}

/// Its first thread has ended.
fn headless(_: &[&str]) {
    let kid = family::start(|| {
        std::thread::spawn(|| {
            let memory = Memory::private(0, PAGES);
            be_rolled_back(std::slice::from_ref(&memory));
            say("rolled back");
            crate::scene::wait_for("look");
            for page in 1..PAGES {
                check(memory.at(page), memory.captured(page));
            }
            say("right");
            end();
        });
        // SAFETY: ends this thread alone; nothing of its stack is used by the other one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    kid.join();
    end();
}

/// Closes all that it does not know, and has a socket of its own in its place.
fn closes(_: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(std::slice::from_ref(&memory));
    std::thread::sleep(Duration::from_millis(100));
    // SAFETY: nothing of this process is open there.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    let pair: Vec<_> = (0..4)
        .map(|_| std::os::unix::net::UnixDatagram::pair().expect("sockets"))
        .collect();
    for (one, other) in &pair {
        one.send(b"mine").expect("sent");
        other.send(b"mine").expect("sent");
    }
    say("closed");
    crate::scene::wait_for("look");
    for (one, other) in &pair {
        for socket in [one, other] {
            let mut bytes = [0; 100];
            socket.set_nonblocking(true).expect("possible");
            let got = socket.recv(&mut bytes).expect("there");
            assert_eq!(&bytes[..got], b"mine");
            assert!(
                socket.recv(&mut bytes).is_err(),
                "something of somebody else's"
            );
        }
    }
    for page in 1..PAGES {
        check(memory.at(page), memory.captured(page));
    }
    say("right");
    end();
}

fn ended(pid: i32) -> bool {
    matches!(state(pid), 'Z' | 'X' | '?')
}

/// A thread of it waits for a page, or for an event to be read.
fn waits_for_events(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    tasks.into_iter().flatten().flatten().any(|task| {
        fs::read_to_string(task.path().join("wchan")).is_ok_and(|place| place.contains("userfault"))
    })
}

fn within(time: Duration, what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + time;
    while Instant::now() < until {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    what()
}

fn children_of_a_dead_target(guard_too: bool, reaped: bool) {
    let folder = Folder::new();
    let said = tempfile::tempdir().expect("a folder");
    let captured = Captured::new("leaver", said.path().to_str().expect("UTF-8"));
    let mut scene = captured.restore(&folder.words());
    assert_eq!(scene.target.hear(), "forked");
    let kids: Vec<i32> = (0..2)
        .map(|number| {
            let pid = fs::read_to_string(said.path().join(format!("kid{number}")));
            pid.expect("there").parse().expect("a pid")
        })
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    kill_all(&scene.restorer, guard_too);
    scene.target.kill();
    wait_until("the target's end", || ended(scene.pid));
    if reaped {
        scene.target.end();
    }
    let mut resumed = folder.resume(&scene, &[]);
    std::thread::sleep(Duration::from_millis(500));
    fs::write(said.path().join("look"), "").expect("written");
    let right = |number: usize| said.path().join(format!("right{number}")).exists();
    let fine = within(Duration::from_secs(5), || {
        (0..2).all(|number| right(number) || ended(kids[number]))
    });
    let what = format!(
        "right {:?} ended {:?} state file {} journal {}: {}",
        [right(0), right(1)],
        kids.iter().map(|&kid| ended(kid)).collect::<Vec<_>>(),
        folder.state_of(scene.pid).exists(),
        folder.journal(&scene).exists(),
        resumed.errors()
    );
    for kid in kids {
        let _ = kill(Pid::from_raw(kid), Signal::SIGKILL);
    }
    let _ = &mut resumed;
    eprintln!("{what}");
    assert!(fine, "{what}");
}

/// The target ends while it waits. Its children had waited for ever.
#[test]
fn children_whose_parent_has_ended_are_gone_on_with() {
    children_of_a_dead_target(false, false);
}

/// The same when somebody has waited for it: its number may be another's.
#[test]
fn children_whose_parent_has_ended_and_was_reaped_are_gone_on_with() {
    children_of_a_dead_target(false, true);
}

#[test]
fn children_whose_parent_has_ended_are_gone_on_with_without_a_guard() {
    children_of_a_dead_target(true, true);
}

/// A run that is killed while it goes on had left a guard that nobody ended, with all userfaultfds: who discarded memory waited for ever.
#[test]
fn a_resume_that_is_killed_leaves_no_guard() {
    for delay in (0..30).step_by(3) {
        let folder = Folder::new();
        let captured = Captured::new("discards", "");
        let mut scene = captured.restore(&folder.words());
        std::thread::sleep(Duration::from_millis(50));
        kill_all(&scene.restorer, false);
        let second = folder.resume(&scene, &[]);
        std::thread::sleep(Duration::from_millis(delay));
        let guard = guard_of(second.pid());
        signal_daemon(second.pid(), Signal::SIGKILL);
        wait_until("its death", || ended(second.pid()));
        let mut said = second.errors();
        std::thread::sleep(Duration::from_millis(200));
        said.push_str(&second.errors());
        assert!(
            !ended(scene.pid),
            "delay {delay}: with guard {guard:?} the target was killed: {said}"
        );
        let Some(guard) = guard else {
            folder.go_on(&mut scene);
            scene.target.tell("look");
            assert_eq!(scene.target.hear(), "right");
            continue;
        };
        let text = fs::read_to_string(folder.state_of(scene.pid)).expect("there");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        let went_on = json["guard"]["pid"] == guard;
        eprintln!("delay {delay}: guard, and went on: {went_on}");
        folder.go_on(&mut scene);
        scene.target.tell("look");
        assert_eq!(scene.target.hear(), "right");
        scene.restorer.signal(Signal::SIGTERM);
        let done = scene.restorer.finish();
        let alive = !within(Duration::from_millis(1500), || ended(guard));
        scene.target.tell("discard");
        let pid = scene.pid;
        std::thread::sleep(Duration::from_millis(300));
        let hung = !within(Duration::from_millis(1500), || !waits_for_events(pid));
        if alive {
            let _ = kill(Pid::from_raw(guard), Signal::SIGKILL);
        }
        assert!(
            !alive && !hung,
            "delay {delay}: the guard lives: {alive}, the target hangs: {hung}, {done:?} {said}"
        );
        assert_eq!(scene.target.hear(), "discarded");
    }
}

/// Several runs begin at the same moment.
#[test]
fn of_two_at_the_same_moment_one_goes_on() {
    for _ in 0..3 {
        let folder = Folder::new();
        let captured = Captured::new("discards", "");
        let mut scene = captured.restore(&folder.words());
        kill_all(&scene.restorer, false);
        let mut runs: Vec<Restorer> = (0..4).map(|_| folder.resume(&scene, &[])).collect();
        std::thread::sleep(Duration::from_millis(400));
        let alive: Vec<usize> = (0..4).filter(|&it| !ended(runs[it].pid())).collect();
        assert_eq!(alive.len(), 1, "{:?}", runs[0].errors());
        scene.target.tell("look");
        assert_eq!(scene.target.hear(), "right");
        scene.target.tell("discard");
        assert_eq!(scene.target.hear(), "discarded");
        drop(std::mem::take(&mut runs));
    }
}

/// SIGUSR1 while the target is attached to.
#[test]
fn sigusr1_does_not_end_a_target() {
    let mut killed = Vec::new();
    for delay in (0..60).step_by(4) {
        let folder = Folder::new();
        let captured = Captured::new("discards", "");
        let mut restorer = Restorer::start(&captured, &folder.words());
        std::thread::sleep(Duration::from_millis(delay));
        let _ = kill(Pid::from_raw(restorer.pid()), Signal::SIGUSR1);
        let status = restorer.wait();
        std::thread::sleep(Duration::from_millis(20));
        if ended(captured.pid) {
            killed.push((delay, status.code(), restorer.errors()));
        }
        drop(captured);
    }
    assert!(killed.is_empty(), "{killed:#?}");
}

/// A process whose first thread has ended is a zombie in /proc, and lives.
#[test]
fn a_target_without_its_first_thread() {
    for guard_too in [false, true] {
        let folder = Folder::new();
        let captured = Captured::new("headless", "");
        let mut scene = captured.restore(&folder.words());
        assert_eq!(scene.target.hear(), "rolled back");
        assert_eq!(state(scene.pid), 'Z');
        kill_all(&scene.restorer, guard_too);
        folder.go_on(&mut scene);
        scene.target.tell("look");
        assert_eq!(scene.target.hear(), "right");
    }
}

/// The directory in which the daemon was started has gone; all paths are absolute.
#[test]
fn a_folder_that_has_gone() {
    let folder = Folder::new();
    let captured = Captured::new("discards", "");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let regions: Vec<String> = captured
        .areas
        .iter()
        .flat_map(|(address, _)| ["--region".to_owned(), format!("{address:#x}")])
        .collect();
    let mut words: Vec<&str> = regions.iter().map(String::as_str).collect();
    words.extend(folder.words());
    words.push("--json");
    let mut restorer = Restorer::start_prepared(&captured, &words, |command| {
        command.current_dir(elsewhere.path());
    });
    assert_eq!(restorer.json()["event"], "serving");
    drop(elsewhere);
    kill_all(&restorer, false);
    let mut command = Command::new(env!("CARGO_BIN_EXE_uffd-restore"));
    let state = folder.0.path().join(format!("{}.state", captured.pid));
    command.arg("--resume").arg(state);
    let mut resumed = Restorer::spawn(command, captured.folder.path().join("errors"));
    std::thread::sleep(Duration::from_millis(500));
    assert!(!ended(resumed.pid()), "{}", resumed.errors());
    assert_eq!(resumed.json()["event"], "goes_on");
}

/// The target has closed the socket: only the guard has it, in the table of the first process, which ends.
#[test]
fn an_upgrade_of_one_that_closes_what_it_does_not_know() {
    let folder = Folder::new();
    let captured = Captured::new("closes", "");
    let mut scene = captured.restore(&folder.words());
    assert_eq!(scene.target.hear(), "closed");
    kill(Pid::from_raw(scene.restorer.pid()), Signal::SIGUSR1).expect("it runs");
    assert_eq!(scene.restorer.wait().code(), Some(75));
    let resumed = folder.resume(&scene, &[]);
    std::thread::sleep(Duration::from_millis(500));
    let said = resumed.errors();
    assert!(!ended(scene.pid), "killed: {said}");
    scene.target.tell("look");
    assert_eq!(scene.target.hear(), "right", "{said}");
}
