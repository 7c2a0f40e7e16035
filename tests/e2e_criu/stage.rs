//! Where a test plays: pids and mounts of its own, so that a pid that was dumped is free when it is restored, whatever else
//! happens on this machine, and nothing outlives the test. The first process there starts what it is told to, and takes in
//! whoever loses its parent, as CRIU's restored processes do.
#![expect(unsafe_code, reason = "close_range")]

use std::collections::HashMap;
use std::env;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, wait};
use nix::unistd::Pid;

use super::support::{PATIENCE, ROLE, end, hear, say};

/// The role: the first process of the stage.
pub(crate) fn init(_: &[&str]) {
    // CRIU asks the kernel what it can do once, and notes the answers here.
    mount(
        Some("tmpfs"),
        "/run",
        Some("tmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )
    .expect("a /run of our own");
    // What the test inherited is of no use here, and CRIU cannot dump a file of another mount namespace.
    // SAFETY: marks descriptors, and closes none before an exec.
    let marked = unsafe { libc::close_range(3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
    assert_eq!(marked, 0, "close_range: {}", Errno::last());
    std::thread::spawn(take_in);
    say("ready");
    while let Some(line) = hear() {
        let words: Vec<&str> = line.split('\t').collect();
        match words[..] {
            #[expect(
                clippy::zombie_processes,
                reason = "another thread waits for everybody"
            )]
            ["run", output, errors, program, ref arguments @ ..] => {
                let child = Command::new(program)
                    .args(arguments)
                    .env_remove(ROLE)
                    .stdin(Stdio::null())
                    .stdout(File::create(output).expect("a file for what it says"))
                    .stderr(File::create(errors).expect("a file for its complaints"))
                    .spawn();
                let child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
                say(&format!("started {}", child.id()));
            }
            ["kill", pid, signal] => {
                let signal: Signal = signal.parse().expect("a signal");
                // It may have ended.
                let _ = kill(Pid::from_raw(pid.parse().expect("a pid")), signal);
            }
            _ => panic!("{line}?"),
        }
    }
    end();
}

/// Waits for everybody, and tells how they ended.
fn take_in() {
    loop {
        match wait() {
            Ok(WaitStatus::Exited(pid, status)) => say(&format!("ended {pid} {status}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                say(&format!("ended {pid} {}", 128 + signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // Nobody is there yet.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// How a process ended: its exit status, or 128 plus the signal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended(pub(crate) i32);

impl Ended {
    pub(crate) const GOOD: Self = Self(0);

    pub(crate) fn by(signal: Signal) -> Self {
        Self(128 + signal as i32)
    }
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            status @ ..128 => write!(f, "exit status {status}"),
            status => write!(f, "killed by signal {}", status - 128),
        }
    }
}

/// A command on the stage: a program and its words.
#[derive(Debug, Clone)]
pub(crate) struct Line(Vec<String>);

impl Line {
    pub(crate) fn new(program: impl AsRef<Path>) -> Self {
        Self(vec![text(program.as_ref())])
    }

    pub(crate) fn word(mut self, word: &str) -> Self {
        self.0.push(word.to_owned());
        self
    }

    pub(crate) fn words<'a>(mut self, words: impl IntoIterator<Item = &'a str>) -> Self {
        self.0.extend(words.into_iter().map(str::to_owned));
        self
    }

    pub(crate) fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.push(text(path.as_ref()));
        self
    }

    /// All of another command.
    pub(crate) fn line(mut self, line: &Self) -> Self {
        self.0.extend_from_slice(&line.0);
        self
    }

    pub(crate) fn as_command(&self) -> Command {
        let mut command = Command::new(&self.0[0]);
        command.args(&self.0[1..]);
        command
    }
}

fn text(path: &Path) -> String {
    path.to_str()
        .expect("a path that can be written in a line")
        .to_owned()
}

pub(crate) struct Stage {
    /// The program that made the namespaces; the first process in them ends with it.
    outside: Child,
    input: Option<ChildStdin>,
    said: Receiver<String>,
    ended: HashMap<i32, Vec<Ended>>,
    /// The first process, as it is known here.
    init: i32,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut outside = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc"])
            .arg(env::current_exe().expect("this program"))
            .args(["role", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, "init")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let output = BufReader::new(outside.stdout.take().expect("piped"));
        let (sender, said) = channel();
        std::thread::spawn(move || {
            // Ends with the stage, or when nobody listens any more.
            for line in output.lines().map_while(Result::ok) {
                if let Some(line) = line.strip_prefix('@')
                    && sender.send(line.to_owned()).is_err()
                {
                    break;
                }
            }
        });
        let mut stage = Self {
            input: outside.stdin.take(),
            outside,
            said,
            ended: HashMap::new(),
            init: 0,
        };
        stage.hear_until(|line| (line == "ready").then_some(()), "the stage");
        let outside = stage.outside.id();
        let children = format!("/proc/{outside}/task/{outside}/children");
        let children = std::fs::read_to_string(children).expect("it runs");
        stage.init = children.trim().parse().expect("one child");
        stage
    }

    /// Starts a command, whose output goes to `NAME.out` and `NAME.err` in a folder. Returns its pid there.
    pub(crate) fn start(&mut self, folder: &Path, name: &str, line: &Line) -> i32 {
        let file = |kind| text(&folder.join(format!("{name}.{kind}")));
        let words = line.0.join("\t");
        self.tell(&format!("run\t{}\t{}\t{words}", file("out"), file("err")));
        self.hear_until(|line| line.strip_prefix("started ")?.parse().ok(), name)
    }

    /// Runs a command to its end.
    pub(crate) fn run(&mut self, folder: &Path, name: &str, line: &Line) -> Ended {
        let pid = self.start(folder, name, line);
        self.await_end(pid, name)
    }

    pub(crate) fn kill(&mut self, pid: i32, signal: Signal) {
        self.tell(&format!("kill\t{pid}\t{signal}"));
    }

    /// How a process ended, when it has; each end is told once.
    pub(crate) fn await_end(&mut self, pid: i32, what: &str) -> Ended {
        match self.end_within(pid, PATIENCE) {
            Some(ended) => ended,
            None => panic!("{what} does not end"),
        }
    }

    /// The same, if it ends in time.
    pub(crate) fn end_within(&mut self, pid: i32, time: Duration) -> Option<Ended> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(ends) = self.ended.get_mut(&pid)
                && let Some(ended) = ends.pop()
            {
                return Some(ended);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.said.recv_timeout(left) {
                Ok(line) => self.note(&line),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(error) => panic!("the stage is gone: {error}"),
            }
        }
    }

    /// Whether nobody is in a session.
    pub(crate) fn is_empty(&self, session: i32) -> bool {
        let processes = std::fs::read_dir(self.proc(1, "..")).expect("the stage");
        // After the name, which may have anything in it: state, parent, group, session.
        let session_of = |stat: &str| stat.rsplit_once(')')?.1.split(' ').nth(4)?.parse().ok();
        !processes.flatten().any(|entry| {
            let stat = std::fs::read_to_string(entry.path().join("stat"));
            stat.is_ok_and(|stat| session_of(&stat) == Some(session))
        })
    }

    /// Forgets who ended until now.
    pub(crate) fn forget_ends(&mut self) {
        while let Ok(line) = self.said.try_recv() {
            self.note(&line);
        }
        self.ended.clear();
    }

    /// The number by which a process of the stage is known here, as long as it is there.
    pub(crate) fn outside(&self, pid: i32) -> Option<i32> {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let here = namespace(self.init);
        let processes = std::fs::read_dir("/proc").expect("proc").flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|&its| {
            let status = std::fs::read_to_string(format!("/proc/{its}/status"));
            let status = status.unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
            let number = numbers.and_then(|numbers| numbers.split_whitespace().next_back());
            number.and_then(|number| number.parse().ok()) == Some(pid) && namespace(its) == here
        })
    }

    /// A file under /proc/PID as the processes of the stage see it.
    pub(crate) fn proc(&self, pid: i32, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root/proc/{pid}/{file}", self.init))
    }

    fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{line}").expect("the stage listens");
    }

    fn note(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["ended", pid, status] = words[..] {
            let pid = pid.parse().expect("a pid");
            let ended = Ended(status.parse().expect("a status"));
            self.ended.entry(pid).or_default().push(ended);
        }
    }

    fn hear_until<T>(&mut self, wanted: impl Fn(&str) -> Option<T>, what: &str) -> T {
        loop {
            let line = self.said.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|error| panic!("{what} does not start: {error}"));
            match wanted(&line) {
                Some(answer) => return answer,
                None => self.note(&line),
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The first process ends, and the kernel ends all others before it lets it go.
        drop(self.input.take());
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.outside.try_wait() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(self.outside.kill());
        drop(self.outside.wait());
    }
}
