//! Going on in the background (`-d`), and where standard error goes (`-o`).
#![expect(unsafe_code, reason = "fork(2)")]

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};

use crate::failure::Failure;

/// Has standard error written to a file. Returns it.
pub(super) fn log(path: Option<&Path>) -> Result<Option<File>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .open(path)
        .map_err(Failure::io("open", path))?;
    dup2_stderr(&file).map_err(|errno| Failure::io("write to", path)(errno.into()))?;
    Ok(Some(file))
}

/// This is the one in the background; the one in the foreground waits for it.
#[derive(Debug)]
pub(super) struct Background {
    ready: OwnedFd,
    log: Option<File>,
    /// What is for programs goes to the log as well: standard output is the terminal's.
    json: bool,
}

/// Where it goes on.
pub(super) enum Began {
    /// In this process.
    Here(Background),
    /// In another one, and this one is to end.
    There(ExitCode),
}

impl Background {
    /// Forks. To be called while there is one thread. In the first process it returns when the second one is ready, or has failed.
    pub(super) fn begin(
        pidfile: Option<&Path>,
        log: Option<File>,
        json: bool,
    ) -> Result<Began, Failure> {
        let failed = |errno: nix::Error| {
            Failure::io("go on in the background from", Path::new("."))(errno.into())
        };
        // One that cannot be written is found out while nobody has to do with this program.
        let pidfile = pidfile.map(|path| {
            let file = File::create(path).map_err(Failure::io("write", path))?;
            Ok::<_, Failure>((file, path))
        });
        let pidfile = pidfile.transpose()?;
        let (wait, ready) = pipe().map_err(failed)?;
        // SAFETY: there is one thread, so nothing in the copy is locked or half done.
        match unsafe { fork() }.map_err(failed)? {
            ForkResult::Child => {
                drop(wait);
                setsid().map_err(failed)?;
                Ok(Began::Here(Self { ready, log, json }))
            }
            ForkResult::Parent { child } => {
                drop(ready);
                let mut byte = [0];
                if File::from(wait).read_exact(&mut byte).is_err() {
                    // It has said why.
                    return Ok(Began::There(ExitCode::FAILURE));
                }
                if let Some((mut file, path)) = pidfile {
                    write!(file, "{child}").map_err(|error| {
                        // Nobody would know of it.
                        let _ = kill(child, Signal::SIGTERM);
                        Failure::io("write", path)(error)
                    })?;
                }
                Ok(Began::There(ExitCode::SUCCESS))
            }
        }
    }

    /// Lets go of the terminal, and lets the first process end.
    pub(super) fn ready(self) {
        if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
            let _ = dup2_stdin(&null);
            let _ = match &self.log {
                Some(log) if self.json => dup2_stdout(log),
                _ => dup2_stdout(&null),
            };
            if self.log.is_none() {
                let _ = dup2_stderr(&null);
            }
        }
        // It may have been killed.
        let _ = File::from(self.ready).write_all(&[0]);
    }
}
