//! A process whose memory is captured, spoilt, and restored.

use std::process::Command;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::machine::Machine;
use crate::support::area::Area;
use crate::support::{Target, end, hear, say};

/// The role: memory of so many pages, each of which says which one it is.
pub(crate) fn hold(words: &[&str]) {
    let pages: usize = words[0].parse().expect("pages");
    if words.contains(&"nobody") {
        nix::unistd::setuid(65534.into()).expect("setuid");
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("death signal");
    }
    let area = Area::private(pages);
    let fill = |factor: u64| {
        for page in 0..pages {
            area.write(page, (page as u64 + 1) * factor);
        }
    };
    fill(1);
    say(&format!("{} {:#x}", std::process::id(), area.address()));
    let mut own = vec![None; pages];
    let mut forking: Option<JoinHandle<Kids>> = None;
    while let Some(line) = hear() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| words[index].parse::<usize>().expect("a number");
        match words[0] {
            "spoil" => fill(1 << 32),
            "own" => {
                area.write(number(1), number(2) as u64);
                own[number(1)] = Some(number(2) as u64);
            }
            "fork" => {
                let count = number(1);
                let late = if words.contains(&"late") {
                    LATE
                } else {
                    Duration::ZERO
                };
                forking = Some(std::thread::spawn(move || fork_many(area, count, late)));
            }
            "reap" => {
                let Kids {
                    right,
                    wrong,
                    killed,
                } = forking.take().expect("begun").join().expect("no panic");
                say(&format!("{right} {wrong} {killed}"));
                continue;
            }
            "check" => {
                let some = match words[1..] {
                    [first, count] => {
                        let [first, count] =
                            [first, count].map(|it| it.parse::<usize>().expect("a number"));
                        first..first + count
                    }
                    _ => 0..pages,
                };
                let slowly = words.contains(&"slowly");
                let wrong = some.into_iter().find(|&page| {
                    if slowly {
                        std::thread::sleep(Duration::from_millis(4));
                    }
                    area.read(page) != own[page].unwrap_or(page as u64 + 1)
                });
                match wrong {
                    Some(page) => say(&format!("page {page} is wrong: {:#x}", area.read(page))),
                    None => say("right"),
                }
                continue;
            }
            other => panic!("{other}?"),
        }
        say("done");
    }
    end();
}

/// What became of children.
#[derive(Debug, Default)]
pub(crate) struct Kids {
    pub(crate) right: usize,
    pub(crate) wrong: usize,
    pub(crate) killed: usize,
}

/// How long children wait that are to be killed before they look.
const LATE: Duration = Duration::from_secs(5);

/// Forks so many children, some at a time, each of which looks at every page in its own time.
#[expect(unsafe_code, reason = "fork(2) and _exit(2)")]
fn fork_many(area: Area, count: usize, late: Duration) -> Kids {
    let mut kids = Kids::default();
    let mut alive = 0;
    let reap = |kids: &mut Kids| match waitpid(None, None).expect("a child") {
        WaitStatus::Exited(_, 0) => kids.right += 1,
        WaitStatus::Signaled(_, Signal::SIGKILL, _) => kids.killed += 1,
        _ => kids.wrong += 1,
    };
    for number in 0..count {
        // SAFETY: the child reads memory, sleeps and ends: it takes no lock.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { .. } => alive += 1,
            ForkResult::Child => {
                nix::unistd::alarm::set(60);
                let step = 1 + number % 7;
                std::thread::sleep(late);
                let wrong = (0..area.pages).step_by(step).any(|page| {
                    std::thread::sleep(Duration::from_micros(300));
                    area.read(page) != page as u64 + 1
                });
                // SAFETY: ends this process.
                unsafe { libc::_exit(i32::from(wrong)) }
            }
        }
        // Those that wait do no harm.
        if alive >= 20 && late.is_zero() {
            reap(&mut kids);
            alive -= 1;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for _ in 0..alive {
        reap(&mut kids);
    }
    kids
}

/// The process, in a machine.
pub(crate) struct Holder {
    pub(crate) target: Target,
}

impl Holder {
    /// Captured into a snapshot that a service of this name can be configured with, and spoilt since.
    pub(crate) fn captured(machine: &Machine, name: &str, pages: usize) -> Self {
        Self::captured_as(machine, name, pages, "root")
    }

    /// The same with a process of `nobody`.
    pub(crate) fn captured_as(machine: &Machine, name: &str, pages: usize, user: &str) -> Self {
        let words = format!("{pages} {user}");
        let mut target = Target::start_by(machine.run_this(), "holder", &words);
        let numbers = target.hear_numbers();
        let (pid, address) = (numbers[0], numbers[1]);
        let region = crate::support::selector(address, pages as u64);
        let snapshot = format!("/usr/local/share/{name}.snap");
        let mut command: Command = machine.run("/usr/local/bin/uffd-snapshot");
        command.args(["create", "--quiet", "--pid", &pid.to_string()]);
        command.args(["--frame-pages", "1", "--region", &region, "-o", &snapshot]);
        let output = command.output().expect("uffd-snapshot runs");
        assert!(output.status.success(), "{output:?}");
        machine.configure(
            name,
            &format!("SNAPSHOT={snapshot}\nTARGET=--pid {pid}\nOPTIONS=--read-ahead 0 --region {address:#x}\n"),
        );
        target.tell("spoil");
        assert_eq!(target.hear(), "done");
        Self { target }
    }

    /// Some of its memory is as it was.
    #[track_caller]
    pub(crate) fn check_some(&mut self, first: usize, count: usize) {
        self.target.tell(&format!("check {first} {count}"));
        assert_eq!(self.target.hear(), "right");
    }

    /// It writes something of its own.
    pub(crate) fn own(&mut self, page: usize, value: u64) {
        self.target.tell(&format!("own {page} {value}"));
        assert_eq!(self.target.hear(), "done");
    }

    /// What became of those that it forked.
    pub(crate) fn reap(&mut self) -> Kids {
        self.target.tell("reap");
        let numbers = self.target.hear_numbers();
        let [right, wrong, killed] =
            [0, 1, 2].map(|index| usize::try_from(numbers[index]).expect("a number"));
        Kids {
            right,
            wrong,
            killed,
        }
    }

    /// All of its memory is as it was.
    #[track_caller]
    pub(crate) fn check(&mut self) {
        self.target.tell("check");
        assert_eq!(self.target.hear(), "right");
    }
}
