//! What tests of live processes share.
//!
//! A target is this very test program, started again with the name of a *role* in its environment. The test `role` of
//! each test file looks for it, and plays it if it is there. A target says lines that begin with `@` on its standard
//! output (the test harness writes there as well), and is told lines on its standard input. It dies with the test.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test file uses a part of it"
)]

pub mod area;
pub mod calling;
pub mod child;
pub mod clock;
pub mod confined;
pub mod fuse;
pub mod huge;
pub mod killing;
pub mod last_install;
pub mod plot;
pub mod service;
pub mod sink;
pub mod uffd;

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub const ROLE: &str = "UFFD_RESTORE_TEST_ROLE";
const ARGUMENTS: &str = "UFFD_RESTORE_TEST_ARGUMENTS";

/// How long a test waits for anything before it calls it hung. Far more than is ever needed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A role: gets the words after its name.
pub type Role = fn(&[&str]);

/// To be called by a test named `role` in each test file that starts targets.
pub fn play_role(roles: &[(&str, Role)]) {
    let Ok(name) = env::var(ROLE) else { return };
    // If the test dies without a word, so does its target.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .expect("set the parent's death signal");
    // If the test waits for a word that never comes, this ends its waiting.
    nix::unistd::alarm::set(120);
    let arguments = env::var(ARGUMENTS).unwrap_or_default();
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (_, role) = roles
        .iter()
        .find(|(known, _)| *known == name)
        .expect("a role of this file");
    role(&words);
}

/// In a role: says something to the test.
pub fn say(text: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "\n@{text}").expect("the test listens");
    out.flush().expect("the test listens");
}

/// In a role: the next line from the test, `None` at the end.
pub fn hear() -> Option<String> {
    let mut line = String::new();
    let got = io::stdin().lock().read_line(&mut line).expect("stdin");
    (got > 0).then(|| line.trim_end().to_owned())
}

/// In a role: says where areas are, and how many pages they have, and waits to be ended.
pub fn show(areas: &[area::Area]) {
    let words: Vec<String> = areas
        .iter()
        .map(|area| format!("{:#x} {}", area.address(), area.pages))
        .collect();
    say(&words.join(" "));
    while hear().is_some() {}
}

/// Pages from an address on, as a user would select them.
pub fn selector(address: u64, pages: u64) -> String {
    format!("{address:x}-{:x}", address + pages * area::PAGE as u64)
}

/// In a role: ends the process, whatever its other threads are doing.
#[expect(clippy::exit, reason = "that is what it is for")]
pub fn end() -> ! {
    std::process::exit(0)
}

/// A process to work on. Killed when dropped.
pub struct Target {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Target {
    /// Starts this test program in a role.
    pub fn start(role: &str, arguments: &str) -> Self {
        let this = env::current_exe().expect("this program");
        Self::start_by(Command::new(this), role, arguments)
    }

    /// The same, by a command that becomes this test program, or runs it in another place.
    pub fn start_by(mut command: Command, role: &str, arguments: &str) -> Self {
        let mut child = command
            .args(["role", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("start a target");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("piped"));
        Self {
            child,
            input,
            output: BufReader::new(output),
        }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// The next line that the target says, without its `@`.
    pub fn hear(&mut self) -> String {
        let mut line = Vec::new();
        loop {
            line.clear();
            let got = self
                .output
                .read_until(b'\n', &mut line)
                .expect("the target's output");
            assert!(
                got > 0,
                "the target ended without a word: {:?}",
                self.child.wait()
            );
            if let Some(said) = line.strip_prefix(b"@") {
                return String::from_utf8_lossy(said).trim_end().to_owned();
            }
        }
    }

    /// Everything that the target still says until it ends, without the `@` of its lines.
    pub fn rest(&mut self) -> String {
        let mut said = Vec::new();
        let mut line = Vec::new();
        while self
            .output
            .read_until(b'\n', &mut line)
            .expect("the target's output")
            > 0
        {
            said.extend_from_slice(line.strip_prefix(b"@").unwrap_or_default());
            line.clear();
        }
        String::from_utf8_lossy(&said).trim_end().to_owned()
    }

    /// The next line as numbers: decimal, or hexadecimal after 0x.
    pub fn hear_numbers(&mut self) -> Vec<u64> {
        let line = self.hear();
        let number = |word: &str| match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => word.parse(),
        };
        line.split_whitespace()
            .map(|word| number(word).unwrap_or_else(|_| panic!("not numbers: {line}")))
            .collect()
    }

    pub fn tell(&mut self, line: &str) {
        self.try_tell(line).expect("the target listens");
    }

    /// The same to one that may have ended.
    pub fn try_tell(&mut self, line: &str) -> io::Result<()> {
        let input = self.input.as_mut().expect("still open");
        writeln!(input, "{line}")
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("kill the target");
    }

    /// Waits for the target's end, however it comes.
    pub fn end(&mut self) -> ExitStatus {
        self.child.wait().expect("wait for the target")
    }

    /// Lets the target run to its end, which must be a good one.
    pub fn finish(mut self) {
        drop(self.input.take());
        let status = self.child.wait().expect("wait for the target");
        assert!(
            status.success(),
            "the target failed: {status} {:?}",
            status.signal()
        );
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Waits until a condition holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// State letter of a thread, `?` if it does not exist.
pub fn state(tid: i32) -> char {
    uffd_restore::tracee::ThreadStat::read(tid).map_or('?', |stat| stat.state)
}

/// Nobody traces any thread of this process, and none is in a tracing stop.
pub fn assert_left_alone(pid: i32) {
    let status = uffd_restore::tracee::ThreadStatus::read(pid).expect("status");
    assert_eq!(status.tracer, 0, "still traced");
    for entry in std::fs::read_dir(format!("/proc/{pid}/task")).expect("task") {
        let tid: i32 = entry
            .expect("entry")
            .file_name()
            .to_str()
            .expect("number")
            .parse()
            .expect("number");
        assert_ne!(state(tid), 't', "thread {tid} is still in a tracing stop");
    }
}
