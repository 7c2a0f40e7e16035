//! Telling others that the target is being served.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::unistd::{dup, dup2_stdin, dup2_stdout};

use super::inherited::Inherited;
use crate::failure::Failure;

/// A descriptor that somebody waits at.
#[derive(Debug)]
pub(super) struct ReadyDescriptor(OwnedFd);

impl ReadyDescriptor {
    /// Takes over the one that `--ready-fd` names.
    pub(super) fn take(inherited: &mut Inherited, number: RawFd) -> Result<Self, Failure> {
        let option = format!("--ready-fd {number}");
        inherited.take(number, &option).map(Self)
    }

    /// Says so, by a line feed. Who waits may have gone away.
    pub(super) fn ready(self) {
        let _ = File::from(self.0).write_all(b"\n");
    }
}

/// The same as criu has it: any descriptor, standard output among them.
#[derive(Debug)]
pub(super) struct StatusDescriptor {
    own: OwnedFd,
    number: RawFd,
}

impl StatusDescriptor {
    /// Takes over the one that `--status-fd` names.
    pub(super) fn take(inherited: &mut Inherited, number: RawFd) -> Result<Self, Failure> {
        let option = format!("--status-fd {number}");
        let copied = match number {
            0 => dup(io::stdin()),
            1 => dup(io::stdout()),
            2 => dup(io::stderr()),
            _ => {
                let own = inherited.take(number, &option)?;
                return Ok(Self { own, number });
            }
        };
        let own = copied.map_err(|errno| Failure::Usage(format!("{option}: {errno}")))?;
        Ok(Self { own, number })
    }

    /// Says so, by a zero byte, and closes it: who reads to the end must not wait for it. What this program has to say of failures goes on to
    /// standard error, as criu's own log does.
    pub(super) fn say(self) {
        let _ = File::from(self.own).write_all(&[0]);
        // Closed for good, they would be whatever is opened next.
        if let (0 | 1, Ok(null)) = (
            self.number,
            OpenOptions::new().read(true).write(true).open("/dev/null"),
        ) {
            let _ = match self.number {
                0 => dup2_stdin(&null),
                _ => dup2_stdout(&null),
            };
        }
    }
}

/// A file with this program's process id, as long as it runs.
#[derive(Debug)]
pub(super) struct Pidfile(PathBuf);

impl Pidfile {
    /// Writes the file, unless it names another process of this program that is alive.
    pub(super) fn write(path: &Path) -> Result<Self, Failure> {
        if let Some(pid) = pid_in(path).filter(|&pid| is_of_this_program(pid)) {
            return Err(Failure::Usage(format!(
                "the file {} is that of process {pid}, which runs: give each its own --pidfile",
                path.display()
            )));
        }
        let written = fs::write(path, format!("{}\n", std::process::id()));
        written.map_err(|error| {
            // On a disk that is full it is there, and says nothing. What is no file, such as /dev/full, stays.
            let is_empty = |found: fs::Metadata| found.is_file() && found.len() == 0;
            if path.symlink_metadata().is_ok_and(is_empty) {
                let _ = fs::remove_file(path);
            }
            Failure::io("write", path)(error)
        })?;
        Ok(Self(path.to_path_buf()))
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // Somebody else may have removed it, or put another in its place.
        if pid_in(&self.0) == Some(std::process::id()) {
            let _ = fs::remove_file(&self.0);
        }
    }
}

fn pid_in(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn is_of_this_program(pid: u32) -> bool {
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe"));
    // Which program it is cannot be seen of one that serves, by others of the same user; its name can.
    let name = |pid: &str| fs::read(format!("/proc/{pid}/comm")).ok();
    let its = pid.to_string();
    pid != std::process::id()
        && match program(&its) {
            Ok(found) => program("self").is_ok_and(|own| own == found),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                name(&its).is_some_and(|found| Some(found) == name("self"))
            }
            Err(_) => false,
        }
}
