//! All of the daemon is killed, and another one goes on.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::family::{self, Kid};
use crate::going_on::{Folder, Resume, assert_over, kill_all, sockets_of};
use crate::kernel::pipe;
use crate::memory::{Content, Dice, Memory, advise, check, write};
use crate::scene::{Captured, Restorer, Scene, be_rolled_back};
use crate::support::service::{guard_of, signal_daemon};
use crate::support::{Role, end, say, state, wait_until};

pub(crate) const ROLES: &[(&str, Role)] = &[
    ("resumed", resumed),
    ("parent", parent),
    ("forking", forking),
];

const PAGES: usize = 2048;
/// Of journals.
const VERSION: u64 = 2;

/// Reads, writes, drops and moves its pages, for so many milliseconds in so many threads.
fn resumed(words: &[&str]) {
    let time = Duration::from_millis(words[0].parse().expect("milliseconds"));
    let areas: Vec<Memory> = (0..words[1].parse().expect("threads"))
        .map(|number| Memory::private(number, PAGES))
        .collect();
    be_rolled_back(&areas);
    let pause = time / u32::try_from(PAGES).expect("few");
    std::thread::scope(|scope| {
        for memory in &areas {
            scope.spawn(move || {
                for page in 0..PAGES {
                    let at = memory.at(page);
                    match page % 4 {
                        0 => write(at, Content::Own(page as u64)),
                        1 => {
                            advise(at, 1, libc::MADV_DONTNEED).expect("madvise");
                            check(at, Content::Zero);
                        }
                        _ => check(at, memory.captured(page)),
                    }
                    std::thread::sleep(pause);
                }
            });
        }
    });
    say("right");
    end();
}

/// Has children that look at all of it when the test says so.
fn parent(words: &[&str]) {
    let memory = Memory::private(0, PAGES);
    be_rolled_back(std::slice::from_ref(&memory));
    let count: usize = words[0].parse().expect("children");
    let (mut reader, mut writer) = pipe();
    let mut kids: Vec<Kid> = Vec::new();
    for own in 1..=count {
        advise(memory.at(own), 1, libc::MADV_DONTNEED).expect("madvise");
        kids.push(family::start(|| {
            reader.read_exact(&mut [0]).expect("a word");
            for page in 1..PAGES {
                let gone = page <= own;
                let content = if gone {
                    Content::Zero
                } else {
                    memory.captured(page)
                };
                check(memory.at(page), content);
            }
        }));
    }
    say("forked");
    crate::scene::wait_for("look");
    writer.write_all(&vec![0; count]).expect("a pipe");
    kids.into_iter().for_each(Kid::join);
    say("right");
    end();
}

/// Forks all the time, and its children look at some of it.
fn forking(words: &[&str]) {
    let until = Instant::now() + Duration::from_millis(words[0].parse().expect("milliseconds"));
    let memory = Memory::private(0, PAGES);
    be_rolled_back(std::slice::from_ref(&memory));
    let until = until.max(Instant::now() + Duration::from_millis(500));
    let mut kids: VecDeque<Kid> = VecDeque::new();
    for first in (0..PAGES).cycle() {
        kids.push_back(family::start(|| {
            for page in (first..first + 40).map(|page| page % PAGES) {
                check(memory.at(page), memory.captured(page));
            }
        }));
        if kids.len() > 3
            && let Some(kid) = kids.pop_front()
        {
            kid.join();
        }
        if Instant::now() > until {
            break;
        }
    }
    kids.into_iter().for_each(Kid::join);
    say("right");
    end();
}

#[test]
fn the_target_does_not_notice() {
    for guard_too in [false, true] {
        let folder = Folder::new();
        let captured = Captured::new("resumed", "2000 3");
        let sockets = sockets_of(captured.pid);
        let mut scene = captured.restore(&folder.words());
        assert_eq!(sockets_of(scene.pid), sockets + 1);
        for round in 0..10 {
            std::thread::sleep(Duration::from_millis(7 * round));
            kill_all(&scene.restorer, guard_too);
            folder.go_on(&mut scene);
        }
        assert_eq!(scene.target.hear(), "right");
        assert_over(&folder, scene, sockets);
    }
}

/// Their userfaultfds are nowhere but with the parent.
#[test]
fn nor_do_its_children() {
    for guard_too in [false, true] {
        let folder = Folder::new();
        let captured = Captured::new("parent", "3");
        let sockets = sockets_of(captured.pid);
        let mut scene = captured.restore(&folder.words());
        assert_eq!(scene.target.hear(), "forked");
        for _ in 0..3 {
            kill_all(&scene.restorer, guard_too);
            folder.go_on(&mut scene);
        }
        scene.target.tell("look");
        assert_eq!(scene.target.hear(), "right");
        assert_over(&folder, scene, sockets);
    }
}

/// Some of them are forked in the very moment: what the guard has is enough.
#[test]
fn nor_do_those_that_are_just_being_forked() {
    let folder = Folder::new();
    let captured = Captured::new("forking", "4000");
    let sockets = sockets_of(captured.pid);
    let mut scene = captured.restore(&folder.words());
    let mut dice = Dice::new(5);
    for _ in 0..30 {
        std::thread::sleep(Duration::from_micros(dice.below(20_000) as u64));
        kill_all(&scene.restorer, false);
        folder.go_on(&mut scene);
    }
    assert_eq!(scene.target.hear(), "right");
    assert_over(&folder, scene, sockets);
}

/// All of it at once, at random, with an oracle of every page.
#[test]
fn nor_one_that_does_everything() {
    let folder = Folder::new();
    let seed = crate::torture::seed();
    let words = format!(
        "{seed} {} 8",
        crate::support::killing::how_long(Duration::from_secs(4)).as_millis()
    );
    eprintln!("UFFD_RESTORE_TEST_SEED={seed}");
    let how = ["--frame-pages", "4", "--codec", "lz4"];
    let mut scene = Captured::with("tortured", &words, &how).restore(&folder.words());
    let mut dice = Dice::new(seed);
    let over = AtomicBool::new(false);
    let mut kills = 0;
    std::thread::scope(|scope| {
        let Scene {
            target, restorer, ..
        } = &mut scene;
        let resume = Resume {
            state: folder.state_of(target.pid()),
            errors: folder.0.path().join("errors"),
        };
        scope.spawn(|| {
            let said = target.hear();
            over.store(true, Ordering::Relaxed);
            assert_eq!(said, "right");
        });
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(dice.below(100_000) as u64));
            // With the last page the daemon ends.
            if guard_of(restorer.pid()).is_none() {
                break;
            }
            signal_daemon(restorer.pid(), Signal::SIGKILL);
            let _ = restorer.wait();
            if !resume.state.exists() {
                break;
            }
            *restorer = resume.start(&[]);
            let Some(said) = restorer.next_json() else {
                // There is nobody left.
                wait_until("the target says how it went", || {
                    over.load(Ordering::Relaxed)
                });
                break;
            };
            assert_eq!(said["event"], "goes_on");
            kills += 1;
        }
    });
    eprintln!("{kills} kills");
    assert!(kills > 5);
    scene.restorer.signal(Signal::SIGTERM);
    let _ = scene.restorer.wait();
    assert!(!folder.state_of(scene.pid).exists());
    scene.target.finish();
}

#[test]
fn nobody_serves_what_is_served() {
    let folder = Folder::new();
    let captured = Captured::new("resumed", "500 1");
    let sockets = sockets_of(captured.pid);
    let mut scene = captured.restore(&folder.words());
    folder.cannot(&scene, &[], 2, "serves what");
    assert_eq!(scene.target.hear(), "right");
    assert_over(&folder, scene, sockets);
}

/// What is wrong can be mended, and meanwhile the target waits.
#[test]
fn what_cannot_be_gone_on_with_now_is_waited_for() {
    for guard_too in [false, true] {
        let folder = Folder::new();
        let captured = Captured::new("resumed", "500 1");
        let sockets = sockets_of(captured.pid);
        let mut scene = captured.restore(&folder.words());
        kill_all(&scene.restorer, guard_too);
        let snapshot = scene.folder.path().join("snapshot");
        let elsewhere = scene.folder.path().join("elsewhere");
        fs::rename(&snapshot, &elsewhere).expect("renamed");
        folder.cannot(&scene, &[], 1, "No such file");
        // Given by another name it is found. But by a program that writes other journals.
        let words = ["--snapshot", elsewhere.to_str().expect("UTF-8")];
        let journal = File::options().write(true).open(folder.journal(&scene));
        let journal = journal.expect("the journal");
        journal
            .write_all_at(&99_u64.to_le_bytes(), 8)
            .expect("written");
        folder.cannot(&scene, &words, 2, "version 99");
        journal
            .write_all_at(&VERSION.to_le_bytes(), 8)
            .expect("written");
        folder.cannot(&scene, &["--jobs", "none"], 2, "--jobs");
        scene.restorer = folder.resume(&scene, &words);
        assert_eq!(scene.restorer.json()["event"], "goes_on");
        assert_eq!(scene.target.hear(), "right");
        assert_over(&folder, scene, sockets);
    }
}

/// With the last one whom it was for it goes as well.
#[test]
fn the_guard_does_not_wait_for_the_dead() {
    let folder = Folder::new();
    let mut scene = Captured::new("resumed", "500 1").restore(&folder.words());
    let guard = guard_of(scene.restorer.pid()).expect("it watches");
    kill_all(&scene.restorer, false);
    // Who started the daemon need not wait for the guard.
    assert!(!scene.restorer.wait().success());
    wait_until("it is said what to do", || {
        scene.restorer.errors().contains("--resume")
    });
    assert!(!matches!(state(guard), 'Z' | 'X' | '?'));
    scene.target.kill();
    wait_until("the guard's end", || {
        matches!(state(guard), 'Z' | 'X' | '?')
    });
    assert!(folder.is_empty());
}

#[test]
fn nothing_is_left_of_what_is_refused() {
    let folder = Folder::new();
    let captured = Captured::new("resumed", "500 1");
    let sockets = sockets_of(captured.pid);
    let words = [&folder.words()[..], &["--region", "no such region"]].concat();
    let mut restorer = Restorer::start(&captured, &words);
    assert!(!restorer.wait().success());
    assert!(folder.is_empty());
    assert_eq!(sockets_of(captured.pid), sockets);
}
