//! A real server with a database, which vouches for every key of it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::case::Case;
use super::stage::Line;
use super::support::{PATIENCE, wait_until};

/// The package redis-tools has the server's program too (the name it is called by decides what it does), and unlike
/// redis-server starts no service.
const PROGRAM: &str = "redis-check-rdb";

/// Says loudly if it is not there: scripts/test makes a failure of it.
fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .map(|folder| folder.join(PROGRAM))
        .find(|program| program.exists());
    if found.is_none() {
        println!("SKIPPED: {PROGRAM} is missing: install the package redis-tools");
        let tolerated = std::env::var_os("UFFD_RESTORE_SKIP_NOTHING").is_none();
        assert!(tolerated, "a test that cannot run counts as failed");
    }
    found
}

fn start(case: &mut Case, program: &Path) {
    let server = case.path("redis-server");
    symlink(program, &server).expect("a link");
    case.start_other(
        &Line::new(server)
            .words(["--port", "0", "--save", "", "--appendonly", "no"])
            .words(["--enable-debug-command", "yes", "--loglevel", "warning"])
            .word("--unixsocket")
            .path(case.path("socket"))
            .word("--dir")
            .path(case.path("")),
    );
    wait_until("the server to listen", || {
        UnixStream::connect(case.path("socket")).is_ok()
    });
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn new(case: &Case) -> Self {
        let stream = UnixStream::connect(case.path("socket")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// A command and its answer: a status, a number, or a string.
    fn ask(&mut self, command: &str) -> String {
        let stream = self.0.get_mut();
        stream
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
        self.0.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }
}

/// Nobody is connected: who is cannot be dumped with the server.
fn await_silence(case: &Case) {
    let descriptors = case.stage.proc(case.root(), "net/unix");
    let socket = case.path("socket");
    let socket = socket.to_str().expect("text");
    wait_until("the server to be alone", || {
        let sockets = fs::read_to_string(&descriptors).expect("its network");
        // Every connection is a socket of the server's, with the name of that which listens.
        sockets
            .lines()
            .filter(|line| line.ends_with(socket))
            .count()
            == 1
    });
}

#[test]
fn redis_vouches_for_its_database() {
    let (Some(program), Some(mut case)) = (program(), Case::empty()) else {
        return;
    };
    start(&mut case, &program);
    let mut client = Client::new(&case);
    assert_eq!(client.ask("DEBUG POPULATE 150000 key 200"), "+OK");
    for number in 0..1000 {
        client.ask(&format!(
            "ZADD board {number} member{}",
            number * 7919 % 1000
        ));
    }
    let digest = client.ask("DEBUG DIGEST");
    let rank = client.ask("ZRANK board member7");
    drop(client);
    await_silence(&case);
    case.in_all_ways(|run| {
        let mut client = Client::new(run.case);
        for number in 0..500 {
            let key = number * 7919 % 150_000;
            let value = client.ask(&format!("GET key:{key}"));
            assert_eq!(value.trim_end_matches('\0'), format!("value:{key}"));
        }
        assert_eq!(client.ask("ZRANK board member7"), rank);
        // Every key and every value.
        assert_eq!(client.ask("DEBUG DIGEST"), digest);
        // It can write, and that is what is there when all memory is in place.
        assert_eq!(client.ask("SET new value"), "+OK");
        let done = run.complete();
        done.require("/faults", run.fill.certain(500));
        assert_eq!(client.ask("GET new"), "value");
        assert_eq!(client.ask("DEL new"), ":1");
        assert_eq!(client.ask("DEBUG DIGEST"), digest);
    });
}
