//! What can go wrong around working sets: most of it did, when a reviewer tried.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::family;
use crate::frozen::{self, Frozen};
use crate::memory::{Content, Memory, check, map_at, write};
use crate::moves::arena;
use crate::scene::{Captured, Restorer, show, wait_for};
use crate::support::service::worker_of;
use crate::support::{Role, end, hear, say, wait_until};

pub(crate) const ROLES: &[(&str, Role)] = &[("pair", pair), ("toucher", toucher)];

fn content(page: usize) -> Content {
    Content::Snapshot(page as u64 + 1)
}

fn filled(pages: usize) -> Memory {
    let memory = Memory {
        area: 0,
        address: arena(0),
        pages,
    };
    map_at(memory.address, pages, 0);
    (0..pages).for_each(|page| write(memory.at(page), content(page)));
    memory
}

/// A parent and a child each touch a page of the one frame; who is first is said by a word.
fn pair(words: &[&str]) {
    let memory = filled(32);
    show(std::process::id(), &[memory]);
    wait_for("go");
    let (parent, child) = if words[0] == "parent" {
        (0, 300)
    } else {
        (300, 0)
    };
    let kid = family::start(|| {
        std::thread::sleep(Duration::from_millis(child));
        check(memory.at(1), content(1));
    });
    std::thread::sleep(Duration::from_millis(parent));
    check(memory.at(0), content(0));
    say("parent");
    let pid = Pid::from_raw(kid.pid());
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = waitpid(pid, Some(WaitPidFlag::WNOHANG)).expect("a child");
        if status.pid().is_some() {
            say("right");
            break;
        }
        if Instant::now() > deadline {
            let wchan = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
            say(&format!("the child hangs in {wchan}"));
            let _ = kill(pid, Signal::SIGKILL);
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    end();
}

/// Touches pages when it is told to: "FIRST END".
fn toucher(words: &[&str]) {
    let memory = filled(words[0].parse().expect("a number"));
    show(std::process::id(), &[memory]);
    while let Some(line) = hear() {
        let numbers: Vec<usize> = line
            .split(' ')
            .map(|word| word.parse().expect("a number"))
            .collect();
        (numbers[0]..numbers[1]).for_each(|page| check(memory.at(page), content(page)));
        say("right");
    }
    end();
}

/// A frame comes for which the parent and then the child wait. With the parent's page all of the parent is in place.
fn a_frame_for_two(first: &str) -> String {
    let mut captured = Captured::only_started("pair", first);
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    captured.make_set();
    let words = ["--head-start", "0s", "--prefill", "working-set"];
    let place = format!("{:#x}", captured.areas[0].0);
    let words = [&words[..], &["--region", &place]].concat();
    let (mut restorer, decoder) = frozen::start(&captured, &words);
    assert_eq!(restorer.json()["event"], "serving");
    captured.target.tell("go");
    std::thread::sleep(Duration::from_millis(1000));
    decoder.thaw();
    assert_eq!(captured.target.hear(), "parent");
    captured.target.hear()
}

#[test]
fn a_child_waits_for_the_frame_that_finishes_its_parent() {
    assert_eq!(
        a_frame_for_two("child"),
        "right",
        "control: the child first"
    );
    assert_eq!(a_frame_for_two("parent"), "right");
}

fn fifo(path: &std::path::Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
}

/// It is not waited for.
#[test]
fn a_fifo_is_no_working_set() {
    let captured = Captured::only_started("toucher", "32");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let path = captured.folder.path().join("fifo");
    fifo(&path);
    let mut restorer = Restorer::start(
        &captured,
        &["--record-working-set", path.to_str().expect("a name")],
    );
    assert_eq!(restorer.wait().code(), Some(1));
}

/// Everything is in place; the daemon says how its recording went to somebody who does not read, and is killed.
#[test]
fn a_complete_target_outlives_the_daemon() {
    let mut captured = Captured::only_started("toucher", "32");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    // A pipe that is full up to here.
    // The daemon must not have the end that is read, or it would wait for itself.
    let cloexec = nix::fcntl::OFlag::O_CLOEXEC;
    let (reader, writer) = nix::unistd::pipe2(cloexec).expect("a pipe");
    nix::fcntl::fcntl(
        &writer,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
    )
    .expect("fcntl");
    while nix::unistd::write(writer.as_fd(), &[b'x'; 4096]).is_ok() {}
    nix::fcntl::fcntl(
        &writer,
        nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty()),
    )
    .expect("fcntl");
    let mut daemon = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
        .arg("--snapshot")
        .arg(captured.snapshot())
        .args([
            "--pid",
            &captured.pid.to_string(),
            "--json",
            "--record-working-set",
            "--region",
        ])
        .arg(format!("{:#x}", captured.areas[0].0))
        .stdin(Stdio::null())
        .stdout(Stdio::from(writer))
        .spawn()
        .expect("it runs");
    std::thread::sleep(Duration::from_secs(1));
    captured.target.tell("0 32");
    assert_eq!(captured.target.hear(), "right");
    std::thread::sleep(Duration::from_secs(1));
    assert!(
        daemon.try_wait().expect("a child").is_none(),
        "it waits for its reader"
    );
    let links: Vec<String> = fs::read_dir(format!("/proc/{}/fd", daemon.id()))
        .expect("fds")
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    assert!(
        !links.iter().any(|link| link.contains("userfaultfd")),
        "nothing is owed any more: {links:?}"
    );
    daemon.kill().expect("killed");
    daemon.wait().expect("a child");
    std::thread::sleep(Duration::from_secs(1));
    let alive =
        captured.target.try_tell("0 32").is_ok() && crate::support::state(captured.pid) != 'Z';
    drop(reader);
    assert!(
        alive,
        "a target that is owed nothing was killed with the daemon"
    );
}

fn run(
    words: &[&str],
    set: &std::path::Path,
    snapshot: &std::path::Path,
    source: u64,
    before: Duration,
    more: Option<usize>,
) -> Vec<serde_json::Value> {
    let mut other = Captured::only_started("toucher", "256");
    fs::hard_link(snapshot, other.snapshot()).expect("a link");
    let place = format!("{source:#x}={:#x}", other.areas[0].0);
    let words = [
        &[
            "--json",
            "--head-start",
            "1s",
            "--region",
            &place,
            "--record-working-set",
            set.to_str().expect("a name"),
        ],
        words,
    ]
    .concat();
    let mut restorer = Restorer::start(&other, &words);
    let mut said = vec![restorer.json()];
    std::thread::sleep(before);
    other.target.tell("0 64");
    assert_eq!(other.target.hear(), "right");
    if let Some(page) = more {
        other.target.tell(&format!("{page} {}", page + 1));
        assert_eq!(other.target.hear(), "right");
    }
    other.target.kill();
    loop {
        let line = restorer.json();
        said.push(line.clone());
        if line["event"] == "done" {
            restorer.wait();
            eprintln!("stderr: {}", restorer.errors());
            return said;
        }
    }
}

/// The same 64 pages are touched in each run, and one more that is another each time. The 64 must stay in the set.
#[test]
fn replaying_while_recording_forgets_nothing() {
    let original = Captured::only_started("toucher", "256");
    original.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let set = original.folder.path().join("set.ws");
    let mut pages = Vec::new();
    for round in 0..5 {
        let how = if round == 0 {
            vec![]
        } else {
            vec![
                "--prefill",
                "working-set",
                "--working-set",
                set.to_str().expect("a name"),
            ]
        };
        let said = run(
            &how,
            &set,
            &original.snapshot(),
            original.areas[0].0,
            Duration::ZERO,
            Some(100 + round),
        );
        let recorded = said.iter().find(|line| line["event"] == "recorded");
        let done = said.last().expect("done");
        pages.push((
            recorded.map(|line| line["pages"].clone()),
            done["pages"]["replayed"].clone(),
            done["faults"].clone(),
        ));
    }
    eprintln!("(pages of the set, replayed, faults) by round: {pages:?}");
    let replayed: Vec<u64> = pages[1..]
        .iter()
        .filter_map(|round| round.1.as_u64())
        .collect();
    assert!(replayed.iter().all(|&pages| pages >= 64), "{pages:?}");
}

/// A target that is continued later than --record-idle after the restore is not recorded at all.
#[test]
fn a_target_that_begins_late_is_recorded() {
    let original = Captured::only_started("toucher", "256");
    original.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let set = original.folder.path().join("set.ws");
    let said = run(
        &["--record-idle", "500ms"],
        &set,
        &original.snapshot(),
        original.areas[0].0,
        Duration::from_secs(1),
        None,
    );
    assert!(
        set.exists(),
        "nothing was recorded, and nothing was said: {said:?}"
    );
}

/// A file that cannot be read is replaced.
#[test]
fn an_unreadable_file_is_not_overwritten() {
    let mut captured = Captured::only_started("toucher", "32");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    let precious = captured.folder.path().join("precious");
    fs::write(&precious, "a letter").expect("written");
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o000)).expect("chmod");
    let mut daemon = Command::new("setpriv")
        .args([
            "--bounding-set",
            "-dac_override,-dac_read_search",
            "--inh-caps",
            "-dac_override,-dac_read_search",
            "--",
        ])
        .arg(env!("CARGO_BIN_EXE_uffd-restore"))
        .arg("--snapshot")
        .arg(captured.snapshot())
        .args(["--pid", &captured.pid.to_string(), "--region"])
        .arg(format!("{:#x}", captured.areas[0].0))
        .arg("--record-working-set")
        .arg(&precious)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it runs");
    std::thread::sleep(Duration::from_secs(1));
    if daemon.try_wait().expect("a child").is_none() {
        captured.target.tell("0 32");
        assert_eq!(captured.target.hear(), "right");
        daemon.wait().expect("a child");
    }
    fs::set_permissions(&precious, fs::Permissions::from_mode(0o600)).expect("chmod");
    let now = fs::read(&precious).expect("it is there");
    assert!(now == b"a letter", "it was overwritten");
}

/// Each frame that was under way complains.
#[test]
fn one_complaint() {
    let captured = Captured::only_started("toucher", "512");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    captured.make_set();
    let set = captured.folder.path().join("snapshot.ws");
    let mut bytes = fs::read(&set).expect("the set");
    let end = bytes.len();
    // All frames, but not the tables behind them: 16 entries, and few runs.
    for byte in &mut bytes[4096..end - 16 * 40 - 512 * 16] {
        *byte ^= 0x55;
    }
    fs::write(&set, bytes).expect("written");
    let place = format!("{:#x}", captured.areas[0].0);
    let mut restorer = Restorer::start(&captured, &["--json", "--jobs", "4", "--region", &place]);
    restorer.json();
    std::thread::sleep(Duration::from_millis(500));
    let said = restorer.errors();
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// In the head start nobody looks for signals, nor whether the target still exists.
#[test]
fn a_head_start_can_be_interrupted() {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    captured.make_set();
    let place = format!("{:#x}", captured.areas[0].0);
    let words = ["--head-start", "8s", "--region", &place];
    let (mut restorer, decoder) = frozen::start(&captured, &words);
    std::thread::sleep(Duration::from_secs(1));
    restorer.signal(Signal::SIGTERM);
    let began = Instant::now();
    let serving = restorer.json();
    let took = began.elapsed();
    decoder.thaw();
    assert!(took < Duration::from_secs(2), "after {took:?}: {serving}");
}

/// Killed in the head start, the daemon takes the target with it.
#[test]
fn a_daemon_killed_in_the_head_start_takes_the_target_along() {
    let (captured, mut restorer, decoder) = in_a_head_start("30s");
    assert_eq!(crate::support::state(captured.pid), 't');
    restorer.signal(Signal::SIGKILL);
    decoder.ended();
    restorer.wait();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(crate::support::state(captured.pid), 'Z');
}

/// "Exit status: 0 [...] the target ended by itself".
#[test]
fn the_target_ends_in_the_head_start() {
    let (captured, mut restorer, decoder) = in_a_head_start("3s");
    kill(Pid::from_raw(captured.pid), Signal::SIGKILL).expect("it lives");
    std::thread::sleep(Duration::from_millis(100));
    decoder.thaw();
    let status = restorer.wait();
    assert!(status.success(), "{status}: {}", restorer.errors());
}

fn in_a_head_start(long: &str) -> (Captured, Restorer, Frozen) {
    let captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    captured.make_set();
    let place = format!("{:#x}", captured.areas[0].0);
    let words = ["--head-start", long, "--region", &place];
    let (restorer, decoder) = frozen::start(&captured, &words);
    wait_until("the target to stand still", || {
        crate::support::state(captured.pid) == 't'
    });
    std::thread::sleep(Duration::from_millis(200));
    (captured, restorer, decoder)
}

/// It may be the set that its process has died of.
#[test]
fn a_set_is_not_replayed_after_a_crash() {
    let mut captured = Captured::only_started("toucher", "64");
    captured.capture(&["--frame-pages", "1", "--codec", "lz4"]);
    captured.make_set();
    let place = format!("{:#x}", captured.areas[0].0);
    let words = ["--head-start", "0s", "--region", &place];
    let (mut restorer, decoder) = frozen::start(&captured, &words);
    assert_eq!(restorer.json()["event"], "serving");
    let worker = worker_of(restorer.pid()).expect("it serves");
    kill(Pid::from_raw(worker), Signal::SIGABRT).expect("it runs");
    decoder.ended();
    captured.target.tell("0 64");
    assert_eq!(captured.target.hear(), "right");
    let done = restorer.finish();
    assert_eq!((done.outcome(), done.pages("replayed")), ("complete", 0));
    let said = restorer.errors();
    assert!(said.contains("not replayed any more"), "{said}");
}
