//! A real server: how soon it answers after its memory was brought back.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Setup;
use crate::aims::Aim;
use crate::daemon::{Daemon, number};
use crate::measure::Series;

/// Keys in the database, and how many are asked for first.
const KEYS: usize = 200_000;
const ASKED: usize = 100;
/// Bytes of a value.
const VALUE: usize = 500;

/// The server. It dies with this value.
struct Server {
    process: Child,
    socket: PathBuf,
}

impl Server {
    /// One with a full database that keeps nothing on the disk. None when it is not installed.
    fn start(work: &Path) -> Option<Self> {
        let socket = work.join("redis.sock");
        // The package redis-tools has the server's program too: the name it is called by decides what it does.
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
            .arg(work)
            .stdout(Stdio::null())
            .spawn()
            .ok()?;
        let server = Self { process, socket };
        let fill = format!("DEBUG POPULATE {KEYS} key {VALUE}");
        assert_eq!(server.connect().ask(&fill), "+OK");
        Some(server)
    }

    fn connect(&self) -> Client {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Client(BufReader::new(stream));
            }
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.process.id()).expect("a pid")
    }

    /// What a client asks that comes back: milliseconds until the answer to PING, and until a hundred values are right.
    fn answers(&self) -> (f64, f64) {
        let begun = Instant::now();
        let mut client = self.connect();
        assert_eq!(client.ask("PING"), "+PONG");
        let first = begun.elapsed().as_secs_f64() * 1e3;
        for at in 0..ASKED {
            let key = at * 7919 % KEYS;
            let value = client.ask(&format!("GET key:{key}"));
            assert_eq!(value.trim_end_matches('\0'), format!("value:{key}"));
        }
        (first, begun.elapsed().as_secs_f64() * 1e3)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is reaped.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    /// A status, or a string.
    fn ask(&mut self, command: &str) -> String {
        let command = format!("{command}\r\n");
        self.0
            .get_mut()
            .write_all(command.as_bytes())
            .expect("it listens");
        let line = self.line();
        if line.starts_with('$') {
            self.line()
        } else {
            line
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }
}

/// One restore.
#[derive(Debug)]
struct Sample {
    /// Milliseconds until it is served, until the first answer, until all answers; from before the daemon was started.
    ready: f64,
    first: f64,
    all: f64,
    demand: f64,
    replayed: f64,
    replay: f64,
}

/// Measure and print.
pub(crate) fn run(setup: &Setup) {
    println!("\n## A real server\n");
    let Some(server) = Server::start(&setup.work) else {
        println!("redis-check-rdb (package redis-tools) is not installed: left out.");
        return;
    };
    let (snapshot, set) = (setup.work.join("redis.snap"), setup.work.join("redis.ws"));
    let mut create = Command::new(&setup.packer);
    create.args([
        "create",
        "--quiet",
        "--pid",
        &server.pid().to_string(),
        "-o",
    ]);
    let output = create.arg(&snapshot).output().expect("uffd-snapshot");
    assert!(output.status.success(), "{output:?}");
    record(setup, &server, &snapshot, &set);
    let with = ["--working-set", set.to_str().expect("a name")];
    let none = ["--prefill", "none"];
    let mut columns: [Series; 14] = Default::default();
    for _ in 0..setup.rounds * 3 {
        let (never_first, never) = server.answers();
        let lazy = restore(setup, &server, &snapshot, &none);
        let ahead = restore(setup, &server, &snapshot, &with);
        let limit = never + ahead.replay;
        // The target stands still while the set is installed: that ends with the serving line.
        let after = ahead.replay + ahead.all - ahead.ready;
        let values = [
            never_first,
            never,
            lazy.ready,
            lazy.first,
            lazy.all,
            lazy.demand,
            ahead.ready,
            ahead.first,
            ahead.all,
            ahead.demand,
            ahead.replayed,
            ahead.replay,
            after / limit,
            ahead.all / limit,
        ];
        for (column, value) in columns.iter_mut().zip(values) {
            column.push(value);
        }
    }
    print(&columns);
    let what = "a server's first answers, from the start of the daemon / (never stopped + replay)";
    setup
        .aims
        .note(what, Aim::AtMost(1.2), "redis:", columns[13].median());
    let what =
        "the same without attaching: replay and answers after serving / (never stopped + replay)";
    setup
        .aims
        .note(what, Aim::AtMost(1.2), "redis:", columns[12].median());
    for file in [&snapshot, &set] {
        std::fs::remove_file(file).expect("a file");
    }
}

fn print(columns: &[Series; 14]) {
    println!(
        "A Redis server with {KEYS} keys of {VALUE} bytes is captured and rolled back to that, lazily. A client connects, sends PING, and asks for {ASKED} keys, one after \
         the other. ms from before the daemon starts (never stopped: from before connecting); the server stands still while the set is installed. Ratios are against \
         all answers never stopped + replay, of the same round; medians of three times as many rounds as elsewhere (smallest - largest).\n"
    );
    println!(
        "| | served after | PING | all answers | demand faults | replayed | replay, ms |\n|---|--:|--:|--:|--:|--:|--:|"
    );
    let at = |number: usize| columns[number].median();
    println!("| never stopped | | {:.2} | {:.2} | | | |", at(0), at(1));
    println!(
        "| uffd-restore, nothing ahead | {:.1} | {:.1} | {:.1} | {:.0} | | |",
        at(2),
        at(3),
        at(4),
        at(5)
    );
    println!(
        "| uffd-restore, working set | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.1} |",
        at(6),
        at(7),
        at(8),
        at(9),
        at(10),
        at(11)
    );
    println!(
        "\nAll answers with the set / (never stopped + replay): {} from the start of the daemon, and {} without starting and attaching: replay, and answers \
         after the serving line.",
        columns[13].ratio(),
        columns[12].ratio()
    );
}

fn record(setup: &Setup, server: &Server, snapshot: &Path, set: &Path) {
    let set = set.to_str().expect("a name");
    let options = [
        "--prefill",
        "none",
        "--record-working-set",
        set,
        "--record-idle",
        "300ms",
    ];
    let mut daemon = Daemon::start(setup, snapshot, server.pid(), None, &options);
    server.answers();
    daemon.recorded();
    daemon.ask_to_end();
    daemon.end();
}

fn restore(setup: &Setup, server: &Server, snapshot: &Path, options: &[&str]) -> Sample {
    let begun = Instant::now();
    let daemon = Daemon::start(setup, snapshot, server.pid(), None, options);
    let before = begun.elapsed().as_secs_f64() * 1e3;
    let (first, all) = server.answers();
    let ready = daemon.ready_after;
    daemon.ask_to_end();
    let said = daemon.end();
    let said = |name| number(&said, name);
    Sample {
        ready,
        first: before + first,
        all: before + all,
        demand: said("demand").expect("a number"),
        replayed: said("replayed").unwrap_or(0.0),
        replay: said("replay_seconds").unwrap_or(0.0) * 1e3,
    }
}
