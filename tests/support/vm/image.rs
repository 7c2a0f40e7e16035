//! The kernel and the initial file system of the guest.

use super::cpio::Archive;
use nix::fcntl::{Flock, FlockArg};
use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a guest boots from.
pub struct Image {
    pub kernel: PathBuf,
    pub initrd: PathBuf,
}

/// Drivers that the distribution may have as modules; the guest finds out in which order they need each other.
const MODULES: [&str; 7] = [
    "virtio",
    "virtio_ring",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_balloon",
];

/// What is needed and not there, as a sentence.
pub fn missing() -> Option<String> {
    for (program, package) in [
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("cc", "gcc"),
        ("setpriv", "util-linux"),
        ("apt-get", "apt (the guest's kernel is a Debian package)"),
    ] {
        if find(program).is_none() {
            return Some(format!("{program} is missing: install {package}"));
        }
    }
    let busybox = fs::read(find("busybox").expect("asked before")).expect("readable");
    if busybox
        .windows(8)
        .take(4096)
        .any(|piece| piece == b"ld-linux")
    {
        return Some("busybox is not static: install busybox-static".to_owned());
    }
    (!nix::unistd::geteuid().is_root())
        .then(|| "reading and serving a VMM's memory needs root".to_owned())
}

/// Where a program is.
fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

impl Image {
    /// Makes one in `folder`. The unpacked kernel package is kept in `cache` for other tests and later runs.
    pub fn make(repository: &Path, cache: &Path, folder: &Path) -> Self {
        let package = kernel_package(repository, cache);
        // Copied, because a user without privileges may not reach the cache.
        let kernel = folder.join("vmlinuz");
        fs::copy(vmlinuz(&package).expect("a kernel in its package"), &kernel).expect("space");
        let initrd = folder.join("initrd");
        fs::write(&initrd, file_system(repository, folder, &package)).expect("space");
        Self { kernel, initrd }
    }
}

fn kernel_package(repository: &Path, cache: &Path) -> PathBuf {
    fs::create_dir_all(cache).expect("the cache");
    let package = cache.join("guest-kernel");
    let lock = File::create(cache.join("guest-kernel.lock")).expect("a lock file");
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error);
    if vmlinuz(&package).is_none() {
        let partial = cache.join("guest-kernel.partial");
        drop(fs::remove_dir_all(&partial));
        drop(fs::remove_dir_all(&package));
        let output = Command::new(repository.join("scripts/fetch-kernel"))
            .arg(&partial)
            .output()
            .expect("scripts/fetch-kernel runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "no kernel for the guest: {said}");
        fs::rename(&partial, &package).expect("keep the kernel");
    }
    package
}

fn vmlinuz(package: &Path) -> Option<PathBuf> {
    let files = fs::read_dir(package.join("boot")).ok()?;
    files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("/vmlinuz-"))
}

fn file_system(repository: &Path, folder: &Path, package: &Path) -> Vec<u8> {
    let init = folder.join("init");
    let output = Command::new("cc")
        .args([
            "-static", "-pthread", "-O2", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .arg(&init)
        .arg(repository.join("tests/support/vm/guest.c"))
        .output()
        .expect("cc runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cannot compile guest.c: {said}");

    let mut archive = Archive::default();
    archive.file("init", &fs::read(init).expect("just made"));
    archive.folder("bin");
    let busybox = find("busybox").expect("asked before");
    archive.file("bin/busybox", &fs::read(busybox).expect("readable"));
    archive.folder("modules");
    let mut modules = Vec::new();
    find_modules(package, &mut modules);
    // One that is not there is built into this kernel.
    let wanted = MODULES.iter().filter_map(|name| {
        let file = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|file| file == format!("{name}.ko").as_str())
        };
        modules.iter().find(file)
    });
    for (number, path) in wanted.enumerate() {
        let content = fs::read(path).expect("readable");
        archive.file(&format!("modules/{number}"), &content);
    }
    archive.finish()
}

fn find_modules(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        if entry.file_type().expect("its type").is_dir() {
            find_modules(&entry.path(), found);
        } else if entry.path().extension().is_some_and(|end| end == "ko") {
            found.push(entry.path());
        }
    }
}
