//! Interrupted, killed or out of space: nothing is left behind, and the target goes on.

use super::{Workshop, memory, stderr};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

/// A `pack` that has read and written a part of a pipe, and waits for more.
fn half_packed(shop: &Workshop) -> Child {
    let mut child = shop
        .command(&["pack", "-", "-o", "snap"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program");
    let pipe = child.stdin.as_mut().expect("a pipe");
    // More than the pipe and the buffers of the program hold: when this returns, some of it has been compressed.
    pipe.write_all(&memory(64 << 20)).expect("a reader");
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

#[test]
fn a_killed_or_interrupted_pack_leaves_nothing() {
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGKILL,
    ] {
        let shop = Workshop::new();
        let mut child = half_packed(&shop);
        assert!(shop.names().is_empty(), "{:?}", shop.names());
        kill(pid(&child), signal).expect("a child");
        assert!(!child.wait().expect("an end").success());
        assert!(shop.names().is_empty(), "{signal}: {:?}", shop.names());
    }
}

/// A file system of `size` bytes, unmounted when dropped.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    pub(crate) fn new(at: &Path, size: usize) -> Self {
        fs::create_dir(at).expect("a folder");
        let options = format!("size={size}");
        mount(
            Some("none"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("these tests run as root");
        Self(at.to_path_buf())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount2(&self.0, MntFlags::MNT_DETACH).expect("mounted");
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    let shop = Workshop::new();
    shop.write("raw", &memory(8 << 20));
    shop.ok(&["pack", "raw", "-o", "snap"]);
    let disk = SmallDisk::new(&shop.path("disk"), 1 << 20);
    for arguments in [
        ["pack", "raw", "-o", "disk/x"],
        ["unpack", "snap", "-o", "disk/x"],
    ] {
        let said = shop.fails(1, &arguments);
        assert!(
            said.contains("disk/x") && said.contains("free some space"),
            "{said}"
        );
        let left: Vec<_> = fs::read_dir(&disk.0).expect("the disk").collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn a_full_disk_during_a_capture_lets_the_target_go_on() {
    let shop = Workshop::new();
    let disk = SmallDisk::new(&shop.path("disk"), 1 << 20);
    // A shell that holds 8 MiB that do not compress, and then waits.
    let mut target = std::process::Command::new("python3")
        .args([
            "-c",
            "import os,sys; x=os.urandom(8<<20); print('ready',flush=True); sys.stdin.read()",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut line = [0; 6];
    std::io::Read::read_exact(target.stdout.as_mut().expect("a pipe"), &mut line).expect("ready");
    let id = target.id().to_string();
    let output = shop.run(&["create", "--pid", &id, "-o", "disk/x", "--buffer", "1MiB"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("free some space"),
        "{}",
        stderr(&output)
    );
    assert_eq!(fs::read_dir(&disk.0).expect("the disk").count(), 0);
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("it lives");
    assert!(status.contains("TracerPid:\t0"), "{status}");
    assert!(
        !status.contains("State:\tT") && !status.contains("State:\tt"),
        "{status}"
    );
    drop(target.stdin.take());
    assert!(target.wait().expect("an end").success());
}
