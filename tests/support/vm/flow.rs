//! A guest's way from its boot through a snapshot into a new QEMU.

use super::console::Loop;
use super::image::Image;
use super::machine::{Machine, Qemu, Start};
use super::restore;
use serde_json::json;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A folder for everything that a test makes, and the programs it uses. Removed when dropped.
pub struct Stage {
    folder: tempfile::TempDir,
    pub image: Image,
    pub uffd_snapshot: PathBuf,
    used: AtomicU32,
}

impl Stage {
    /// The kernel is kept in `cache`.
    pub fn new(repository: &Path, cache: &Path, uffd_snapshot: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // QEMU makes sockets here, as whoever it runs.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("our folder");
        Self {
            image: Image::make(repository, cache, folder.path()),
            folder,
            uffd_snapshot: uffd_snapshot.to_owned(),
            used: AtomicU32::new(0),
        }
    }

    /// A path that nothing has used before.
    pub fn unique(&self, name: &str) -> PathBuf {
        let number = self.used.fetch_add(1, Ordering::Relaxed);
        self.folder.path().join(format!("{name}.{number}"))
    }

    /// Lets every user read and write a file or connect to a socket.
    pub fn open_to_all(&self, path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("our file");
    }

    /// A disk for a guest, as options of `-drive`.
    pub fn disk(&self) -> String {
        let path = self.unique("disk");
        let file = fs::File::create(&path).expect("space");
        file.set_len(32 << 20).expect("space");
        self.open_to_all(&path);
        format!("format=raw,file={}", path.display())
    }
}

/// A guest that is no more.
pub struct Saved {
    pub snapshot: PathBuf,
    /// State of the devices, without RAM.
    pub devices: PathBuf,
    /// The last round of which the guest said the result.
    pub last: Loop,
    /// What every full round must give.
    pub checksum: u64,
    /// What it had said of the next line.
    pub said: String,
}

/// Boots a guest and waits until it has checked everything once.
pub fn boot(stage: &Stage, machine: &Machine) -> (Qemu, Loop) {
    let mut qemu = machine.start(stage, Start::Boot);
    let ready = |_, line: &str| line.starts_with("READY ").then_some(());
    qemu.console.find("the guest is ready", ready);
    loop {
        let next = qemu.console.next_loop();
        assert!(next.ok, "a guest that was never touched is wrong");
        if next.full {
            return (qemu, next);
        }
    }
}

/// Stops a guest wherever it is, saves it, and ends its QEMU.
pub fn save(
    stage: &Stage,
    machine: &Machine,
    mut qemu: Qemu,
    full: Loop,
    options: &[&str],
) -> Saved {
    qemu.qmp.execute("stop", &json!({}));
    let devices = machine.save_devices(stage, &mut qemu);
    let snapshot = stage.unique("snapshot");
    restore::capture(&stage.uffd_snapshot, qemu.pid(), &snapshot, options);
    let (last, said) = qemu.end();
    Saved {
        snapshot,
        devices,
        last: last.unwrap_or(full),
        checksum: full.checksum,
        said,
    }
}

/// A fresh QEMU that waits for the saved guest: its RAM comes first, then `go_on`.
pub fn prepare(stage: &Stage, machine: &Machine, saved: &Saved) -> Qemu {
    machine.start(stage, Start::Devices { said: &saved.said })
}

/// Loads the devices and lets the guest run.
pub fn go_on(stage: &Stage, machine: &Machine, saved: &Saved, qemu: &mut Qemu) {
    machine.load_devices(stage, qemu, &saved.devices);
    qemu.qmp.execute("cont", &json!({}));
}
