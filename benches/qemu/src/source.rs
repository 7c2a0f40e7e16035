//! One guest at one instant, saved in every way that is compared.

use crate::vm::flow::{Stage, boot};
use crate::vm::machine::{Machine, Memory};
use crate::vm::restore::capture;
use serde_json::json;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Name of the snapshot inside the disk's file.
pub const INSIDE: &str = "saved";

/// The files, and what the guest must say when it goes on.
pub struct Source {
    pub machine: Machine,
    /// Of QEMU.
    pub version: (u64, u64),
    pub checked_mib: u32,
    /// The last round before it was saved.
    pub number: u64,
    /// What a round over everything must give.
    pub checksum: u64,
    /// State of the devices alone.
    pub devices: PathBuf,
    pub zstd: PathBuf,
    pub lz4: PathBuf,
    /// RAM as it is.
    pub raw: PathBuf,
    /// QEMU's migration stream, as it is and compressed.
    pub stream: PathBuf,
    pub stream_lz4: PathBuf,
    pub stream_zstd: PathBuf,
    /// The disk, with everything in a snapshot inside.
    pub disk: PathBuf,
}

fn run(command: &mut Command) {
    let status = command.status().expect("an installed program");
    assert!(status.success(), "{command:?}: {status}");
}

impl Source {
    /// Boots a guest, holds it before a round, and saves it.
    pub fn make(stage: &Stage) -> Self {
        let disk = stage.unique("qcow2");
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&disk)
            .arg("32M"));
        let machine = Machine {
            memory: Memory::Private,
            disk: Some(format!("format=qcow2,file={}", disk.display())),
            fill: (220, 56),
            ..Machine::default()
        };
        let (mut qemu, full) = boot(stage, &machine);
        qemu.keyboard.write_all(b"hold\n").expect("the guest reads");
        let mut number = full.number;
        qemu.console.find("the guest waits", |_, line| {
            number += u64::from(line.starts_with("LOOP "));
            (line == "HELD").then_some(())
        });
        let version = qemu.qmp.version();
        qemu.qmp.execute("stop", &json!({}));
        let save = format!("savevm {INSIDE}");
        let said = qemu
            .qmp
            .execute("human-monitor-command", &json!({"command-line": save}));
        assert_eq!(said, "", "QEMU's own snapshot failed");
        let devices = machine.save_devices(stage, &mut qemu);
        let paths = ["zstd", "lz4", "raw"].map(|name| stage.unique(name));
        let [zstd, lz4, raw] = paths;
        capture(&stage.uffd_snapshot, qemu.pid(), &zstd, &[]);
        capture(&stage.uffd_snapshot, qemu.pid(), &lz4, &["--codec", "lz4"]);
        run(Command::new(&stage.uffd_snapshot)
            .args(["unpack", "--quiet", "-o"])
            .arg(&raw)
            .arg(&zstd));
        let stream = Machine::save_everything(stage, &mut qemu);
        qemu.quit();
        Self {
            version,
            checked_mib: machine.fill.0 + machine.fill.1 + 16,
            machine,
            number,
            checksum: full.checksum,
            devices,
            zstd,
            lz4,
            raw,
            stream_lz4: compressed(&stream, "lz4", &["-q", "-1"]),
            stream_zstd: compressed(&stream, "zstd", &["-q", "-3"]),
            stream,
            disk,
        }
    }
}

fn compressed(file: &Path, program: &str, options: &[&str]) -> PathBuf {
    let to = file.with_extension(program);
    let output = File::create(&to).expect("space");
    run(Command::new(program)
        .args(options)
        .arg("-c")
        .arg(file)
        .stdout(output));
    to
}
