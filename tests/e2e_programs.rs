//! Programs that nobody here wrote, with large heaps, rolled back in place: the same process, its memory only, at a point where it
//! waits for its next command. What is right afterwards, the programs say themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that is killed in the end.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn send(process: &Process, signal: Signal) {
    let pid = i32::try_from(process.0.id()).expect("a pid");
    kill(Pid::from_raw(pid), signal).expect("it runs");
}

/// Waits until the main thread of a process is in this system call.
fn await_call(pid: u32, number: i64) {
    let deadline = Instant::now() + PATIENCE;
    let wanted = format!("{number} ");
    loop {
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).expect("it runs");
        if call.starts_with(&wanted) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{pid} does not come to wait: {call}"
        );
        std::thread::yield_now();
    }
}

/// Says loudly that a test cannot run: scripts/test makes a failure of it.
fn is_there(program: &str, package: &str) -> bool {
    let found = std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    });
    if !found {
        println!("SKIPPED: {program} is missing: install the package {package}");
        // The runner hides what a test that passes says.
        let tolerated = std::env::var_os("UFFD_RESTORE_SKIP_NOTHING").is_none();
        assert!(tolerated, "a test that cannot run counts as failed");
    }
    found
}

fn capture(pid: u32, snapshot: &Path) {
    let output = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
        .args([
            "create",
            "--private-files",
            "--force",
            "--pid",
            &pid.to_string(),
            "-o",
        ])
        .arg(snapshot)
        .output()
        .expect("uffd-snapshot runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// The daemon, already serving.
struct Daemon {
    child: Process,
    output: BufReader<ChildStdout>,
}

impl Daemon {
    fn start(pid: u32, snapshot: &Path, prefill: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
            .args([
                "--json",
                "--prefill",
                prefill,
                "--pid",
                &pid.to_string(),
                "--snapshot",
            ])
            .arg(snapshot)
            .stdout(Stdio::piped())
            .spawn()
            .map(Process)
            .expect("uffd-restore runs");
        let mut output = BufReader::new(child.0.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("output");
        assert!(line.contains(r#""event":"serving""#), "{line}");
        Self { child, output }
    }

    /// Waits for the end, which must be a good one. Returns what the daemon counted.
    fn done(mut self, ask: bool) -> serde_json::Value {
        if ask {
            send(&self.child, Signal::SIGTERM);
        }
        let mut line = String::new();
        self.output.read_to_string(&mut line).expect("output");
        let status = self.child.0.wait().expect("it ends");
        assert!(status.success(), "{status} {line}");
        serde_json::from_str(&line).expect("JSON")
    }
}

/// A Redis server on a socket of its own, which keeps nothing on disk.
struct Redis {
    process: Process,
    link: BufReader<UnixStream>,
}

impl Redis {
    fn start(folder: &Path) -> Self {
        let socket = folder.join("socket");
        // The package redis-tools has the server's program too (the name it is called by decides what it does), and
        // unlike redis-server starts no service.
        let process = Command::new("redis-check-rdb")
            .arg0("redis-server")
            .args([
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
            ])
            .args([
                "--enable-debug-command",
                "yes",
                "--loglevel",
                "warning",
                "--unixsocket",
            ])
            .arg(&socket)
            .arg("--dir")
            .arg(folder)
            .stdout(Stdio::null())
            .spawn()
            .map(Process)
            .expect("the server runs");
        let deadline = Instant::now() + PATIENCE;
        let stream = loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => break stream,
                Err(error) => assert!(
                    Instant::now() < deadline,
                    "the server does not listen: {error}"
                ),
            }
            std::thread::yield_now();
        };
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            process,
            link: BufReader::new(stream),
        }
    }

    fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// A command and its answer: a status, a number, or a string.
    fn ask(&mut self, command: &str) -> String {
        self.link
            .get_mut()
            .write_all(format!("{command}\r\n").as_bytes())
            .expect("it listens");
        let line = self.line();
        match line.strip_prefix('$') {
            Some("-1") => "nothing".to_owned(),
            Some(_) => self.line(),
            None => line,
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.link.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }
}

/// The server answers for a database that has been thrown away twice since, and vouches for every key of it.
#[test]
fn redis_is_rolled_back_to_its_database() {
    if !is_there("redis-check-rdb", "redis-tools") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let snapshot = folder.path().join("redis.snap");
    let mut redis = Redis::start(folder.path());
    assert_eq!(redis.ask("DEBUG POPULATE 200000 key 200"), "+OK");
    for number in 0..2000 {
        redis.ask(&format!(
            "ZADD board {number} member{}",
            number * 7919 % 2000
        ));
        redis.ask(&format!(
            "HSET table{} field{number} {}",
            number % 10,
            "x".repeat(number % 500)
        ));
    }
    let digest = redis.ask("DEBUG DIGEST");
    let rank = redis.ask("ZRANK board member7");
    await_call(redis.pid(), libc::SYS_epoll_wait);
    capture(redis.pid(), &snapshot);
    for prefill in ["none", "all"] {
        assert_eq!(redis.ask("FLUSHALL"), "+OK");
        assert_eq!(redis.ask("DEBUG POPULATE 50000 other 700"), "+OK");
        assert_ne!(redis.ask("DEBUG DIGEST"), digest);
        await_call(redis.pid(), libc::SYS_epoll_wait);
        let daemon = Daemon::start(redis.pid(), &snapshot, prefill);
        assert_eq!(redis.ask("DBSIZE"), ":200011");
        assert_eq!(
            redis.ask("GET key:77777").trim_end_matches('\0'),
            "value:77777"
        );
        assert_eq!(redis.ask("ZRANK board member7"), rank);
        // Every key and every value.
        assert_eq!(redis.ask("DEBUG DIGEST"), digest);
        let done = daemon.done(true);
        if prefill == "none" {
            assert!(done["pages"]["demand"].as_u64() > Some(2000), "{done}");
        }
        assert_eq!(done["outcome"], "complete", "{done}");
        assert_eq!(done["pages"]["poisoned"], 0, "{done}");
        // It is a whole server again: it writes, and it still is right with the daemon gone.
        assert_eq!(redis.ask("SET new value"), "+OK");
        assert_eq!(redis.ask("DEL new"), ":1");
        assert_eq!(redis.ask("DEBUG DIGEST"), digest);
    }
}

/// What the interpreter does when it gets a signal: say what it has, or change everything. It waits in pause(2), where it holds
/// nothing that it made for this one wait: a rollback brings back memory, not registers.
const HEAP: &str = r#"
import gc, hashlib, signal
data = {number: ("value %d " % number) * 8 for number in range(150000)}
def digest(*_):
    state = hashlib.sha256()
    for key in sorted(data):
        state.update(repr((key, data[key])).encode())
    print("%s %d" % (state.hexdigest(), len(data)), flush=True)
def change(*_):
    for key in list(data)[::2]:
        del data[key]
    data.update((key, [key] * 3) for key in range(10 ** 6, 10 ** 6 + 100000))
    gc.collect()
    print("changed", flush=True)
signal.signal(signal.SIGUSR1, digest)
signal.signal(signal.SIGUSR2, change)
print("ready", flush=True)
while True:
    signal.pause()
"#;

struct Interpreter {
    process: Process,
    output: BufReader<ChildStdout>,
}

impl Interpreter {
    fn start() -> Self {
        let mut process = Command::new("python3")
            .args(["-c", HEAP])
            .stdout(Stdio::piped())
            .spawn()
            .map(Process)
            .expect("python3 runs");
        let output = BufReader::new(process.0.stdout.take().expect("piped"));
        let mut interpreter = Self { process, output };
        assert_eq!(interpreter.line(), "ready");
        interpreter
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn ask(&mut self, signal: Signal) -> String {
        send(&self.process, signal);
        let answer = self.line();
        await_call(self.process.0.id(), libc::SYS_pause);
        answer
    }
}

/// A garbage-collected heap, full of pointers into the program and its libraries.
#[test]
fn an_interpreter_is_rolled_back_to_its_objects() {
    if !is_there("python3", "python3") {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let snapshot = folder.path().join("python.snap");
    let mut python = Interpreter::start();
    let digest = python.ask(Signal::SIGUSR1);
    let pid = python.process.0.id();
    capture(pid, &snapshot);
    for prefill in ["none", "all"] {
        assert_eq!(python.ask(Signal::SIGUSR2), "changed");
        assert_ne!(python.ask(Signal::SIGUSR1), digest);
        let daemon = Daemon::start(pid, &snapshot, prefill);
        assert_eq!(python.ask(Signal::SIGUSR1), digest);
        let done = daemon.done(true);
        assert_eq!(done["outcome"], "complete", "{done}");
        assert_eq!(python.ask(Signal::SIGUSR1), digest, "with the daemon gone");
    }
}
