//! One schedule, and many.

use std::time::Instant;

use crate::coverage::{ALL, Case, Coverage};
use crate::daemon::Daemon;
use crate::image::Image;
use crate::oracle;
use crate::world::World;

/// Steps of threads and of the daemon together. Far more than any schedule needs: more is a circle.
const MOST_STEPS: usize = 6000;

/// What became of a schedule.
pub(crate) struct Report {
    pub(crate) coverage: Coverage,
    pub(crate) excluded: bool,
    pub(crate) steps: usize,
    pub(crate) lines: usize,
    pub(crate) failure: Option<String>,
    pub(crate) trace: String,
}

/// Runs a schedule.
pub(crate) fn run(
    seed: u64,
    image: &mut Image,
    (traced, mortal): (bool, bool),
    now: Instant,
) -> Report {
    let mut world = World::new(seed, traced);
    world.mortal = mortal;
    let mut daemon = Daemon::new(world, image, now);
    let steps = play(&mut daemon);
    let failed = daemon.world.borrow().failure.is_some();
    if !failed {
        daemon.world.borrow_mut().mortal = false;
        oracle::finish(&mut daemon);
    }
    let state = if traced {
        oracle::describe(&daemon)
    } else {
        String::new()
    };
    let mut world = daemon.world.borrow_mut();
    let trace = world.trace.take().unwrap_or_default().join("\n");
    Report {
        coverage: world.coverage.clone(),
        excluded: world.excluded,
        steps,
        lines: world.lines,
        failure: world.failure.take(),
        trace: format!("{trace}\n{state}"),
    }
}

/// Lets threads and daemon run until the threads are through.
fn play(daemon: &mut Daemon<'_>) -> usize {
    for step in 0..MOST_STEPS {
        if daemon.world.borrow().failure.is_some() || daemon.world.borrow().all_over() {
            return step;
        }
        let runnable = daemon.world.borrow().any_can_run();
        if !runnable && !daemon.has_work() {
            daemon
                .world
                .borrow_mut()
                .fail(|| "threads wait, and nobody will ever answer them".into());
            return step;
        }
        if daemon.world.borrow_mut().rng.below(5) < 3 {
            daemon.world.borrow_mut().step();
        } else {
            daemon.or_be_killed(Daemon::act);
        }
    }
    daemon
        .world
        .borrow_mut()
        .fail(|| "threads and daemon run in a circle".into());
    MOST_STEPS
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().expect("a number"))
}

#[test]
fn schedules_at_random() {
    many(number("MODEL_FIRST").unwrap_or(300_000), 100_000, false);
}

#[test]
fn schedules_in_which_the_daemon_is_killed() {
    many(number("MODEL_FIRST").unwrap_or(300_000), 30_000, true);
}

fn many(first: u64, count: u64, mortal: bool) {
    let count = number("MODEL_SCHEDULES").unwrap_or(count);
    let (mut image, mut coverage, now) = (Image::default(), Coverage::default(), Instant::now());
    let mut failures: Vec<(usize, u64, String)> = Vec::new();
    let (mut excluded, mut excluded_failures, mut steps) = (0, 0, 0);
    for seed in first..first + count {
        let report = run(seed, &mut image, (false, mortal), now);
        if !report.excluded {
            coverage.add(&report.coverage);
        }
        steps += report.steps;
        excluded += u64::from(report.excluded);
        match report.failure {
            Some(_) if report.excluded => excluded_failures += 1,
            Some(failure) => failures.push((report.lines, seed, failure)),
            None => {}
        }
    }
    println!("{count} schedules, {steps} steps, {:?}", now.elapsed());
    println!(
        "{excluded} have what nobody can know (limits.rs), and {excluded_failures} of them fail"
    );
    println!("{coverage:?}");
    failures.sort();
    for (lines, seed, failure) in failures.iter().take(12) {
        println!("MODEL_SEED={seed}: {failure} ({lines} lines)");
    }
    if let Some((_, seed, failure)) = failures.first() {
        let report = run(*seed, &mut image, (true, mortal), now);
        println!("{}", report.trace);
        panic!(
            "{} of {count} schedules fail; the shortest: {failure}\n\
             MODEL_SEED={seed} MODEL_MORTAL={} cargo test --test model one_schedule -- --nocapture",
            failures.len(),
            u8::from(mortal)
        );
    }
    // The cases that make the rules necessary must have been there, and often.
    for case in ALL {
        let least = match case {
            Case::Excluded | Case::Orphan | Case::OrphanPoison => 0,
            Case::SilentDrop if mortal => 0,
            Case::Killed if !mortal => 0,
            _ => count / 1000,
        };
        let found = coverage.of(case);
        assert!(found >= least, "{case:?} occurred only {found} times");
    }
}

#[test]
fn one_schedule() {
    let seed = number("MODEL_SEED").unwrap_or(0);
    let mortal = number("MODEL_MORTAL").is_some_and(|mortal| mortal > 0);
    let report = run(seed, &mut Image::default(), (true, mortal), Instant::now());
    println!("{}", report.trace);
    assert_eq!(report.failure, None, "MODEL_SEED={seed}");
}
