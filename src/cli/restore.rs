//! The command line of `uffd-restore`.

use std::fmt;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::lazy_pages::LazyPages;
use crate::handover::placement::Choice;
use crate::session::OnFailure;

/// Bring a process or a VM back from a snapshot at once; its memory arrives as it touches it.
#[derive(Debug, Parser)]
#[command(name = "uffd-restore", version, max_term_width = 100)]
#[command(after_help = "Examples:
  uffd-restore --snapshot service.snap --pid 4242
  uffd-restore --snapshot vm.snap --pid $(pidof qemu-system-x86_64) --ready-fd 3 3>ready
  uffd-restore --snapshot service.snap --pid 4242 --record-working-set
  uffd-restore --snapshot service.snap --pid 4242 --prefill all --prefill-rate 200MiB
  uffd-restore --snapshot vm.snap --pid 4242 --region largest=0x7f3a00000000
  uffd-restore --snapshot vm.snap --listen /run/vm/uffd.sock --allow-uid 123
  uffd-restore --snapshot vm.mem --peer-fd 3
  uffd-restore --snapshot service.snap --pid 4242 --state-dir /run/uffd-restore
  uffd-restore --resume /run/uffd-restore/4242.state
  uffd-restore --check
  uffd-restore lazy-pages -D images --snapshot dump.snap

A line on standard output says when the target is being served, or VMMs can connect. The program
ends by itself when nothing is owed to the target any more, or when it has ended; with --listen when
it is asked to. SIGTERM and Ctrl-C: everything that is still owed is installed first; a second one gives up, and pages that never
came are poisoned (or the target is killed), never zero.

Exit status: 0 all memory in place, or the target ended by itself; 1 failed; 2 bad usage.")]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Cli {
    /// What else there is to do.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Snapshot to restore, as `uffd-snapshot` writes it. With --listen and --peer-fd also a raw memory file, as Firecracker
    /// writes it
    #[arg(long, value_name = "FILE", required_unless_present_any = ["check", "resume"])]
    pub snapshot: Option<PathBuf>,
    /// What to do.
    #[command(flatten)]
    pub what: What,
    /// Region of the snapshot to restore: a name, an address in the snapshot (0x…) or "largest"; and where in the target, if
    /// not where it was or where a mapping of its name is. May be repeated; without it, all regions
    #[arg(long = "region", value_name = "NAME[=ADDRESS]")]
    pub regions: Vec<Choice>,
    /// Pages to install before they are touched [default: working-set if there is one, else none; while recording, none]
    #[arg(long, value_enum)]
    pub prefill: Option<PrefillName>,
    /// How much a second is installed, at most, that nobody has touched, now or last time [default: as much as there is time for]
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    pub prefill_rate: Option<ByteSize>,
    /// How long to wait before --prefill all begins
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub prefill_delay: Duration,
    /// How much is fetched, at most, before it is asked for by somebody who reads in order; 0 for nothing
    #[arg(long, value_name = "SIZE", default_value = "1MiB")]
    pub read_ahead: ByteSize,
    /// Threads that decode [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
    /// Where the thread that answers faults runs: beside a thread that faults alone, or always where the kernel puts it
    #[arg(long, value_enum, default_value_t = PlacementName::Auto)]
    pub placement: PlacementName,
    /// What becomes of a page that cannot be served: whoever touches it gets SIGBUS, or is killed
    #[arg(long, value_enum, default_value_t = OnFailureName::Poison)]
    pub on_failure: OnFailureName,
    /// When asked to end: how long to go on installing what is owed
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub finish_within: Duration,
    /// Give up when the threads have not stopped after this long
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub stop_timeout: Duration,
    /// Write a line feed to this descriptor, and close it, when the target is being served
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<RawFd>,
    /// Write this program's process id to a file, which is removed at the end
    #[arg(long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// Keep what is needed to go on if all of this program is killed, in a folder in memory (tmpfs). Targets wait then, and --resume
    /// goes on. systemd has a store for that, and this option is not needed there
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// For debugging: do not limit the system calls that this program may make while it serves
    #[arg(long)]
    pub no_seccomp: bool,
    /// Print what there is to say as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
    /// What was touched, and what is.
    #[command(flatten)]
    pub touched: Touched,
    /// With --pid: how long the target stands still, at most, while the first of a working set is installed
    #[arg(long, value_name = "TIME", default_value = "50ms", value_parser = humantime::parse_duration)]
    #[arg(help_heading = "Working sets")]
    pub head_start: Duration,
    /// With --listen: how many VMMs are recorded, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    #[arg(help_heading = "Working sets")]
    pub record_runs: u16,
    /// How to deal with VMMs that connect.
    #[command(flatten)]
    pub peers: Peers,
}

/// Another program's part.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// In place of `criu lazy-pages`: bring the pages that `criu restore --lazy-pages` leaves out
    LazyPages(Box<LazyPages>),
}

/// What to do.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct What {
    /// Process to restore into, running or stopped
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// Serve VMMs that connect and hand over their userfaultfd, as Firecracker does, many at once: the path of a Unix socket;
    /// fd:N, a listening socket that was inherited; or systemd, the one that a socket unit passes
    #[arg(long, value_name = "SOCKET", conflicts_with = "regions")]
    pub listen: Option<Listen>,
    /// Serve the VMM at the other end of this connected socket, which was inherited, and no other
    #[arg(long, value_name = "N", conflicts_with = "regions")]
    pub peer_fd: Option<RawFd>,
    /// Go on where another uffd-restore was killed as a whole, whose targets wait: the file that it had made for that (--state-dir).
    /// It is told what that one was told; what is given here counts instead
    #[arg(long, value_name = "STATE")]
    pub resume: Option<PathBuf>,
    /// Say what this kernel and this user can do, and what is missing for what
    #[arg(long, conflicts_with_all = ["snapshot", "regions", "ready_fd", "pidfile", "state_dir"])]
    pub check: bool,
}

/// What was touched last time, and what is touched this time.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Working sets")]
pub struct Touched {
    /// Working set to install before it is asked for: a file that --record-working-set wrote; or none [default: SNAPSHOT.ws, if there is
    /// one]
    #[arg(long, value_name = "FILE")]
    pub working_set: Option<SetName>,
    /// Record what is touched, page by page, and merge it into FILE [default: SNAPSHOT.ws]. Pages come one by one meanwhile, which
    /// makes that restore slower, and the next ones faster
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub record_working_set: Option<Option<PathBuf>>,
    /// How long to record at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = humantime::parse_duration)]
    pub record_for: Duration,
    /// Recording ends when nothing was touched for so long
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = humantime::parse_duration)]
    pub record_idle: Duration,
}

/// A working set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetName {
    /// This file.
    File(PathBuf),
    /// None, not even if there is one.
    None,
}

impl FromStr for SetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "" => Err("the name of a file is empty".into()),
            path => Ok(Self::File(path.into())),
        }
    }
}

/// How to deal with VMMs that connect.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of --listen and --peer-fd")]
pub struct Peers {
    /// Access rights of the socket, in octal
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = parse_mode)]
    pub socket_mode: u32,
    /// Owner of the socket, as numbers: the jailed VMM's
    #[arg(long, value_name = "UID:GID", value_parser = parse_owner)]
    pub socket_owner: Option<(u32, u32)>,
    /// User whose VMMs are served; may be repeated. Without it: this program's own user. Root always is
    #[arg(long = "allow-uid", value_name = "UID")]
    pub allow_uids: Vec<u32>,
    /// VMMs served at a time; others wait in the socket's queue
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_sessions: u16,
    /// How long a VMM may take to hand over what it has
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub handshake_timeout: Duration,
    /// Decoded memory that is kept for VMMs restored from the same snapshot
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    pub cache_size: ByteSize,
    /// End after the first VMM
    #[arg(long)]
    pub once: bool,
}

/// Where VMMs connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A socket of this name is made.
    Path(PathBuf),
    /// A listening socket was inherited.
    Descriptor(RawFd),
    /// A socket unit passes it.
    Systemd,
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "systemd" {
            return Ok(Self::Systemd);
        }
        match text.strip_prefix("fd:") {
            Some(number) => number.parse().map(Self::Descriptor).map_err(|_| {
                format!("{number:?} is not a number (a socket of that name: ./{text})")
            }),
            None if text.is_empty() => Err("the name of a socket is empty".into()),
            None => Ok(Self::Path(text.into())),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Descriptor(number) => write!(f, "descriptor {number}"),
            Self::Systemd => write!(f, "the socket of the service manager"),
        }
    }
}

fn parse_mode(text: &str) -> Result<u32, String> {
    u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "not access rights in octal, such as 0660".into())
}

pub(super) fn parse_rate(text: &str) -> Result<ByteSize, String> {
    let rate: ByteSize = text.parse()?;
    // Less would not be noticed, and none is --prefill working-set.
    (rate.as_u64() >= 64 << 10)
        .then_some(rate)
        .ok_or_else(|| "less than 64KiB a second".into())
}

fn parse_owner(text: &str) -> Result<(u32, u32), String> {
    text.split_once(':')
        .and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)))
        .ok_or_else(|| "not two numbers, such as 123:100".into())
}

/// Names of [`crate::serve::Prefill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrefillName {
    /// Only what is touched
    None,
    /// What was touched last time
    WorkingSet,
    /// Everything; what is touched, and what was touched last time, comes first
    All,
}

/// Where the loop's thread runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlacementName {
    /// Beside a thread that faults alone; otherwise where the kernel puts it
    Auto,
    /// Where the kernel puts it
    Kernel,
}

/// Names of [`OnFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailureName {
    /// SIGBUS for whoever touches the page
    Poison,
    /// SIGKILL for the process that touches it
    Kill,
}

impl From<OnFailureName> for OnFailure {
    fn from(name: OnFailureName) -> Self {
        match name {
            OnFailureName::Poison => Self::Poison,
            OnFailureName::Kill => Self::Kill,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_snapshot_and_a_process_or_a_check() {
        let parse = |words: &[&str]| Cli::try_parse_from([&["uffd-restore"], words].concat());
        assert!(parse(&["--snapshot", "x", "--pid", "1"]).is_ok());
        assert!(parse(&["--check"]).is_ok());
        assert!(parse(&["--snapshot", "x", "--listen", "s"]).is_ok());
        assert!(parse(&["--snapshot", "x", "--peer-fd", "3"]).is_ok());
        for bad in [
            &[][..],
            &["--snapshot", "x"],
            &["--pid", "1"],
            &["--check", "--pid", "1"],
            &["--snapshot", "x", "--pid", "1", "--listen", "s"],
            &["--snapshot", "x", "--listen", "s", "--region", "largest"],
            &["--snapshot", "x", "--listen", "fd:x"],
            &["--snapshot", "x", "--listen", "s", "--socket-mode", "999"],
            &["--snapshot", "x", "--listen", "s", "--socket-owner", "1"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
