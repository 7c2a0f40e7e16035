//! Telling others that the target is being served.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::inherited::Inherited;
use crate::failure::Failure;

/// A descriptor that somebody waits at.
#[derive(Debug)]
pub(super) struct ReadyDescriptor(OwnedFd);

impl ReadyDescriptor {
    /// Takes over the one that an option (`--ready-fd`, `--status-fd`) names.
    pub(super) fn take(
        inherited: &mut Inherited,
        option: &str,
        number: RawFd,
    ) -> Result<Self, Failure> {
        inherited
            .take(number, &format!("{option} {number}"))
            .map(Self)
    }

    /// Says so, by a line feed. Who waits may have gone away.
    pub(super) fn ready(self) {
        self.say(b'\n');
    }

    /// Says so in the byte that is expected.
    pub(super) fn say(self, byte: u8) {
        let _ = File::from(self.0).write_all(&[byte]);
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
        fs::write(path, format!("{}\n", std::process::id())).map_err(Failure::io("write", path))?;
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
    let program = |pid: &str| fs::read_link(format!("/proc/{pid}/exe")).ok();
    pid != std::process::id()
        && program(&pid.to_string()).is_some_and(|its| Some(its) == program("self"))
}
