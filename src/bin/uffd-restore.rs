//! `uffd-restore`: parse, run, print one error, exit status.

use clap::Parser;
use std::process::ExitCode;
use uffd_restore::cli::restore::Cli;
use uffd_restore::daemon;
use uffd_restore::terminal::say;

fn main() -> ExitCode {
    let outcome = match Cli::try_parse() {
        Ok(args) => daemon::run(&args),
        Err(error) => daemon::misused(&error),
    };
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            say(&format!("uffd-restore: {failure}"));
            failure.exit_code()
        }
    }
}
