//! A capture of a process that runs is one moment of it: across its pages, and across its threads.

mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use support::area::{Area, PAGE};
use support::sink::{capture, only};
use support::{Target, hear, play_role, say, wait_until};

const THREADS: usize = 4;
/// Pages that each thread counts up, one after the other.
const OWN: usize = 8;
const CELLS: usize = 64;
const TOTAL: u64 = CELLS as u64 * 1000;
/// Populated memory between the interesting pages, so that copying takes far longer than the threads need to move on.
const BALLAST: usize = 4096;

/// Page numbers of the bank.
const RING: usize = 0;
const OWN_PAGES: usize = RING + THREADS;
const LOCK: usize = OWN_PAGES + THREADS * OWN;
const FIRST_CELLS: usize = LOCK + 1;
const LAST_CELLS: usize = FIRST_CELLS + CELLS / 2 + BALLAST;
const IN_FLIGHT: usize = LAST_CELLS + CELLS / 2;
const PAGES: usize = IN_FLIGHT + 1;

#[test]
fn role() {
    play_role(&[("bank", bank)]);
}

fn cell(index: usize) -> usize {
    if index < CELLS / 2 {
        FIRST_CELLS + index
    } else {
        LAST_CELLS + index - CELLS / 2
    }
}

static STOP: AtomicBool = AtomicBool::new(false);
static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

fn bank(_: &[&str]) {
    let area = Area::private(PAGES);
    (0..PAGES).for_each(|page| area.write(page, 0));
    (0..CELLS).for_each(|index| area.write(cell(index), 1000));
    let threads: Vec<_> = (0..THREADS)
        .map(|me| thread::spawn(move || teller(area, me)))
        .collect();
    say(&format!("{:#x}", area.address()));
    while let Some(line) = hear() {
        if line == "count" {
            say(&format!("{}", area.read(OWN_PAGES)));
        }
    }
    STOP.store(true, Ordering::SeqCst);
    threads
        .into_iter()
        .for_each(|thread| thread.join().expect("a teller"));
    assert_eq!(
        VIOLATIONS.load(Ordering::SeqCst),
        0,
        "the target saw its own memory change"
    );
    let sum: u64 = (0..CELLS).map(|index| area.read(cell(index))).sum();
    assert_eq!(sum, TOTAL);
}

fn teller(area: Area, me: usize) {
    let mut random = 12345 + me as u64;
    let mut own = 0;
    while !STOP.load(Ordering::SeqCst) {
        own += 1;
        for page in 0..OWN {
            let word = area.word(OWN_PAGES + me * OWN + page);
            if word.swap(own, Ordering::SeqCst) != own - 1 {
                VIOLATIONS.fetch_add(1, Ordering::SeqCst);
            }
        }
        // The ring: who is behind the thread before it catches up; the first one waits for the last.
        let before = area.read(RING + (me + THREADS - 1) % THREADS);
        let mine = area.read(RING + me);
        if (me == 0 && before == mine) || (me > 0 && before > mine) {
            area.write(RING + me, mine + 1);
        }
        transfer(area, &mut random);
        if own.is_multiple_of(16) {
            thread::yield_now();
        }
    }
}

/// Moves money under a lock. While the lock is held, what has left a cell and has not arrived yet is in flight.
fn transfer(area: Area, random: &mut u64) {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    let pick = usize::try_from(*random >> 33).expect("31 bits");
    let (from, to) = (cell(pick % CELLS), cell(pick / CELLS % CELLS));
    if area
        .word(LOCK)
        .compare_exchange(0, 1, Ordering::SeqCst, Ordering::SeqCst)
        .is_err()
    {
        return;
    }
    let amount = area.read(from).min(7);
    area.write(IN_FLIGHT, amount);
    area.write(from, area.read(from) - amount);
    area.write(to, area.read(to) + amount);
    area.write(IN_FLIGHT, 0);
    area.write(LOCK, 0);
}

#[test]
fn a_running_process_is_captured_at_one_moment() {
    let mut target = Target::start("bank", "");
    let base = target.hear_numbers()[0];
    let mut busy = 0;
    for round in 0..60 {
        let (sink, report) = capture(
            target.pid(),
            &only(&[&format!("{base:x}-{:x}", base + (PAGES * PAGE) as u64)]),
        )
        .expect("capture");
        assert!(report.threads > THREADS, "all threads stood still");
        let word = |page: usize| sink.word(base + (page * PAGE) as u64);
        for me in 0..THREADS {
            let own: Vec<u64> = (0..OWN)
                .map(|page| word(OWN_PAGES + me * OWN + page))
                .collect();
            assert!(
                own.is_sorted_by(|a, b| a >= b) && own[0] - own[OWN - 1] <= 1,
                "round {round}: {own:?}"
            );
        }
        let ring: Vec<u64> = (0..THREADS).map(|me| word(RING + me)).collect();
        assert!(
            ring.is_sorted_by(|a, b| a >= b) && ring[0] - ring[THREADS - 1] <= 1,
            "round {round}: {ring:?}"
        );
        let sum: u64 = (0..CELLS).map(|index| word(cell(index))).sum();
        let in_flight = word(IN_FLIGHT);
        let good = if word(LOCK) == 0 {
            sum == TOTAL
        } else {
            sum == TOTAL || sum + in_flight == TOTAL
        };
        assert!(
            good,
            "round {round}: {sum} of {TOTAL}, in flight {in_flight}, lock {}",
            word(LOCK)
        );
        busy += u64::from(word(LOCK) != 0 || ring[0] != ring[THREADS - 1]);
        // It goes on, and is somewhere else when the next capture comes.
        let captured = word(OWN_PAGES);
        wait_until("the target to go on", || {
            target.tell("count");
            target.hear_numbers()[0] > captured
        });
    }
    assert!(
        busy > 0,
        "no capture ever hit the target in the middle of something: the test shows nothing"
    );
    target.finish();
}
