//! `uffd-restore lazy-pages` and somebody who does what `criu restore` does, step by step: what a real one does in microseconds takes as long here
//! as the test wants, and what it never does is done, too.
#![cfg(target_arch = "x86_64")]

#[path = "criu_images/writer.rs"]
#[expect(dead_code, reason = "other tests write other images")]
mod criu_writer;
mod support;

use std::fs;
use std::io::{IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use uffd_restore::addr::AddrRange;
use uffd_restore::uffd::{Features, Userfaultfd};

use criu_writer::{Dump, INVENTORY, Message, PAGE, Vma, image, mm, pagemap, pages, pstree};
use support::area::Area;
use support::{Target, hear, say, uffd::agreed};

const PAGES: u64 = 1024;
/// Pages that are registered when the first one is touched: enough to be seen to be read in order.
const EARLY: u64 = 256;

/// A role: a process that restores itself. It does what it is told, a line each.
fn restored(_: &[&str]) {
    let area = Area::private(1024);
    say(&format!("{:#x}", area.address()));
    let mut stream = None;
    let mut userfaultfd = None;
    let mut folders = Vec::new();
    while let Some(line) = hear() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["connect", path] => stream = Some(UnixStream::connect(path).expect("it listens")),
            ["disconnect"] => drop(stream.take()),
            // As criu restore has its images.
            ["open", path] => folders.push(fs::File::open(path).expect("a folder")),
            ["number", number] => {
                let number: i32 = number.parse().expect("a number");
                let stream = stream.as_mut().expect("connected");
                stream.write_all(&number.to_le_bytes()).expect("room");
            }
            ["descriptor"] => {
                let own = userfaultfd.insert(agreed(Features::EVENTS));
                send(stream.as_ref().expect("connected"), own);
            }
            ["register", first, end] => {
                let at = |word: &str| area.address() + word.parse::<u64>().expect("a page") * PAGE;
                let own = userfaultfd.as_ref().expect("made");
                own.register(AddrRange::new(at(first), at(end)))
                    .expect("registered");
            }
            // The daemon has the only one.
            ["close"] => drop(userfaultfd.take()),
            ["look", page] => {
                let page: usize = page.parse().expect("a page");
                say(&area.read(page).to_string());
            }
            _ => panic!("{line}?"),
        }
    }
}

fn send(stream: &UnixStream, userfaultfd: &Userfaultfd) {
    let descriptor = [userfaultfd.as_fd().as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptor)];
    let byte = [IoSlice::new(&[0])];
    sendmsg::<()>(stream.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None).expect("room");
}

#[test]
fn role() {
    support::play_role(&[("restored", restored)]);
}

/// One process, and the daemon that it has connected to.
struct Scene {
    process: Target,
    daemon: Child,
    dump: Dump,
}

impl Scene {
    fn new() -> Self {
        let mut process = Target::start("restored", "");
        let memory = process.hear_numbers()[0];
        let pid = u64::try_from(process.pid()).expect("a pid");
        let dump = Dump::of(&[(pid, 0)]);
        dump.put("pstree.img", &pstree(&[(pid, 0)]));
        let vma = Vma::lazy(memory, memory + PAGES * PAGE);
        dump.put(&format!("mm-{pid}.img"), &mm(&[vma]));
        // Lazy, and in the file.
        let entries = [(memory, PAGES, 6)];
        dump.put(&format!("pagemap-{pid}.img"), &pagemap(1, &entries));
        dump.put("pages-1.img", &pages(1..=PAGES));
        let mut daemon = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
            .args([
                "lazy-pages",
                "--quiet",
                "--prefill",
                "none",
                "--status-fd",
                "1",
                "-D",
            ])
            .arg(dump.folder())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut listens = Vec::new();
        let mut output = daemon.stdout.take().expect("piped");
        output
            .read_to_end(&mut listens)
            .expect("a byte and the end");
        assert_eq!(listens, [0]);
        Self {
            process,
            daemon,
            dump,
        }
    }

    fn connect(&mut self) {
        let socket = self.dump.folder().join("lazy-pages.socket");
        self.process.tell(&format!("connect {}", socket.display()));
    }

    fn stop_daemon(&self) {
        let pid = i32::try_from(self.daemon.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it is there");
    }

    fn hand_over(&mut self) {
        self.process.tell(&format!("number {}", self.process.pid()));
        self.process.tell("descriptor");
    }

    /// The number of the page that is found there, as the images have them.
    fn look(&mut self, page: u64) -> u64 {
        self.process.tell(&format!("look {page}"));
        self.process.hear_numbers()[0]
    }

    /// It was killed, by the daemon or by its guard.
    fn assert_killed(&mut self) {
        let status = self.process.end();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(self.daemon.kill());
        drop(self.daemon.wait());
    }
}

/// "Restore finished".
const FINISHED: i32 = 0x5253_5446;

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

/// At no instant between its first byte and its descriptor can the daemon be killed and the process live.
#[test]
fn whoever_has_begun_to_hand_over_does_not_outlive_the_daemon() {
    for steps in 0..5 {
        let mut scene = Scene::new();
        scene.connect();
        if steps > 0 {
            let pid = scene.process.pid();
            scene.process.tell(&format!("number {pid}"));
        }
        if steps > 1 {
            scene.process.tell("descriptor");
        }
        if steps > 2 {
            scene.process.tell(&format!("register 0 {PAGES}"));
            scene.process.tell("close");
            assert_eq!(scene.look(7), 8);
        }
        if steps > 3 {
            scene.process.tell(&format!("number {FINISHED}"));
            assert_eq!(scene.look(PAGES - 1), PAGES);
        }
        scene.daemon.kill().expect("it is there");
        scene.assert_killed();
    }
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

/// Nor if it had not even let anybody in.
#[test]
fn whoever_has_handed_over_to_nobody_does_not_live() {
    let mut scene = Scene::new();
    scene.stop_daemon();
    scene.connect();
    scene.hand_over();
    scene.process.tell(&format!("register 0 {PAGES}"));
    scene.process.tell("close");
    // It waits for that, and for the number of the page.
    scene.process.tell("look 0");
    std::thread::sleep(Duration::from_millis(100));
    scene.daemon.kill().expect("it is there");
    scene.assert_killed();
    assert_eq!(scene.process.rest(), "", "it has seen zeros");
}
