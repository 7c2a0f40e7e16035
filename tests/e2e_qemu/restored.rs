//! A guest that was saved and whose memory is served in a new QEMU.

use std::path::Path;

use serde_json::json;

use super::vm::flow::{Saved, Stage, boot, prepare, save};
use super::vm::machine::{Machine, Qemu};
use super::vm::restore::{Daemon, ram_of};
use super::{assert_devices_only, assert_goes_on, stage};

/// The guest, not running yet.
pub(crate) struct Restored {
    // When a test fails, QEMU ends before the daemon that it may be waiting for.
    pub(crate) qemu: Qemu,
    pub(crate) daemon: Daemon,
    pub(crate) saved: Saved,
    stage: Stage,
}

impl Restored {
    /// Boots, saves and prepares a guest; with memory that is there only where QEMU's own devices looked at it.
    pub(crate) fn of(machine: &mut Machine, capture: &[&str], options: &[&str]) -> Option<Self> {
        let stage = stage()?;
        machine.disk = Some(stage.disk());
        let (source, full) = boot(&stage, machine);
        let saved = save(&stage, machine, source, full, capture);
        assert_devices_only(&saved);
        let mut qemu = prepare(&stage, machine, &saved);
        let program = Path::new(env!("CARGO_BIN_EXE_uffd-restore"));
        let daemon = Daemon::serve(program, &saved.snapshot, qemu.pid(), options);
        machine.load_devices(&stage, &mut qemu, &saved.devices);
        if options.contains(&"none") {
            let present = ram_of(qemu.pid(), &machine.memory).present;
            assert!(present < 16 << 20, "{present} bytes are there already");
        }
        Some(Self {
            qemu,
            daemon,
            saved,
            stage,
        })
    }

    pub(crate) fn run(&mut self) {
        self.qemu.qmp.execute("cont", &json!({}));
    }

    /// The guest's memory becomes so large.
    pub(crate) fn balloon(&mut self, size: u64) {
        let monitor = &mut self.qemu.qmp;
        monitor.execute("balloon", &json!({"value": size}));
        monitor.wait("BALLOON_CHANGE", |data| data["actual"] == size);
    }

    /// The guest counts on after this number and finds nothing wrong, twice; returns the last number.
    pub(crate) fn goes_on(&mut self, after: u64) -> u64 {
        assert_goes_on(&mut self.qemu, &self.saved, after)
    }

    /// The daemon brings all memory and leaves; the guest goes on without it.
    pub(crate) fn outlives_the_daemon(mut self, after: u64) -> String {
        let (_, said) = self.daemon.finish();
        assert_goes_on(&mut self.qemu, &self.saved, after);
        self.qemu.quit();
        drop(self.stage);
        said
    }
}
