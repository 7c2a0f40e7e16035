//! The process: what it is told, it does.

use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;

use super::content::Content;
use super::handshake::{Manner, userfaultfd};
use super::memory::{Guest, Layout};
use super::{PAGE, races};
use crate::support::plot::{call, word};
use crate::support::{end, hear, say};

struct Vmm {
    guest: Arc<Guest>,
    uffd: Option<OwnedFd>,
    socket: Option<UnixStream>,
    /// Removes a page, again and again.
    flood: Option<(Arc<AtomicBool>, JoinHandle<u64>)>,
}

pub fn play(words: &[&str]) {
    let find = |name: &str| {
        words
            .iter()
            .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    };
    let sizes: Vec<usize> = words[0]
        .split(',')
        .map(|word| word.parse().expect("pages"))
        .collect();
    let layout = Layout {
        huge: words.contains(&"huge"),
        split: words.contains(&"split"),
        slots: find("slots").map_or(0, |word| word.parse().expect("slots")),
    };
    let guest = Guest::map(&sizes, layout);
    let uffd = userfaultfd(&guest);
    if let Some(uid) = find("uid") {
        become_user(uid.parse().expect("a uid"));
    }
    let words: Vec<String> = guest
        .regions
        .iter()
        .map(|region| format!("{:#x} {}", region.address, region.pages))
        .collect();
    say(&words.join(" "));
    let mut vmm = Vmm {
        guest: Arc::new(guest),
        uffd: Some(uffd),
        socket: None,
        flood: None,
    };
    while let Some(line) = hear() {
        for part in line.split(';') {
            let answer = vmm.obey(part);
            say(&answer.unwrap_or_else(|wrong| wrong));
        }
    }
    end();
}

fn become_user(id: u32) {
    nix::unistd::setgroups(&[]).expect("setgroups");
    nix::unistd::setgid(id.into()).expect("setgid");
    nix::unistd::setuid(id.into()).expect("setuid");
    // Another user does not inherit it.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("death signal");
}

/// Starts a program, and adopts what it leaves behind, as process 1 of a container does. Tells its number.
#[expect(clippy::zombie_processes, reason = "as a VMM that looks after nobody")]
fn launch(words: &[&str]) -> String {
    nix::sys::prctl::set_child_subreaper(true).expect("prctl");
    let child = std::process::Command::new(words[0])
        .args(&words[1..])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("the program");
    child.id().to_string()
}

type Answer = Result<String, String>;

impl Vmm {
    fn obey(&mut self, line: &str) -> Answer {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<usize>().expect("a number");
        match words[0] {
            "hand-over" => return self.hand_over(words[1], &words[2..]),
            "launch" => return Ok(launch(&words[1..])),
            "survey" => return Ok(self.survey()),
            "is-closed" => return Ok(self.is_closed().to_string()),
            "calm" => return Ok(self.calm().to_string()),
            "read" => return Ok(self.read(number(1))),
            "check" => self.check(number(1), number(2), number(3))?,
            "write" => {
                for page in number(1)..number(1) + number(2) {
                    self.guest.write(page, page as u64);
                }
            }
            "remove" => self.remove(number(1), number(2))?,
            "replace" => self.guest.replace(number(1), number(2)),
            "unplug" => {
                self.remove(number(1), number(2))?;
                self.guest.protect(number(1), number(2), false);
            }
            "plug" => self.guest.protect(number(1), number(2), true),
            "plug-zero" => {
                self.guest.protect(number(1), number(2), true);
                self.guest.expect_zero(number(1), number(2));
            }
            "pipe" => self.pipe(number(1), number(2))?,
            "poke" => self.poke(number(1))?,
            "race" => races::run(&self.guest, number(1) as u64, number(2))?,
            "sweep" => races::sweep(&self.guest)?,
            "flood" => self.flood(number(1)),
            "quit" => end(),
            "close-uffd" => drop(self.uffd.take()),
            other => panic!("{other}?"),
        }
        Ok("right".to_owned())
    }

    fn hand_over(&mut self, path: &str, words: &[&str]) -> Answer {
        let manner = Manner::from(words);
        let uffd = self.uffd.as_ref().expect("still open");
        let all_closed = UnixStream::connect(path)
            .and_then(|socket| {
                let all_closed = manner.hand_over(&socket, &self.guest, uffd)?;
                self.socket = manner.keeps_socket().then_some(socket);
                Ok(all_closed)
            })
            .map_err(|error| {
                let answer = format!("not sent: {error}");
                if words.contains(&"drop") {
                    // There is nothing that it could run with.
                    say(&answer);
                    end();
                }
                answer
            })?;
        if words.contains(&"drop") {
            drop(self.uffd.take());
        }
        if !all_closed {
            return Err("sent, but surplus descriptors stay open".to_owned());
        }
        Ok("sent".to_owned())
    }

    /// The daemon closes the connection, or has, without a word.
    fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let socket = self.socket.as_mut().expect("a connection");
        let patience = std::time::Duration::from_secs(20);
        socket.set_read_timeout(Some(patience)).expect("a socket");
        match socket.read(&mut byte) {
            Ok(got) => got == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }

    /// As the guest's processors: each thread begins somewhere else.
    fn check(&self, first: usize, pages: usize, threads: usize) -> Result<(), String> {
        thread::scope(|scope| {
            let all: Vec<_> = (0..threads)
                .map(|index| {
                    let guest = &self.guest;
                    let start = pages * index / threads;
                    scope.spawn(move || {
                        (0..pages).try_for_each(|page| guest.check(first + (start + page) % pages))
                    })
                })
                .collect();
            all.into_iter()
                .try_for_each(|thread| thread.join().expect("a thread"))
        })
    }

    fn read(&self, page: usize) -> String {
        match (self.guest.word(page), self.guest.wanted(page)) {
            (word, wanted) if word == wanted.word(super::content::WORDS / 2) => "right".to_owned(),
            (0, _) => "zero".to_owned(),
            (word, _) => format!("{word:#x}"),
        }
    }

    /// In a thread of its own, as it is in Firecracker.
    fn remove(&self, first: usize, pages: usize) -> Result<(), String> {
        let removed = thread::scope(|scope| {
            let thread = scope.spawn(|| self.guest.remove(first, pages));
            thread.join().expect("a thread")
        });
        removed.map_err(|errno| format!("madvise: {errno}"))
    }

    /// The kernel reads pages for us, as for a snapshot of the VM.
    fn pipe(&self, first: usize, pages: usize) -> Result<(), String> {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let guest = &self.guest;
        let got = thread::scope(|scope| {
            scope.spawn(|| {
                let writer = writer;
                let [mut address, mut left] = guest.range(first, pages);
                while left > 0 {
                    let arguments = [word(writer.as_raw_fd()), address, left];
                    let Ok(sent) = call(libc::SYS_write, &arguments) else {
                        break;
                    };
                    address += sent;
                    left -= sent;
                }
            });
            let mut got = Vec::new();
            let mut reader = std::fs::File::from(reader);
            reader.read_to_end(&mut got).expect("a pipe");
            got
        });
        let wanted: Vec<u8> = (first..first + pages)
            .flat_map(|page| guest.wanted(page).bytes())
            .collect();
        if got == wanted {
            return Ok(());
        }
        let differs = got
            .iter()
            .zip(&wanted)
            .position(|(one, other)| one != other);
        Err(format!(
            "the kernel read {} bytes; the first that differs is {differs:?}",
            got.len()
        ))
    }

    /// The kernel writes some bytes into a page, as for a device. The rest of the page is what it was.
    fn poke(&self, page: usize) -> Result<(), String> {
        let (reader, writer) = nix::unistd::pipe().expect("a pipe");
        let number = 1 << 40;
        let new = Content::Own(number).bytes();
        let old = self.guest.wanted(page).bytes();
        std::fs::File::from(writer)
            .write_all(&new[..64])
            .expect("a pipe");
        let address = self.guest.address(page);
        let arguments = [word(reader.as_raw_fd()), address + 128, 64];
        let got = call(libc::SYS_read, &arguments).map_err(|errno| format!("read: {errno}"))?;
        assert_eq!(got, 64);
        let now = look(&self.guest, page).map_err(|errno| format!("write: {errno}"))?;
        let wanted = [&old[..128], &new[..64], &old[192..]].concat();
        if now != wanted {
            return Err(format!("page {page} is not what it was, but for 64 bytes"));
        }
        self.guest.write(page, number);
        Ok(())
    }

    fn survey(&self) -> String {
        let mut counts = [0_usize; 4];
        for page in (0..self.guest.pages()).filter(|&page| !self.guest.is_hole(page)) {
            let class = match look(&self.guest, page) {
                Ok(bytes) if bytes == self.guest.wanted(page).bytes() => 0,
                Err(Errno::EFAULT) => 1,
                Ok(bytes) if bytes.iter().all(|&byte| byte == 0) => 2,
                _ => 3,
            };
            counts[class] += 1;
        }
        counts.map(|count| count.to_string()).join(" ")
    }

    fn flood(&mut self, page: usize) {
        let calm = Arc::new(AtomicBool::new(false));
        let guest = Arc::clone(&self.guest);
        let told = Arc::clone(&calm);
        let rounds = Arc::new(AtomicU64::new(0));
        let seen = Arc::clone(&rounds);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::SeqCst) {
                guest.remove(page, guest.grain).expect("madvise");
                rounds.fetch_add(1, Ordering::SeqCst);
            }
            rounds.load(Ordering::SeqCst)
        });
        while seen.load(Ordering::SeqCst) == 0 {
            thread::yield_now();
        }
        self.flood = Some((calm, thread));
    }

    /// Ends the flood, and says how often the page was removed.
    fn calm(&mut self) -> u64 {
        let (calm, thread) = self.flood.take().expect("a flood");
        calm.store(true, Ordering::SeqCst);
        thread.join().expect("a thread")
    }
}

/// A page, read by the kernel: one that is poisoned is an error and no signal.
fn look(guest: &Guest, page: usize) -> Result<Vec<u8>, Errno> {
    let (reader, writer) = nix::unistd::pipe().expect("a pipe");
    let arguments = [word(writer.as_raw_fd()), guest.address(page), PAGE as u64];
    let sent = call(libc::SYS_write, &arguments)?;
    if sent != PAGE as u64 {
        return Err(Errno::EFAULT);
    }
    drop(writer);
    let mut bytes = Vec::new();
    std::fs::File::from(reader)
        .read_to_end(&mut bytes)
        .expect("a pipe");
    Ok(bytes)
}
