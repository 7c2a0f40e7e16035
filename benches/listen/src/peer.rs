//! The other end of the socket: a process that does what Firecracker does, and then touches and checks its memory.

use std::fs::File;
use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::time::{ClockId, clock_gettime};
use snapshot_format::PAGE_SIZE;
use uffd_restore::uffd::abi::UFFD_FEATURE_EVENT_REMOVE;
use uffd_restore::uffd::{Features, new_for_this_process};

use crate::content::read_sums;
use crate::mapping::Mapping;
use crate::measure::Random;

/// Many times as long, in milliseconds, as anything here takes.
const FOR_EVER: u16 = 30_000;

/// Which pages are touched, and in what order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Walk {
    Sequential,
    Random,
    /// One page in 50, at random.
    Sparse,
}

impl Walk {
    pub(crate) const ALL: [Self; 3] = [Self::Sequential, Self::Random, Self::Sparse];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sequential => "every page, in order",
            Self::Random => "every page, at random",
            Self::Sparse => "2 % of the pages, at random",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Sequential => "sequential",
            Self::Random => "random",
            Self::Sparse => "sparse",
        }
    }

    fn pages(self, pages: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..pages).collect();
        if self != Self::Sequential {
            Random::new(7).shuffle(&mut order);
        }
        if self == Self::Sparse {
            order.truncate(pages / 50);
        }
        order
    }
}

/// Where a peer's memory comes from.
#[derive(Debug, Clone)]
pub(crate) enum From {
    /// A handler behind this socket.
    Socket(PathBuf),
    /// A private mapping of this raw file.
    File(PathBuf),
}

/// A peer, ready to hand its memory over.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    given_up: bool,
}

/// When a peer began to hand over, had checked its first page, and all; on one clock for all processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passed {
    pub(crate) begun: Duration,
    pub(crate) first: Duration,
    pub(crate) all: Duration,
}

impl Peer {
    pub(crate) fn start(from: &From, sums: &Path, walk: Walk) -> Self {
        let me = std::env::current_exe().expect("this program");
        let (kind, path) = match from {
            From::Socket(path) => ("socket", path),
            From::File(path) => ("file", path),
        };
        let mut child = Command::new(me)
            .args(["peer", kind])
            .args([path, sums])
            .arg(walk.word())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a peer");
        let input = child.stdin.take();
        let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        output.read_line(&mut line).expect("a peer's word");
        assert_eq!(line, "ready\n");
        Self {
            child,
            input,
            output,
            given_up: false,
        }
    }

    pub(crate) fn go(&mut self) {
        let input = self.input.as_mut().expect("not ended");
        input.write_all(b"go\n").expect("a peer that listens");
    }

    /// Kills it: it waits for ever, or another does.
    pub(crate) fn give_up(&mut self) {
        self.child.kill().expect("a peer");
        self.given_up = true;
    }

    /// Waits until all has been checked. The peer stays. None when it waits for ever for a page.
    pub(crate) fn passed(&mut self) -> Option<Passed> {
        let mut waited = [PollFd::new(
            self.output.get_ref().as_fd(),
            PollFlags::POLLIN,
        )];
        if poll(&mut waited, FOR_EVER).expect("poll") == 0 {
            return None;
        }
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a peer's word");
        let times: Vec<Duration> = line
            .split_whitespace()
            .map(|word| Duration::from_nanos(word.parse().expect("a number")))
            .collect();
        let [begun, first, all] = times[..] else {
            panic!("a peer said {line:?}");
        };
        Some(Passed { begun, first, all })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.input = None;
        let status = self.child.wait().expect("a peer's end");
        if !std::thread::panicking() && !self.given_up {
            assert!(status.success(), "a peer failed: {status}");
        }
    }
}

/// Is a peer: `peer socket|file PATH SUMS WALK`.
pub(crate) fn run(arguments: &[String]) -> Option<()> {
    let [kind, path, sums, walk] = arguments else {
        return None;
    };
    let walk = Walk::ALL.into_iter().find(|known| known.word() == walk)?;
    let sums = read_sums(Path::new(sums));
    let order = walk.pages(sums.len());
    let path = Path::new(path);
    let guest = (kind == "socket").then(|| Mapping::new(sums.len(), None));
    let userfaultfd = guest.map(|guest| {
        let userfaultfd = new_for_this_process().expect("a userfaultfd");
        let features = Features::from_bits(UFFD_FEATURE_EVENT_REMOVE);
        userfaultfd.agree(features).expect("UFFDIO_API");
        userfaultfd.register(guest.range()).expect("to register");
        userfaultfd
    });
    let mut input = std::io::stdin().lock();
    println!("ready");
    input.read_line(&mut String::new()).expect("the word to go");

    let begun = now();
    let connection = guest.zip(userfaultfd.as_ref()).map(|(guest, userfaultfd)| {
        let socket = UnixStream::connect(path).expect("a handler that listens");
        let range = guest.range();
        let message = format!(
            "[{{\"base_host_virt_addr\":{},\"size\":{},\"offset\":0,\"page_size\":{PAGE_SIZE},\"page_size_kib\":{PAGE_SIZE}}}]",
            range.start.0,
            range.len()
        );
        let descriptor = [userfaultfd.as_fd().as_raw_fd()];
        let sent = sendmsg::<()>(
            socket.as_raw_fd(),
            &[IoSlice::new(message.as_bytes())],
            &[ControlMessage::ScmRights(&descriptor)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        );
        assert_eq!(sent, Ok(message.len()));
        socket
    });
    let guest = guest.unwrap_or_else(|| {
        let file = File::open(path).expect("the memory file");
        Mapping::new(sums.len(), Some(&file))
    });
    let mut first = None;
    for page in order {
        let words = guest.page(page).iter().copied();
        let sum = words.fold(0, u64::wrapping_add);
        assert_eq!(sum, sums[page], "page {page} is wrong");
        first.get_or_insert_with(now);
    }
    let all = now();
    let [begun, first, all] = [begun, first.unwrap_or(all), all].map(|time| time.as_nanos());
    println!("{begun} {first} {all}");
    input.read_to_end(&mut Vec::new()).expect("the word to end");
    drop(connection);
    Some(())
}

fn now() -> Duration {
    Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"))
}
