//! `uffd-snapshot`: make, look into and check compressed memory snapshots.

use clap::Parser;
use std::process::ExitCode;
use uffd_restore::cli::snapshot::Cli;
use uffd_restore::terminal::say;
use uffd_restore::tool;

fn main() -> ExitCode {
    match tool::run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            say(&format!("uffd-snapshot: {failure}"));
            failure.exit_code()
        }
    }
}
