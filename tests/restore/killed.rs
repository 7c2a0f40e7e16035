//! The process that serves is killed again and again, and the target notices nothing.

use std::time::{Duration, Instant};

use crate::scene::{Captured, Done, Scene};
use crate::support::killing::{how_long, killing};

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
