//! One process that restores itself, and the daemon that it hands over to.

use std::fs;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::Pid;
use uffd_restore::addr::AddrRange;
use uffd_restore::uffd::{Features, Userfaultfd};

use super::criu_writer::{Dump, PAGE, Vma, mm, pagemap, pages, pstree};
use super::support::area::Area;
use super::support::service::{signal_daemon, worker_of};
use super::support::uffd::agreed;
use super::support::{Target, hear, say, wait_until};

pub(crate) const PAGES: u64 = 1024;
/// "Restore finished".
pub(crate) const FINISHED: i32 = 0x5253_5446;

/// A role: a process that restores itself. It does what it is told, a line each.
pub(crate) fn restored(_: &[&str]) {
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
            ["forget", page] => {
                let page: usize = page.parse().expect("a page");
                let forgotten = area.advise(page, 1, libc::MADV_DONTNEED);
                say(&u64::from(forgotten.is_err()).to_string());
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

fn file(dump: &Dump, name: &str) -> fs::File {
    fs::File::create(dump.folder().join(name)).expect("a file")
}

/// One process, and the daemon that it has connected to.
pub(crate) struct Scene {
    pub(crate) process: Target,
    pub(crate) daemon: Child,
    pub(crate) dump: Dump,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// The same, with these words for the daemon.
    pub(crate) fn with(words: &[&str]) -> Self {
        let (process, dump) = Self::dumped();
        let stdout = file(&dump, "out").into();
        let scene = Self::by(words, process, dump, stdout);
        scene.await_event("listening");
        scene
    }

    /// The same, with a daemon that is not waited for and prints there.
    pub(crate) fn printing_to(stdout: Stdio) -> Self {
        let (process, dump) = Self::dumped();
        Self::by(&[], process, dump, stdout)
    }

    fn dumped() -> (Target, Dump) {
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
        (process, dump)
    }

    fn by(words: &[&str], process: Target, dump: Dump, stdout: Stdio) -> Self {
        let daemon = Command::new(env!("CARGO_BIN_EXE_uffd-restore"))
            .args(["lazy-pages", "--json", "--prefill", "none", "-D"])
            .arg(dump.folder())
            .args(words)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(file(&dump, "err"))
            .spawn()
            .expect("it starts");
        Self {
            process,
            daemon,
            dump,
        }
    }

    pub(crate) fn connect(&mut self) {
        let socket = self.dump.folder().join("lazy-pages.socket");
        self.process.tell(&format!("connect {}", socket.display()));
    }

    /// Sends a signal to all that the daemon consists of, if nobody passes that on.
    pub(crate) fn signal_daemon(&self, signal: Signal) {
        signal_daemon(self.keeper(), signal);
    }

    pub(crate) fn keeper(&self) -> i32 {
        i32::try_from(self.daemon.id()).expect("a pid")
    }

    /// Kills who serves, and nobody else.
    pub(crate) fn kill_worker(&self) {
        assert!(self.kill_worker_if_there(), "nobody serves");
    }

    /// The same, unless somebody is just being replaced.
    pub(crate) fn kill_worker_if_there(&self) -> bool {
        let worker = worker_of(self.keeper());
        worker.is_some_and(|worker| kill(Pid::from_raw(worker), Signal::SIGKILL).is_ok())
    }

    pub(crate) fn said(&self) -> String {
        let text = |name: &str| fs::read_to_string(self.dump.folder().join(name));
        ["out", "err"]
            .map(|name| text(name).unwrap_or_default())
            .concat()
    }

    pub(crate) fn await_event(&self, event: &str) {
        let event = format!(r#""event":"{event}""#);
        wait_until(&event, || self.said().contains(&event));
    }

    /// All of it, and the end of the restore.
    pub(crate) fn restore(&mut self) {
        self.hand_over_all();
        self.await_event("serving");
    }

    /// The same, without waiting until the daemon is told.
    pub(crate) fn hand_over_all(&mut self) {
        self.connect();
        self.hand_over();
        self.process.tell(&format!("register 0 {PAGES}"));
        self.process.tell("close");
        self.process.tell(&format!("number {FINISHED}"));
    }

    pub(crate) fn hand_over(&mut self) {
        self.process.tell(&format!("number {}", self.process.pid()));
        self.process.tell("descriptor");
    }

    /// The number of the page that is found there, as the images have them.
    pub(crate) fn look(&mut self, page: u64) -> u64 {
        self.process.tell(&format!("look {page}"));
        self.process.hear_numbers()[0]
    }

    /// It gives a page up, and says 0.
    pub(crate) fn forget(&mut self, page: u64) {
        self.process.tell(&format!("forget {page}"));
        assert_eq!(self.process.hear_numbers()[0], 0);
    }

    /// The exit status of the daemon, or the signal that ended it.
    pub(crate) fn end_of_daemon(&mut self) -> Result<i32, Signal> {
        let status = self.daemon.wait().expect("a child");
        let signal = |number| Signal::try_from(number).expect("a signal");
        status
            .code()
            .ok_or_else(|| signal(status.signal().expect("one of both")))
    }

    /// It was killed, by the daemon or by its guard.
    pub(crate) fn assert_killed(&mut self) {
        let status = self.process.end();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // One that has been waited for has no number any more.
        if matches!(self.daemon.try_wait(), Ok(None)) {
            self.signal_daemon(Signal::SIGKILL);
        }
        drop(self.daemon.wait());
    }
}
