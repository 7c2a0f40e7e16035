//! A folder with a memory file, a snapshot of it, and room for a socket.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::peer;

pub(crate) struct Lab {
    folder: tempfile::TempDir,
    pub(crate) pages: usize,
}

impl Lab {
    /// With four pages in a frame, so that a fault brings others along.
    pub(crate) fn new(pages: usize) -> Self {
        Self::with(pages, &["--frame-pages", "4", "--codec", "lz4"])
    }

    /// With these words for `uffd-snapshot pack`.
    pub(crate) fn with(pages: usize, how: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("permissions");
        let this = Self { folder, pages };
        fs::write(this.memory(), peer::memory_file(pages)).expect("the memory file");
        let output = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
            .args(["pack", "--quiet", "--jobs", "1"])
            .arg(this.memory())
            .arg("-o")
            .arg(this.snapshot())
            .args(how)
            .output()
            .expect("uffd-snapshot runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "uffd-snapshot: {said}");
        this
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What Firecracker wrote.
    pub(crate) fn memory(&self) -> PathBuf {
        self.path("memory")
    }

    /// The same, packed.
    pub(crate) fn snapshot(&self) -> PathBuf {
        self.path("snapshot")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// As `regions` of a peer: all in one.
    pub(crate) fn whole(&self) -> String {
        self.pages.to_string()
    }

    /// Frames in the snapshot.
    pub(crate) fn frames(&self) -> u64 {
        let inspected = inspect(&self.snapshot());
        let frames = inspected["frames"].as_array().expect("a list");
        frames
            .iter()
            .map(|of_codec| of_codec["frames"].as_u64().expect("a number"))
            .sum()
    }
}

fn inspect(snapshot: &Path) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_uffd-snapshot"))
        .args(["inspect", "--json"])
        .arg(snapshot)
        .output()
        .expect("uffd-snapshot runs");
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}
