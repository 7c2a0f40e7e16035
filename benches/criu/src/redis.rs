//! A Redis server, and a client that is there as soon as the server is.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::clock::now;
use crate::content::{Content, Place};
use crate::criu::{self, Restoring};
use crate::daemon::{Daemon, Ended};
use crate::measure::{Random, Series};
use crate::workload::{Order, Seen, Workload};
use crate::{FIRST, Setup};

/// Bytes of a value, eight of a page of the images; and keys of a mebibyte of the server's memory.
const VALUE: usize = 500;
const PER_PAGE: usize = 8;
const PER_MEBIBYTE: usize = 1800;
/// GETs while the fill lasts, or beyond: of a few the 99th percentile would say nothing.
const LEAST: usize = 1000;

/// The server. Each value is a piece of real memory.
pub(crate) struct Redis<'a> {
    setup: &'a Setup,
    socket: PathBuf,
    content: Content,
    places: Vec<Place>,
    keys: usize,
}

impl<'a> Redis<'a> {
    /// With so many mebibytes. None when it is not installed.
    pub(crate) fn new(setup: &'a Setup, mebibytes: usize, shared: &Path) -> Option<Self> {
        let version = std::process::Command::new("redis-check-rdb")
            .arg("-v")
            .output();
        version.ok()?;
        let content = Content::open(&setup.images);
        let keys = mebibytes * PER_MEBIBYTE;
        Some(Self {
            setup,
            socket: shared.join("redis.sock"),
            places: content.places(keys.div_ceil(PER_PAGE)),
            content,
            keys,
        })
    }

    fn value(&self, key: usize) -> [u8; VALUE] {
        let page = self.content.read(self.places[key / PER_PAGE]);
        let from = key % PER_PAGE * VALUE;
        page[from..from + VALUE].try_into().expect("its length")
    }

    fn fill(&self, client: &mut Client) {
        let mut orders = Vec::new();
        let mut waiting = 0;
        for key in 0..self.keys {
            let name = format!("key:{key}");
            let head = format!(
                "*3\r\n$3\r\nSET\r\n${}\r\n{name}\r\n${VALUE}\r\n",
                name.len()
            );
            orders.extend_from_slice(head.as_bytes());
            orders.extend_from_slice(&self.value(key));
            orders.extend_from_slice(b"\r\n");
            waiting += 1;
            if waiting == 500 || key + 1 == self.keys {
                client.send(&orders);
                (0..waiting).for_each(|_| assert_eq!(client.line(), "+OK"));
                orders.clear();
                waiting = 0;
            }
        }
    }

    fn connect(&self, mut alive: impl FnMut()) -> Client {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            if let Ok(stream) = UnixStream::connect(&self.socket) {
                return Client(BufReader::new(stream));
            }
            alive();
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Asks for a value that must be right.
    fn get(&self, client: &mut Client, key: usize) {
        let name = format!("key:{key}");
        let order = format!("*2\r\n$3\r\nGET\r\n${}\r\n{name}\r\n", name.len());
        client.send(order.as_bytes());
        assert_eq!(client.line(), format!("${VALUE}"), "of {name}");
        assert_eq!(client.bytes(), self.value(key), "{name} has another value");
    }
}

impl Workload for Redis<'_> {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn during(&self) -> &'static str {
        "at least a thousand GETs"
    }

    fn pauses(&self) -> &'static [u64] {
        &[0]
    }

    fn unit(&self) -> &'static str {
        "GETs"
    }

    fn dump(&self, into: &Path, run: &Path) -> i32 {
        // The package redis-tools has the server's program too: the name it is called by decides what it does.
        let shell = "exec -a redis-server redis-check-rdb \"$@\"";
        let target = criu::start(Path::new("bash"), |command| {
            command.args([
                "-c",
                shell,
                "-",
                "--port",
                "0",
                "--save",
                "",
                "--appendonly",
                "no",
            ]);
            command.args(["--daemonize", "no", "--loglevel", "warning", "--unixsocket"]);
            command.arg(&self.socket).arg("--dir").arg(run);
        });
        let mut client = self.connect(|| ());
        self.fill(&mut client);
        drop(client);
        criu::dump(&self.setup.criu, target, into, run)
    }

    fn order(&self, _: Order) {
        // What the last life has left: a socket that nobody listens on.
        let _ = std::fs::remove_file(&self.socket);
    }

    fn watch(
        &self,
        order: Order,
        restoring: &mut Restoring,
        daemon: Option<Daemon>,
        run: &Path,
    ) -> Seen {
        let mut keys: Vec<u32> = (0..self.keys as u32).collect();
        Random::new(order.seed).shuffle(&mut keys);
        let mut client = self.connect(|| restoring.check_so_far());
        let least = order.pause.map_or(FIRST, |_| LEAST);
        let mut first = 0;
        let mut each = Series::default();
        for (asked, &key) in keys.iter().enumerate() {
            let filled = daemon.as_ref().is_none_or(Daemon::has_ended);
            if asked >= least && (filled || order.pause.is_none()) {
                break;
            }
            let begun = now();
            self.get(&mut client, key as usize);
            let done = now();
            each.push((done - begun) as f64 / 1e3);
            if asked + 1 == FIRST {
                first = done;
            }
        }
        restoring.wait();
        let ended = match daemon {
            Some(daemon) => daemon.wait(run),
            None => Ended::without(now()),
        };
        Seen { first, each, ended }
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn send(&mut self, order: &[u8]) {
        self.0.get_mut().write_all(order).expect("it listens");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("an answer");
        line.trim_end().to_owned()
    }

    fn bytes(&mut self) -> [u8; VALUE] {
        let mut bytes = [0; VALUE + 2];
        self.0.read_exact(&mut bytes).expect("a value");
        bytes[..VALUE].try_into().expect("its length")
    }
}
