//! `uffd-restore`: parse, run, print one error, exit status.

use clap::Parser;
use std::process::ExitCode;
use uffd_restore::cli::restore::Cli;
use uffd_restore::daemon;
use uffd_restore::terminal::say;

fn main() -> ExitCode {
    match daemon::run(&Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("uffd-restore: {failure}"));
            failure.exit_code()
        }
    }
}
