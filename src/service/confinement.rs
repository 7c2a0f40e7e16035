//! What serving does without, put together: prepared before anybody has to do with this program, begun when everything is set up.

use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::privileges::{self, Capability};
use super::seccomp::{Allowed, Filter, FilterError};

/// What is still to be done when it has begun.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// System calls that are made.
    pub allowed: Allowed,
    /// It is to be found out which process needs something: `/proc/PID/smaps` of others.
    pub looks_into_processes: bool,
    /// Files that go with this program.
    pub removes: Vec<PathBuf>,
    /// System calls are not looked at, and a debugger may look into this process.
    pub open: bool,
}

/// Everything that can fail has been done but for the last steps.
#[derive(Debug)]
pub struct Confinement {
    keep: Vec<Capability>,
    filter: Option<Filter>,
}

/// What could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum ConfinementError {
    /// Capabilities.
    #[error("cannot give up capabilities: {0}")]
    Privileges(Errno),
    /// System calls.
    #[error(transparent)]
    Filter(#[from] FilterError),
}

impl Confinement {
    /// Nothing changes yet.
    ///
    /// # Errors
    /// [`ConfinementError::Filter`].
    pub fn prepare(plan: &Plan) -> Result<Self, ConfinementError> {
        let mut keep = needed(plan);
        if !privileges::may_become_ordinary() {
            keep.push(Capability::SysNice);
        }
        let filter = (!plan.open).then(|| Filter::new(plan.allowed));
        Ok(Self {
            keep,
            filter: filter.transpose()?,
        })
    }

    /// From now on. For the thread that serves, or that starts those which do: capabilities are its own. System calls are those of all
    /// threads of the process.
    ///
    /// # Errors
    /// [`ConfinementError`]: what could be given up has been.
    pub fn begin(self) -> Result<(), ConfinementError> {
        if self.filter.is_some() {
            // None is expected, and nothing depends on it.
            let _ = privileges::hide();
        }
        privileges::keep_only(&self.keep).map_err(ConfinementError::Privileges)?;
        if let Some(filter) = &self.filter {
            filter.apply()?;
        }
        Ok(())
    }
}

/// What it takes to write, or remove, a file where its owner is somebody else.
pub const TO_WRITE: [Capability; 3] = [
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
];

fn needed(plan: &Plan) -> Vec<Capability> {
    let mut keep = vec![Capability::Kill];
    if plan.looks_into_processes || plan.allowed.agreements {
        keep.push(Capability::SysPtrace);
    }
    let elsewhere = plan.removes.iter().any(|path| !is_in_own_folder(path));
    if plan.allowed.files || elsewhere {
        keep.extend(TO_WRITE);
    }
    keep
}

/// Its name can be removed by whoever owns the folder.
fn is_in_own_folder(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let own = nix::unistd::geteuid().as_raw();
    folder.metadata().is_ok_and(|found| found.uid() == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_what_is_needed() {
        let plan = Plan::default();
        assert_eq!(needed(&plan), [Capability::Kill]);
        let looking = Plan {
            looks_into_processes: true,
            ..Plan::default()
        };
        assert_eq!(needed(&looking), [Capability::Kill, Capability::SysPtrace]);
        let folder = tempfile::tempdir().expect("a folder");
        let with = |path: &Path| Plan {
            removes: vec![path.to_path_buf()],
            ..Plan::default()
        };
        assert_eq!(needed(&with(&folder.path().join("pid"))).len(), 1);
        std::os::unix::fs::chown(folder.path(), Some(65534), None).expect("chown");
        let kept = needed(&with(&folder.path().join("pid")));
        assert!(kept.contains(&Capability::DacOverride));
    }
}
