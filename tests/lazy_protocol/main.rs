//! `uffd-restore lazy-pages` and somebody who does what `criu restore` does, step by step: what a real one does in microseconds takes as long here
//! as the test wants, and what it never does is done, too.
#![cfg(target_arch = "x86_64")]

#[path = "../criu_images/writer.rs"]
#[expect(dead_code, reason = "other tests write other images")]
mod criu_writer;
mod killed;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use criu_writer::{Dump, INVENTORY, Message, image, mm, pagemap, pstree};
use scene::{FINISHED, PAGES, Scene};

/// Pages that are registered when the first one is touched: enough to be seen to be read in order.
const EARLY: u64 = 256;

#[test]
fn role() {
    support::play_role(&[("restored", scene::restored)]);
}

/// What is not registered yet would be taken for unmapped, and be zero later.
#[test]
fn what_is_registered_after_others_were_touched_is_not_lost() {
    let mut scene = Scene::new();
    scene.connect();
    scene.hand_over();
    scene.process.tell(&format!("register 0 {EARLY}"));
    for page in 0..EARLY {
        assert_eq!(scene.look(page), page + 1);
    }
    scene.process.tell(&format!("register {EARLY} {PAGES}"));
    scene.process.tell("close");
    scene.process.tell(&format!("number {FINISHED}"));
    for page in EARLY..PAGES {
        assert_eq!(scene.look(page), page + 1);
    }
}

/// Nothing is owed any more before all have come, and it is not over.
#[test]
fn what_is_complete_before_all_have_come_stays_served() {
    let mut scene = Scene::new();
    scene.connect();
    scene.hand_over();
    scene.process.tell(&format!("register 0 {PAGES}"));
    for page in 0..PAGES {
        assert_eq!(scene.look(page), page + 1);
    }
    assert!(scene.daemon.try_wait().expect("a child").is_none());
    scene.process.tell("close");
    scene.process.tell(&format!("number {FINISHED}"));
    assert!(scene.daemon.wait().expect("a child").success());
}

/// Whoever looks whether anybody listens is no restore, and may be anybody: the parent of all containers, for instance.
#[test]
fn who_has_sent_nothing_is_not_ended() {
    let mut scene = Scene::new();
    scene.connect();
    scene.process.tell("disconnect");
    assert_eq!(scene.daemon.wait().expect("a child").code(), Some(1));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(scene.look(3), 0, "it is alive");
}

/// Who restores may have made processes that have not handed over.
#[test]
fn a_restore_that_makes_no_sense_is_ended() {
    let mut scene = Scene::new();
    scene.connect();
    scene.process.tell("number 0");
    scene.assert_killed();
    assert_eq!(scene.daemon.wait().expect("a child").code(), Some(1));
}

/// The numbers of the processes are the same when a dump is made again, and the pages are not.
#[test]
fn a_restore_of_other_images_is_ended() {
    let other = Dump::of(&[]);
    let inventory = Message::default().number(1, 2).number(9, 4711);
    other.put("inventory.img", &image(INVENTORY, &[inventory]));
    let other = other.folder();
    let mut scene = Scene::new();
    scene.process.tell(&format!("open {}", other.display()));
    scene.connect();
    scene.assert_killed();
    assert_eq!(scene.daemon.wait().expect("a child").code(), Some(1));
    // Those that it builds on may be open, too.
    let mut scene = Scene::new();
    let served = scene.dump.folder();
    for folder in [&other, &served, &other] {
        scene.process.tell(&format!("open {}", folder.display()));
    }
    scene.connect();
    scene.hand_over();
    scene.process.tell(&format!("register 0 {PAGES}"));
    scene.process.tell("close");
    scene.process.tell(&format!("number {FINISHED}"));
    assert_eq!(scene.look(5), 6);
}

/// In the background there is no other standard output.
#[test]
fn what_is_for_programs_goes_to_the_log() {
    let dump = Dump::of(&[(7, 0)]);
    let folder = dump.folder();
    let status = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
        .args(["lazy-pages", "-d", "--json", "-o", "log"])
        .args(["--connect-timeout", "100ms", "-D"])
        .arg(&folder)
        .stdin(Stdio::null())
        .status()
        .expect("it starts");
    assert!(status.success());
    let said = || fs::read_to_string(folder.join("log")).unwrap_or_default();
    support::wait_until("its end", || said().contains("--connect-timeout"));
    let listening = said().lines().next().map(str::to_owned);
    let listening = listening.expect("a line");
    assert!(listening.contains(r#""event":"listening""#), "{listening}");
}

/// It would fail half-way, with no descriptor left to find whom to end.
#[test]
fn more_processes_than_descriptors_are_refused_before_anybody_connects() {
    let processes: Vec<(u64, u64)> = (7..27).map(|pid| (pid, 0)).collect();
    let dump = Dump::of(&processes);
    for (pid, _) in processes {
        dump.put(&format!("mm-{pid}.img"), &mm(&[]));
        dump.put(&format!("pagemap-{pid}.img"), &pagemap(pid, &[]));
    }
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 100 && exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_uffd-restore"))
        .args(["lazy-pages", "-D"])
        .arg(dump.folder())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("20 processes") && said.contains("100"),
        "{said}"
    );
    assert!(!dump.folder().join("lazy-pages.socket").exists());
}

/// Whether the command line of a process names a folder.
fn is_named(folder: &Path) -> bool {
    let name = folder.to_string_lossy().into_owned();
    let processes = fs::read_dir("/proc").expect("proc").flatten();
    processes
        .filter_map(|process| fs::read(process.path().join("cmdline")).ok())
        .any(|line| String::from_utf8_lossy(&line).contains(&name))
}

/// Nobody would know of it, and nobody could connect.
#[test]
fn whose_number_cannot_be_written_does_not_go_on() {
    let dump = Dump::of(&[]);
    let folder = &dump.folder();
    dump.put("pstree.img", &pstree(&[(7, 0)]));
    for pidfile in ["missing/pid", "/dev/full"] {
        let output = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
            .args(["lazy-pages", "-d", "--pidfile", pidfile, "-D"])
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .expect("it starts");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(pidfile), "{said}");
        assert!(!folder.join("lazy-pages.socket").exists());
        support::wait_until("nobody is left", || !is_named(folder));
    }
}
