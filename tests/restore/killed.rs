//! The process that serves is killed again and again, and the target notices nothing.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::scene::{Captured, Done, Scene};
use crate::support::killing::{how_long, killing};
use crate::support::service::worker_of;
use crate::support::{state, wait_until};

const THREADS: usize = 8;

fn tortured_and_killed(words: &[&str]) -> Done {
    let began = Instant::now();
    let seed = crate::torture::seed();
    eprintln!("UFFD_RESTORE_TEST_SEED={seed}");
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let time = how_long(Duration::from_secs(4));
    let captured = Captured::with(
        "tortured",
        &format!("{seed} {} {THREADS}", time.as_millis()),
        &how,
    );
    let mut scene = captured.restore(words);
    let Scene {
        target, restorer, ..
    } = &mut scene;
    let (said, killed) = killing(restorer.pid(), &[target.pid()], seed, || target.hear());
    assert_eq!(said, "right");
    let done = restorer.finish();
    scene.target.finish();
    eprintln!("{killed:?} in {:?}: {done:?}", began.elapsed());
    // On a machine that has time there are hundreds.
    assert!(killed.kills > 10, "{killed:?}");
    assert!(killed.unfinished > 0, "{killed:?}");
    for event in ["fork", "remap", "remove", "unmap"] {
        assert!(done.events(event) > 10, "{done:?}");
    }
    done
}

#[test]
fn eight_threads_do_not_notice() {
    let done = tortured_and_killed(&[]);
    assert!(done.pages("demand") > 300, "{done:?}");
}

#[test]
fn nor_while_all_is_being_installed() {
    let done = tortured_and_killed(&["--prefill", "all"]);
    // The target asks all the time, and comes first; and lives are short.
    assert!(done.pages("prefill") > 0, "{done:?}");
}

/// It has given up what it does not need: that is the last thing before it serves.
fn is_confined(worker: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{worker}/status"));
    status.is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t2"))
}

#[test]
fn who_has_taken_over_goes_on_without_the_keeper() {
    let mut scene = Captured::new("last small", "").restore(&[]);
    assert_eq!(scene.target.hear(), "the first is there");
    let keeper = scene.restorer.pid();
    for _ in 0..3 {
        let before = worker_of(keeper).expect("a worker");
        kill(Pid::from_raw(before), Signal::SIGKILL).expect("kill");
        wait_until("another one serves", || {
            worker_of(keeper).is_some_and(|now| now != before && is_confined(now))
        });
    }
    let worker = worker_of(keeper).expect("a worker");
    kill(Pid::from_raw(keeper), Signal::SIGKILL).expect("kill");
    wait_until("the keeper is dead", || matches!(state(keeper), 'Z' | 'X'));
    // The guard has heard of that now, and sees that somebody still serves.
    std::thread::sleep(std::time::Duration::from_millis(100));
    scene.target.tell("go on");
    assert_eq!(scene.target.hear(), "right");
    wait_until("all is done", || matches!(state(worker), 'Z' | 'X' | '?'));
    scene.target.finish();
}
