//! Everything is installed ahead while the target changes it; and large mappings with little in them.

use std::time::Duration;

use crate::memory::{Content, Dice, Memory, PAGE, advise, check, map_at, write};
use crate::moves::arena;
use crate::scene::{Captured, Done, REPLAY, be_rolled_back, show, wait_for};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("restless", restless), ("sparse", sparse)];

const THREADS: usize = 4;
const PAGES: usize = 8192;

/// Each thread goes through its memory in random order and drops, writes, or looks, and looks at what it did a moment ago.
fn restless(_: &[&str]) {
    let areas: Vec<Memory> = (0..THREADS)
        .map(|number| Memory::private(number, PAGES))
        .collect();
    be_rolled_back(&areas);
    std::thread::scope(|scope| {
        for memory in &areas {
            scope.spawn(|| change(memory));
        }
    });
    say("right");
    end();
}

fn change(memory: &Memory) {
    let mut dice = Dice::new(memory.area as u64);
    let mut contents: Vec<Content> = (0..PAGES).map(|page| memory.captured(page)).collect();
    let mut before = 0;
    for page in dice.shuffled(PAGES) {
        match dice.below(4) {
            0 => {
                advise(memory.at(page), 1, libc::MADV_DONTNEED).expect("madvise");
                contents[page] = Content::Zero;
                check(memory.at(page), Content::Zero);
            }
            1 => {
                contents[page] = Content::Own(page as u64);
                write(memory.at(page), contents[page]);
            }
            _ => check(memory.at(page), contents[page]),
        }
        check(memory.at(before), contents[before]);
        before = page;
    }
    for (page, &content) in contents.iter().enumerate() {
        check(memory.at(page), content);
    }
}

#[test]
fn all_is_installed_while_it_changes() {
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let captured = Captured::with("restless", "", &how);
    let done = captured.restore(&["--prefill", "all"]).finish();
    all_is_accounted_for(&done, "prefill");
}

#[test]
fn a_working_set_is_installed_while_it_changes() {
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let captured = Captured::with("restless", "", &how);
    let done = captured.restore(REPLAY).finish();
    all_is_accounted_for(&done, "replayed");
}

fn all_is_accounted_for(done: &Done, ahead: &str) {
    let all = (THREADS * PAGES) as u64;
    // Pages that were dropped and touched again count once more.
    assert!(done.all_pages() >= all, "{done:?}");
    for kind in [ahead, "demand", "removed"] {
        assert!(done.pages(kind) > 20, "{done:?}");
    }
    assert!(done.events("remove") > 1000, "{done:?}");
}

/// Pages with content in a sparse mapping.
const WRITTEN: usize = 256;

/// Some pages far from each other, in a mapping of this many.
fn sparse(words: &[&str]) {
    let pages: usize = words[0].parse().expect("a number");
    let memory = Memory {
        area: 0,
        address: arena(0),
        pages,
    };
    map_at(memory.address, pages, 0);
    let step = pages / WRITTEN;
    let at = |number: usize| memory.at(number * step);
    for number in 0..WRITTEN {
        write(at(number), Content::Snapshot(number as u64));
    }
    show(std::process::id(), &[memory]);
    wait_for("go");
    for number in 0..WRITTEN {
        check(at(number), Content::Snapshot(number as u64));
        check(at(number) + PAGE, Content::Zero);
    }
    say("right");
    end();
}

const RUNS: usize = 7;

/// A process with a sparse mapping, captured: others like it are restored from that.
struct Sparse {
    pages: usize,
    original: Captured,
    /// How long the target stood still, and how long it took until it was served.
    times: [Vec<Duration>; 2],
}

impl Sparse {
    fn new(bytes: usize) -> Self {
        let pages = bytes / PAGE;
        let original = Captured::only_started("sparse", &pages.to_string());
        original.capture(&[]);
        let times = [Vec::new(), Vec::new()];
        Self {
            pages,
            original,
            times,
        }
    }

    fn restore_another(&mut self) {
        let other = Captured::only_started("sparse", &self.pages.to_string());
        std::fs::copy(self.original.snapshot(), other.snapshot()).expect("copy");
        let place = format!("{:#x}={:#x}", self.original.areas[0].0, other.areas[0].0);
        let mut scene = other.restore_with(&["--region", &place]);
        let stood_still = scene.serving["stood_still_seconds"].as_f64();
        self.times[0].push(Duration::from_secs_f64(stood_still.expect("a number")));
        self.times[1].push(scene.time_to_serve);
        scene.target.tell("go");
        assert_eq!(scene.target.hear(), "right");
        scene.target.kill();
        let done = scene.restorer.finish();
        assert!(done.pages("demand") >= WRITTEN as u64, "{done:?}");
    }

    fn medians(&mut self) -> [Duration; 2] {
        [0, 1].map(|which| {
            let times = &mut self.times[which];
            times.sort();
            times[times.len() / 2]
        })
    }
}

#[test]
fn a_large_sparse_mapping_costs_what_a_small_one_does() {
    let (mut small, mut large) = (Sparse::new(256 << 20), Sparse::new(16 << 30));
    // Other tests run beside this one: more runs, if these few have been disturbed.
    for attempt in 1.. {
        for _ in 0..RUNS {
            small.restore_another();
            large.restore_another();
        }
        let (small, large) = (small.medians(), large.medians());
        eprintln!("stood still, served after: 256 MiB {small:?}, 16 GiB {large:?}");
        let alike = |which: usize| large[which] < small[which] * 4;
        if alike(0) && alike(1) {
            break;
        }
        assert!(attempt < 4, "{small:?}, {large:?}");
    }
}
