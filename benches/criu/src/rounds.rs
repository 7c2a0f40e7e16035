//! Restores in turn, and what they say together.

use std::fs;
use std::path::Path;

use crate::Setup;
use crate::clock::{millis, now};
use crate::criu::Restoring;
use crate::measure::Series;
use crate::way::{Kind, Way};
use crate::workload::{Order, Seen, Workload};

/// A number of every round for each of these.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// Milliseconds until the first touches were over; of every restore, so several in a round.
    pub(crate) first: Series,
    /// Milliseconds until all was delivered, nobody touching after the first.
    pub(crate) all: Series,
    /// Milliseconds of the daemon's CPU time for that.
    pub(crate) cpu: Series,
    /// Mebibytes of the daemon's memory at most.
    pub(crate) peak: Series,
    /// Touching as long as the fill lasts, for each pause of the workload.
    pub(crate) touching: Vec<Touching>,
}

/// A number of every round for each of these.
#[derive(Debug, Default)]
pub(crate) struct Touching {
    /// Microseconds of a touch.
    pub(crate) p50: Series,
    pub(crate) p99: Series,
    /// The same of those touches only that waited.
    pub(crate) waited_p99: Series,
    /// Milliseconds.
    pub(crate) longest: Series,
    pub(crate) touches: Series,
    /// How many of them waited, %.
    pub(crate) waited: Series,
    /// Milliseconds until all was delivered.
    pub(crate) all: Series,
}

/// What takes longer than this has waited: no fault takes less, and no access to a page that is there more. Microseconds.
const WAITED: f64 = 3.0;

/// Restores in every way, as often as wanted, in turns.
pub(crate) fn measure(
    setup: &Setup,
    workload: &dyn Workload,
    pid: i32,
    ways: &[Way],
    cold: bool,
) -> Vec<(Kind, Row)> {
    let mut rows: Vec<(Kind, Row)> = ways.iter().map(|way| (way.kind, Row::default())).collect();
    for (_, row) in &mut rows {
        row.touching
            .resize_with(workload.pauses().len(), Touching::default);
    }
    let pauses = workload.pauses().iter().copied().enumerate();
    let cases: Vec<Option<(usize, u64)>> = std::iter::once(None).chain(pauses.map(Some)).collect();
    for round in 0..setup.rounds {
        for (number, &case) in cases.iter().enumerate() {
            let order = Order {
                pause: case.map(|(_, pause)| pause),
                seed: (round * cases.len() + number) as u64,
            };
            // Another one is first each time.
            for at in 0..ways.len() {
                let at = (at + round) % ways.len();
                if case.is_some() && ways[at].kind == Kind::Eager {
                    continue;
                }
                let times = one(setup, workload, pid, &ways[at], cold, order);
                note(&mut rows[at].1, case.map(|(at, _)| at), &times);
            }
        }
    }
    rows
}

/// What was seen, and the milliseconds from the beginning on.
struct Times {
    first: f64,
    all: f64,
    seen: Seen,
}

/// One restore.
fn one(
    setup: &Setup,
    workload: &dyn Workload,
    pid: i32,
    way: &Way,
    cold: bool,
    order: Order,
) -> Times {
    let run = setup.work.join("run");
    renew(&run);
    way.prepare(cold);
    workload.order(order);
    let daemon = way.daemon(setup, &run);
    let lazily = daemon.is_some();
    let begun = now();
    let mut restoring = Restoring::start(&setup.criu, pid, &way.dump, &run, lazily);
    let seen = workload.watch(order, &mut restoring, daemon, &run);
    drop(restoring);
    let times = Times {
        first: millis(begun, seen.first),
        all: millis(begun, seen.ended.at),
        seen,
    };
    if setup.raw {
        let files = if cold { "cold" } else { "warm" };
        let head = format!("{} {files} {}", workload.name(), way.kind.short());
        print_raw(&head, order, &times, &run);
    }
    times
}

fn note(row: &mut Row, case: Option<usize>, times: &Times) {
    let Times { first, all, seen } = times;
    row.first.push(*first);
    let Some(case) = case else {
        row.all.push(*all);
        row.cpu.push(seen.ended.cpu);
        row.peak.push(seen.ended.peak);
        return;
    };
    let touching = &mut row.touching[case];
    let waited = seen.each.above(WAITED);
    touching.p50.push(seen.each.percentile(50));
    touching.p99.push(seen.each.percentile(99));
    touching.longest.push(seen.each.percentile(100) / 1e3);
    touching.waited_p99.push(if waited.len() == 0 {
        0.0
    } else {
        waited.percentile(99)
    });
    touching.touches.push(seen.each.len() as f64);
    touching
        .waited
        .push(100.0 * waited.len() as f64 / seen.each.len() as f64);
    touching.all.push(*all);
}

/// A line of one restore on standard error, with what our daemon says last.
fn print_raw(head: &str, order: Order, times: &Times, run: &Path) {
    let case = match order.pause {
        None => "quiet".to_owned(),
        Some(pause) => format!("touching, pause {pause} µs"),
    };
    let seen = &times.seen;
    let [p50, p90, p99, longest] = [50, 90, 99, 100].map(|percent| seen.each.percentile(percent));
    let output = fs::read_to_string(run.join("daemon.out")).unwrap_or_default();
    eprintln!(
        "{head} {case}: first {:.2} ms, all {:.1} ms, p50 {p50:.1} p90 {p90:.1} p99 {p99:.1} longest {longest:.0} µs, touches {}, waited {}, CPU {:.1} ms, peak {:.1} MiB {}",
        times.first,
        times.all,
        seen.each.len(),
        seen.each.above(WAITED).len(),
        seen.ended.cpu,
        seen.ended.peak,
        output.lines().last().unwrap_or_default(),
    );
}

/// An empty folder.
fn renew(folder: &Path) {
    if folder.exists() {
        fs::remove_dir_all(folder).expect("to remove what the last restore left");
    }
    fs::create_dir(folder).expect("a folder");
}
