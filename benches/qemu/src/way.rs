//! Ways to restore a guest.

use crate::source::{INSIDE, Source};
use crate::vm::flow::Stage;
use crate::vm::machine::{Machine, Memory, Qemu, Start};
use crate::vm::restore::{Daemon, fill};
use serde_json::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One way, and the file it restores from.
pub struct Way {
    pub name: String,
    pub file: PathBuf,
    how: How,
}

enum How {
    /// `uffd-restore` serves the RAM from a snapshot.
    Lazy {
        program: PathBuf,
        prefill: &'static str,
    },
    /// The whole snapshot is unpacked into the RAM first.
    Unpacked,
    /// QEMU maps a file as its RAM, and the kernel reads it as it is touched.
    Template,
    /// QEMU reads a migration stream from a command.
    Stream(String),
    /// QEMU loads a snapshot inside a disk.
    Inside,
}

/// Seconds since the new QEMU was started.
pub struct Times {
    pub first: f64,
    pub all: f64,
    pub brought: Option<f64>,
}

impl Way {
    /// Everything that is compared.
    pub fn all(source: &Source, daemon: &Path) -> Vec<Self> {
        let mut all = Vec::new();
        let mut add = |name: String, file: &Path, how| {
            let file = file.to_owned();
            all.push(Self { name, file, how });
        };
        let snapshots = [("zstd", &source.zstd), ("LZ4", &source.lz4)];
        for (codec, file) in snapshots {
            for prefill in ["none", "all"] {
                let name = format!("uffd-restore, {codec}, prefill {prefill}");
                let program = daemon.to_owned();
                add(name, file, How::Lazy { program, prefill });
            }
        }
        for (codec, file) in snapshots {
            let name = format!("the same {codec} snapshot, all of it before the guest runs");
            add(name, file, How::Unpacked);
        }
        let raw = "raw memory file, mapped privately by QEMU".to_owned();
        add(raw, &source.raw, How::Template);
        let streams = [
            ("not compressed", "cat", &source.stream),
            ("lz4", "lz4 -dcq", &source.stream_lz4),
            ("zstd", "zstd -dcq", &source.stream_zstd),
        ];
        for (codec, command, file) in streams {
            let name = format!("QEMU's migration stream, {codec}");
            let command = format!("{command} {}", file.display());
            add(name, file, How::Stream(command));
        }
        let inside = "QEMU's -loadvm".to_owned();
        add(inside, &source.disk, How::Inside);
        all
    }

    /// Restores the guest, and sees it through one sparse and one full round.
    pub fn run(&self, stage: &Stage, source: &Source) -> Times {
        let mut machine = source.machine.clone();
        let devices = Start::Devices { said: "" };
        let mut daemon = None;
        let load = |machine: &Machine, qemu: &mut Qemu| {
            machine.load_devices(stage, qemu, &source.devices);
        };
        let mut qemu;
        match &self.how {
            How::Lazy { program, prefill } => {
                qemu = machine.start(stage, devices);
                let options = ["--prefill", prefill, "--quiet"];
                daemon = Some(Daemon::serve(program, &self.file, qemu.pid(), &options));
                load(&machine, &mut qemu);
            }
            How::Unpacked => {
                qemu = machine.start(stage, devices);
                fill(
                    &stage.uffd_snapshot,
                    &self.file,
                    qemu.pid(),
                    &machine.memory,
                );
                load(&machine, &mut qemu);
            }
            How::Template => {
                machine.memory = Memory::Template(self.file.clone());
                qemu = machine.start(stage, devices);
                load(&machine, &mut qemu);
            }
            How::Stream(command) => {
                qemu = machine.start(stage, Start::Stream);
                Machine::load_everything(&mut qemu, command);
            }
            How::Inside => qemu = machine.start(stage, Start::Snapshot { name: INSIDE }),
        }
        qemu.qmp.execute("cont", &json!({}));
        // It was held.
        qemu.keyboard.write_all(b"\n").expect("the guest reads");
        let [first, all] = [false, true].map(|full| {
            let round = qemu.console.next_loop();
            assert!(round.ok && round.full == full, "{}: {round:?}", self.name);
            assert_eq!(round.number, source.number + 1 + u64::from(full));
            assert!(!full || round.checksum == source.checksum, "{}", self.name);
            round.at
        });
        let since = |at: Instant| at.duration_since(qemu.started).as_secs_f64();
        let (first, all) = (since(first), since(all));
        let started = qemu.started;
        let prefill = matches!(self.how, How::Lazy { prefill: "all", .. });
        // One that brings only what is asked for ends with its target, and must not end before.
        let (brought, rest) = match daemon {
            Some(daemon) if prefill => (Some(daemon.finish().0), None),
            rest => (None, rest),
        };
        qemu.quit();
        rest.map(Daemon::finish);
        Times {
            first,
            all,
            brought: brought.map(|at| at.duration_since(started).as_secs_f64()),
        }
    }
}
