//! What `uffd-restore` does with its command line.
//!
//! | file           | holds                                                   |
//! |----------------|---------------------------------------------------------|
//! | `attaching.rs` | `--pid`: attach, serve, report                          |
//! | `listening/`   | `--listen`, `--peer-fd`: many VMMs, one snapshot        |
//! | `lazy_pages/`  | in place of `criu lazy-pages`                           |
//! | `check.rs`     | `--check`: what this kernel and this user can do        |
//! | `confining.rs` | serving with no more rights than it takes                 |
//! | `readiness.rs` | telling others that the target is being served          |
//! | `inherited.rs` | descriptors that were given to this program             |
//! | `limits.rs`    | descriptors                                             |
//! | `resuming.rs`  | `--resume`, `--state-dir`                               |
//! | `summary.rs`   | how it went, in one line                                |
//! | `working_sets/` | what was touched last time, and what is this time      |

mod attaching;
mod check;
mod confining;
mod inherited;
mod lazy_pages;
mod limits;
mod listening;
mod readiness;
mod resuming;
mod summary;
mod working_sets;

use std::process::ExitCode;

use crate::cli::restore::{Cli, Command};
use crate::failure::Failure;
use crate::serve::hold_signals;
use crate::service::Pulse;
use crate::takeover::{Beginning, Kept};

/// What was asked for makes no sense. If an earlier run of this program has left something to this one, that is kept until another one comes;
/// otherwise this is the end.
///
/// # Errors
/// The one error to print.
pub fn misused(error: &clap::Error) -> Result<ExitCode, Failure> {
    let stored = inherited::stored(&mut inherited::Inherited::default())?;
    if stored.is_empty() {
        error.exit();
    }
    hold_signals().map_err(|errno| Failure::Usage(format!("cannot hold signals: {errno}")))?;
    let kept = Kept::start(&Pulse::from_environment(), Beginning::Stored(stored))?;
    kept.run(|| Err(Failure::Usage(error.to_string())))
}

/// Does what was asked for.
///
/// # Errors
/// The one error to print.
pub fn run(args: &Cli) -> Result<ExitCode, Failure> {
    if let Some(Command::LazyPages(args)) = &args.command {
        return lazy_pages::run(args);
    }
    if args.what.check {
        return check::run(args.json);
    }
    if let Some(state) = &args.what.resume {
        return resuming::run(args, state);
    }
    if args.what.pid.is_some() {
        return attaching::run(args, None);
    }
    listening::run(args, None)
}
