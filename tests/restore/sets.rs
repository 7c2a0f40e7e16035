//! What was touched last time is there before it is touched again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::memory::{Content, Dice, Memory, check, map_at, write};
use crate::moves::arena;
use crate::scene::{Captured, Done, Restorer, show, wait_for};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("walker", walker)];

const PAGES: usize = 4096;
/// Pages that are touched in each run.
const TOUCHED: usize = 1000;
/// Every so many pages there is one of zeros.
const ZEROS: usize = 10;

/// What the walker has on a page.
fn content(page: usize) -> Content {
    if page.is_multiple_of(ZEROS) {
        Content::Zero
    } else {
        Content::Snapshot(page as u64)
    }
}

/// Touches so many pages in an order that depends on a number, and of the last fifth of them, others for another number.
fn walker(words: &[&str]) {
    let [seed, other] = [0, 1].map(|word| words[word].parse().expect("a number"));
    let memory = Memory {
        area: 0,
        address: arena(0),
        pages: PAGES,
    };
    map_at(memory.address, PAGES, 0);
    for page in (0..PAGES).filter(|page| !page.is_multiple_of(ZEROS)) {
        write(memory.at(page), content(page));
    }
    show(std::process::id(), &[memory]);
    wait_for("go");
    let order = Dice::new(seed).shuffled(PAGES);
    let kept = TOUCHED * 4 / 5;
    let shift = TOUCHED * usize::try_from(other).expect("small");
    let last = kept + shift..TOUCHED + shift;
    for &page in order[..kept].iter().chain(&order[last]) {
        check(memory.at(page), content(page));
    }
    say("right");
    wait_for("all");
    for page in 0..PAGES {
        check(memory.at(page), content(page));
    }
    say("right");
    end();
}

/// A walker that was captured. Others like it are restored from that.
struct Walk {
    original: Captured,
}

impl Walk {
    fn new() -> Self {
        let original = Captured::only_started("walker", "7 0");
        original.capture(&["--frame-pages", "4", "--codec", "lz4"]);
        Self { original }
    }

    fn set(&self) -> PathBuf {
        let mut name = self.original.snapshot().into_os_string();
        name.push(".ws");
        name.into()
    }

    /// Restores another one, which touches what the numbers say. What is said to people comes with how it went.
    fn restore(&self, numbers: &str, words: &[&str]) -> (Done, String) {
        let mut other = Captured::only_started("walker", numbers);
        fs::hard_link(self.original.snapshot(), other.snapshot()).expect("a link");
        let place = format!("{:#x}={:#x}", self.original.areas[0].0, other.areas[0].0);
        let words = [&["--region", &place, "--json"], words].concat();
        let mut restorer = Restorer::start(&other, &words);
        assert_eq!(restorer.json()["event"], "serving");
        other.target.tell("go");
        assert_eq!(other.target.hear(), "right");
        // What is asked for from now on is not looked at.
        other.target.kill();
        (restorer.finish(), restorer.errors())
    }

    fn record(&self, numbers: &str) -> Done {
        let set = self.set();
        self.restore(numbers, &["--record-working-set", name(&set)])
            .0
    }

    fn replay(&self, numbers: &str, words: &[&str]) -> (Done, String) {
        let set = self.set();
        self.restore(numbers, &[&["--working-set", name(&set)], words].concat())
    }
}

fn name(path: &Path) -> &str {
    path.to_str().expect("a name")
}

#[test]
fn what_was_touched_is_there() {
    let walk = Walk::new();
    let recorded = walk.record("7 0");
    assert_eq!(recorded.faults(), TOUCHED as u64, "page by page");
    assert_eq!(recorded.pages("neighbours"), 0, "{recorded:?}");

    let (again, said) = walk.replay("7 0", &[]);
    assert!(again.faults() <= TOUCHED as u64 / 50, "{again:?}");
    assert!(
        again.pages("replayed") >= TOUCHED as u64 * 8 / 10,
        "{again:?}"
    );
    assert!(said.is_empty(), "{said}");

    let (shifted, _) = walk.replay("7 1", &[]);
    assert!(shifted.faults() <= TOUCHED as u64 / 4, "{shifted:?}");
    assert!(shifted.faults() >= TOUCHED as u64 / 20, "{shifted:?}");

    let (without, _) = walk.replay("7 0", &["--prefill", "none"]);
    assert_eq!(without.pages("replayed"), 0);
    assert!(without.faults() > TOUCHED as u64 / 4, "{without:?}");
}

#[test]
fn it_is_found_beside_the_snapshot() {
    let walk = Walk::new();
    walk.record("7 0");
    let mut other = Captured::only_started("walker", "7 0");
    fs::copy(walk.original.snapshot(), other.snapshot()).expect("copy");
    let beside = other.folder.path().join("snapshot.ws");
    fs::copy(walk.set(), &beside).expect("copy");
    let place = format!("{:#x}={:#x}", walk.original.areas[0].0, other.areas[0].0);
    let mut restorer = Restorer::start(&other, &["--region", &place, "--json"]);
    assert_eq!(restorer.json()["event"], "serving");
    other.target.tell("go");
    assert_eq!(other.target.hear(), "right");
    other.target.kill();
    assert!(restorer.finish().pages("replayed") > 0);
}

/// The target touches pages while they are being installed, and in the end all of them.
#[test]
fn demand_and_replay_at_once() {
    let walk = Walk::new();
    walk.record("7 0");
    let set = walk.set();
    for how in [&[][..], &["--prefill", "all"], &["--jobs", "1"]] {
        let other = Captured::only_started("walker", "7 0");
        fs::hard_link(walk.original.snapshot(), other.snapshot()).expect("a link");
        let place = format!("{:#x}={:#x}", walk.original.areas[0].0, other.areas[0].0);
        let words = [
            "--head-start",
            "0s",
            "--working-set",
            name(&set),
            "--region",
            &place,
        ];
        let mut scene = other.restore_with(&[&words, how].concat());
        scene.target.tell("go");
        assert_eq!(scene.target.hear(), "right");
        scene.target.tell("all");
        let done = scene.finish();
        assert!(done.pages("replayed") > 0, "{done:?}");
        let content = PAGES - PAGES.div_ceil(ZEROS);
        assert_eq!(
            done.installed() + done.pages("present"),
            content as u64,
            "{done:?}"
        );
    }
}

#[test]
fn a_set_that_cannot_be_used_is_a_warning() {
    let walk = Walk::new();
    walk.record("7 0");
    let good = fs::read(walk.set()).expect("the set");
    let other = Walk::new();
    other.record("7 0");
    let foreign = fs::read(other.set()).expect("the set");
    let half = &good[..good.len() / 2];
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let snapshot = fs::read(walk.original.snapshot()).expect("the snapshot");
    for (bytes, word) in [
        (Some(foreign), "another snapshot"),
        (Some(half.to_vec()), "not used"),
        (Some(flipped), "not used"),
        (Some(Vec::new()), "not used"),
        (Some(snapshot), "not used"),
        (None, "no such file"),
    ] {
        match bytes {
            Some(bytes) => fs::write(walk.set(), bytes).expect("written"),
            None => fs::remove_file(walk.set()).expect("removed"),
        }
        let (done, said) = walk.replay("7 0", &[]);
        assert!(said.contains(word), "{word}: {said}");
        assert_eq!(done.pages("replayed"), 0);
    }
}

/// What is damaged in the middle is found when it is decoded; nothing of it reaches the target.
#[test]
fn a_damaged_frame_ends_the_replay() {
    let walk = Walk::new();
    walk.record("7 0");
    let mut bytes = fs::read(walk.set()).expect("the set");
    // The frames come right behind the header.
    let middle = 4096 + (bytes.len() - 4096) / 3;
    bytes[middle] ^= 0x40;
    fs::write(walk.set(), bytes).expect("written");
    for start in ["0s", "1s"] {
        let (done, said) = walk.replay("7 0", &["--head-start", start]);
        assert!(said.contains("going on without it"), "{said}");
        assert!(done.pages("demand") > 0, "{done:?}");
    }
}

#[test]
fn runs_are_merged_and_fade() {
    let walk = Walk::new();
    let seen = |walk: &Walk| {
        let output = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
            .args(["working-set", "inspect", "--json"])
            .arg(walk.set())
            .output()
            .expect("uffd-snapshot runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        ["recordings", "pages", "faded_pages"].map(|key| value[key].as_u64().expect(key))
    };
    let (all, fifth) = (TOUCHED as u64, TOUCHED as u64 / 5);
    walk.record("7 0");
    assert_eq!(seen(&walk), [1, all, 0]);
    walk.record("7 1");
    assert_eq!(seen(&walk), [2, all + fifth, 0], "half of the runs have it");
    walk.record("7 0");
    assert_eq!(
        seen(&walk),
        [3, all, fifth],
        "one in three does not suffice"
    );
    // Whoever is recorded is not replayed for, unless that is asked for.
    let set = walk.set();
    let words = [
        "--record-working-set",
        name(&set),
        "--prefill",
        "working-set",
    ];
    let (done, _) = walk.restore(
        "7 0",
        &[&words[..], &["--working-set", name(&set)]].concat(),
    );
    assert!(done.pages("replayed") > 0, "{done:?}");
}

/// Who can write a set decides what is restored.
#[test]
fn a_stranger_cannot_put_one_beside_the_snapshot() {
    let walk = Walk::new();
    walk.record("7 0");
    let set = walk.set();
    for used in [false, true] {
        let again = Captured::only_started("walker", "7 0");
        fs::copy(walk.original.snapshot(), again.snapshot()).expect("copy");
        let its = again.folder.path().join("snapshot.ws");
        fs::copy(&set, &its).expect("copy");
        std::os::unix::fs::chown(&its, Some(12_345), None).expect("chown");
        let place = format!("{:#x}={:#x}", walk.original.areas[0].0, again.areas[0].0);
        let named = ["--working-set", name(&its)];
        let words = if used { &named[..] } else { &[] };
        let mut scene = again.restore_with(&[&["--region", &place], words].concat());
        scene.target.tell("go");
        assert_eq!(scene.target.hear(), "right");
        scene.target.kill();
        let done = scene.restorer.finish();
        assert_eq!(done.pages("replayed") > 0, used, "{done:?}");
        let said = scene.restorer.errors();
        assert_eq!(said.contains("--working-set"), !used, "{said}");
    }
}

/// However slowly all is to come, whoever asks this program to end gets it at once.
#[test]
fn a_slow_prefill_hurries_in_the_end() {
    let walk = Walk::new();
    let other = Captured::only_started("walker", "7 0");
    fs::hard_link(walk.original.snapshot(), other.snapshot()).expect("a link");
    let place = format!("{:#x}={:#x}", walk.original.areas[0].0, other.areas[0].0);
    let words = [
        "--prefill",
        "all",
        "--prefill-rate",
        "64KiB",
        "--region",
        &place,
    ];
    let mut scene = other.restore_with(&words);
    scene.target.tell("go");
    assert_eq!(scene.target.hear(), "right");
    scene.restorer.signal(nix::sys::signal::Signal::SIGTERM);
    let done = scene.restorer.finish();
    assert_eq!(done.outcome(), "complete", "{done:?}");
    scene.target.tell("all");
    assert_eq!(scene.target.hear(), "right");
    scene.target.finish();
}

#[test]
fn what_is_no_set_is_not_overwritten() {
    let walk = Walk::new();
    let precious = walk.original.folder.path().join("precious");
    fs::write(&precious, "a letter").expect("written");
    let other = Captured::only_started("walker", "7 0");
    fs::hard_link(walk.original.snapshot(), other.snapshot()).expect("a link");
    let mut restorer = Restorer::start(&other, &["--record-working-set", name(&precious)]);
    assert_eq!(restorer.wait().code(), Some(2));
    assert!(
        restorer.errors().contains("is no working set"),
        "{}",
        restorer.errors()
    );
    assert_eq!(fs::read(&precious).expect("it is there"), b"a letter");
}
