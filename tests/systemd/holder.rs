//! A process whose memory is captured, spoilt, and restored.

use std::process::Command;

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
    while let Some(line) = hear() {
        match line.as_str() {
            "spoil" => fill(1 << 32),
            "check" => {
                let wrong = (0..pages).find(|&page| area.read(page) != page as u64 + 1);
                match wrong {
                    Some(page) => say(&format!("page {page} is wrong")),
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

    /// All of its memory is as it was.
    #[track_caller]
    pub(crate) fn check(&mut self) {
        self.target.tell("check");
        assert_eq!(self.target.hear(), "right");
    }
}
