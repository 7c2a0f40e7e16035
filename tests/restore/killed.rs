//! The process that serves is killed again and again, and the target notices nothing.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::memory::Dice;
use crate::scene::{Captured, Done, Scene};
use crate::support::service::worker_of;

/// Kills workers, every 0 to 8 ms, as long as something is done. Returns how many.
fn killing<T>(scene: &mut Scene, seed: u64, work: impl FnOnce(&mut Scene) -> T) -> (T, u32) {
    let keeper = scene.restorer.pid();
    let (over, killed) = (AtomicBool::new(false), AtomicU32::new(0));
    let outcome = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice::new(seed);
            while !over.load(Ordering::Relaxed) {
                let pause = Duration::from_micros(dice.below(8000) as u64);
                std::thread::sleep(pause);
                let Some(worker) = worker_of(keeper) else {
                    continue;
                };
                if kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok() {
                    killed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let outcome = work(scene);
        over.store(true, Ordering::Relaxed);
        outcome
    });
    (outcome, killed.into_inner())
}

const THREADS: usize = 8;

/// Milliseconds of torture: more of them by the environment.
fn how_long() -> u64 {
    let given = std::env::var("UFFD_RESTORE_KILLED_MS").ok();
    given.and_then(|ms| ms.parse().ok()).unwrap_or(4000)
}

fn tortured_and_killed(words: &[&str]) -> Done {
    let began = Instant::now();
    let seed = crate::torture::seed();
    eprintln!("UFFD_RESTORE_TEST_SEED={seed}");
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let captured = Captured::with(
        "tortured",
        &format!("{seed} {} {THREADS}", how_long()),
        &how,
    );
    let mut scene = captured.restore(words);
    let (said, killed) = killing(&mut scene, seed, |scene| scene.target.hear());
    assert_eq!(said, "right");
    let done = scene.restorer.finish();
    scene.target.finish();
    eprintln!("killed {killed} times in {:?}: {done:?}", began.elapsed());
    let least = u32::try_from(how_long() / 40).expect("not for days");
    assert!(killed > least, "{killed}");
    for event in ["fork", "remap", "remove", "unmap"] {
        assert!(done.events(event) > 10, "{done:?}");
    }
    done
}

#[test]
fn eight_threads_do_not_notice() {
    let done = tortured_and_killed(&[]);
    assert!(done.pages("demand") > 1000, "{done:?}");
}

#[test]
fn nor_while_all_is_being_installed() {
    let done = tortured_and_killed(&["--prefill", "all"]);
    assert!(done.pages("prefill") > 100, "{done:?}");
}
