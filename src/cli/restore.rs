//! The command line of `uffd-restore`.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::handover::placement::Choice;

/// Bring a process or a VM back from a snapshot at once; its memory arrives as it touches it.
#[derive(Debug, Parser)]
#[command(name = "uffd-restore", version, max_term_width = 100)]
#[command(after_help = "Examples:
  uffd-restore --snapshot service.snap --pid 4242
  uffd-restore --snapshot vm.snap --pid $(pidof qemu-system-x86_64) --ready-fd 3 3>ready
  uffd-restore --snapshot vm.snap --pid 4242 --region largest=0x7f3a00000000
  uffd-restore --check

A line on standard output says when the target is being served. The program ends by itself
when nothing is owed to the target any more, or when it has ended. SIGTERM and Ctrl-C:
everything that is still owed is installed first; a second one gives up, and pages that never
came are poisoned (or the target is killed), never zero.

Exit status: 0 all memory in place, or the target ended by itself; 1 failed; 2 bad usage.")]
pub struct Cli {
    /// Snapshot to restore, as `uffd-snapshot` writes it
    #[arg(long, value_name = "FILE", required_unless_present = "check")]
    pub snapshot: Option<PathBuf>,
    /// Process to restore into, running or stopped
    #[arg(long, value_name = "PID", required_unless_present = "check", value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// Region of the snapshot to restore: a name, an address in the snapshot (0x…) or "largest"; and where in the target, if
    /// not where it was or where a mapping of its name is. May be repeated; without it, all regions
    #[arg(long = "region", value_name = "NAME[=ADDRESS]")]
    pub regions: Vec<Choice>,
    /// Pages to install before they are touched
    #[arg(long, value_enum, default_value_t = PrefillName::None)]
    pub prefill: PrefillName,
    /// Threads that decode [default: one for each CPU]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,
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
    /// Say what this kernel and this user can do, and what is missing for what
    #[arg(long, conflicts_with_all = ["snapshot", "pid", "regions", "ready_fd", "pidfile"])]
    pub check: bool,
    /// Print what there is to say as JSON
    #[arg(long)]
    pub json: bool,
    /// No progress, no summary
    #[arg(short, long)]
    pub quiet: bool,
}

/// Names of [`crate::serve::Prefill`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrefillName {
    /// Only what is touched
    None,
    /// Everything; what is touched comes first
    All,
}

/// Names of [`crate::session::OnFailure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnFailureName {
    /// SIGBUS for whoever touches the page
    Poison,
    /// SIGKILL for the process that touches it
    Kill,
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
        for bad in [
            &[][..],
            &["--snapshot", "x"],
            &["--pid", "1"],
            &["--check", "--pid", "1"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
