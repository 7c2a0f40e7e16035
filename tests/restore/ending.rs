//! Targets that end, or become something else, in the middle.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::memory::{Memory, touch};
use crate::scene::{Captured, Restorer, Scene, be_rolled_back, wait_for};
use crate::support::{Role, end, hear, say, state, wait_until};

pub(crate) const ROLES: &[(&str, Role)] = &[("leaving", leaving)];

const PAGES: usize = 64;

/// What "within a moment" is, on a busy machine.
const MOMENT: Duration = Duration::from_secs(5);

/// Two threads wait for pages, one of them in the kernel, when this goes.
fn leaving(_: &[&str]) {
    static SERVED: AtomicBool = AtomicBool::new(false);
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    memory.check(0);
    say("one");
    wait_for("block");
    let threads: Vec<_> = [10, 20]
        .into_iter()
        .map(|page| {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                sender.send(nix::unistd::gettid()).expect("listens");
                if page == 10 {
                    touch(memory.at(page));
                } else {
                    let (_read, write) = crate::kernel::pipe();
                    let arguments = [crate::kernel::number(&write), memory.at(page), 8, 0, 0, 0];
                    crate::memory::call(libc::SYS_write, arguments).expect("write");
                }
                SERVED.store(true, Ordering::SeqCst);
            });
            receiver.recv().expect("a thread")
        })
        .collect();
    say(&format!("{} {}", threads[0], threads[1]));
    match hear().as_deref() {
        Some("exec") => {
            assert!(!SERVED.load(Ordering::SeqCst));
            let error = Command::new("cat").exec();
            panic!("exec: {error}");
        }
        Some("exit") => end(),
        other => panic!("{other:?}"),
    }
}

/// Up to the point where two threads wait for a daemon that stands still.
fn blocked(words: &[&str]) -> Scene {
    let mut scene = Captured::new("leaving", "").restore(words);
    assert_eq!(scene.target.hear(), "one");
    scene.restorer.signal(Signal::SIGSTOP);
    let daemon = scene.restorer.pid();
    wait_until("the daemon to stop", || state(daemon) == 'T');
    scene.target.tell("block");
    for thread in scene.target.hear_numbers() {
        let tid = i32::try_from(thread).expect("a tid");
        wait_until("a thread to block", || waits_for_a_page(scene.pid, tid));
    }
    scene
}

fn waits_for_a_page(pid: i32, tid: i32) -> bool {
    let wchan = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/wchan"));
    let wchan = wchan.unwrap_or_default();
    wchan == "handle_userfault" || (wchan == "0" && matches!(state(tid), 'S' | 'D'))
}

/// The daemon goes on and finds nobody.
fn expect_the_end(mut scene: Scene) -> Scene {
    let began = Instant::now();
    scene.restorer.signal(Signal::SIGCONT);
    let done = scene.restorer.finish();
    let took = began.elapsed();
    assert!(took < MOMENT, "{took:?}");
    assert_eq!(done.outcome(), "target-ended", "{done:?}");
    assert!(done.pages("demand") >= 1, "{done:?}");
    assert!(done.pages("demand") < 4, "{done:?}");
    scene
}

#[test]
fn a_target_that_executes_another_program() {
    let mut scene = blocked(&[]);
    scene.target.tell("exec");
    let comm = format!("/proc/{}/comm", scene.pid);
    wait_until("exec", || {
        std::fs::read_to_string(&comm).is_ok_and(|name| name == "cat\n")
    });
    scene.target.tell("@alive");
    assert_eq!(scene.target.hear(), "alive", "cat repeats it");
    let mut scene = expect_the_end(scene);
    scene.target.tell("@still alive");
    assert_eq!(scene.target.hear(), "still alive");
    scene.target.finish();
}

#[test]
fn a_target_that_exits() {
    let mut scene = blocked(&[]);
    scene.target.tell("exit");
    let scene = expect_the_end(scene);
    scene.target.finish();
}

#[test]
fn a_target_that_is_killed() {
    let mut scene = blocked(&[]);
    scene.target.kill();
    expect_the_end(scene);
}

#[test]
fn people_are_told_that_the_target_ended() {
    let mut captured = Captured::new("leaving", "");
    let region = format!("{:#x}", captured.areas[0].0);
    let mut restorer = Restorer::start(&captured, &["--region", &region]);
    assert!(restorer.line().starts_with("serving "));
    assert_eq!(captured.target.hear(), "one");
    captured.target.kill();
    let status = restorer.wait();
    let said = restorer.errors();
    assert!(status.success(), "{status}: {said}");
    assert!(said.contains("it ended: "), "{said}");
}

/// The same in the middle of everything, while the daemon runs.
#[test]
fn a_target_that_is_killed_while_all_is_being_installed() {
    let mut scene = Captured::new("movers", "9").restore(&["--prefill", "all"]);
    scene.target.kill();
    let began = Instant::now();
    let done = scene.restorer.finish();
    assert!(began.elapsed() < MOMENT);
    assert!(
        matches!(done.outcome(), "target-ended" | "complete"),
        "{done:?}"
    );
}
