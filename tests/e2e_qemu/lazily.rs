//! With `uffd-restore`: the guest runs while its memory is still in the snapshot.

use std::path::Path;

use serde_json::json;

use super::vm::flow::{Saved, Stage, boot, prepare, save};
use super::vm::machine::{Machine, Memory, Qemu, RAM_BYTES};
use super::vm::restore::{Daemon, ram_of};
use super::{assert_devices_only, assert_goes_on, stage};

/// A guest that was saved and whose memory is served in a new QEMU, not running yet.
struct Restored {
    // When a test fails, QEMU ends before the daemon that it may be waiting for.
    qemu: Qemu,
    daemon: Daemon,
    saved: Saved,
    stage: Stage,
}

/// Boots, saves and prepares a guest; with memory that is there only where QEMU's own devices looked at it.
fn restored(machine: &mut Machine, capture: &[&str], options: &[&str]) -> Option<Restored> {
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
    Some(Restored {
        qemu,
        daemon,
        saved,
        stage,
    })
}

impl Restored {
    fn run(&mut self) {
        self.qemu.qmp.execute("cont", &json!({}));
    }

    /// The daemon brings all memory and leaves; the guest goes on without it.
    fn outlives_the_daemon(mut self, after: u64) {
        let (_, said) = self.daemon.finish();
        assert_goes_on(&mut self.qemu, &self.saved, after);
        self.qemu.quit();
        drop(self.stage);
        println!("uffd-restore: {said}");
    }
}

#[test]
fn shared_memory_and_everything_brought_meanwhile() {
    let mut machine = Machine {
        memory: Memory::Shared,
        ..Machine::default()
    };
    let options = ["--prefill", "all"];
    let Some(mut guest) = restored(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    let last = assert_goes_on(&mut guest.qemu, &guest.saved, guest.saved.last.number);
    guest.outlives_the_daemon(last);
}

#[test]
fn private_memory_of_two_processors_on_demand_only() {
    let mut machine = Machine {
        cpus: 2,
        ..Machine::default()
    };
    let options = ["--prefill", "none"];
    let Some(mut guest) = restored(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    assert_goes_on(&mut guest.qemu, &guest.saved, guest.saved.last.number);
    assert!(
        !guest.daemon.has_ended(),
        "there is memory that nobody asked for"
    );
    // The end of its target is a good end.
    guest.qemu.quit();
    guest.daemon.finish();
}

#[test]
fn a_balloon_takes_memory_that_is_still_owed() {
    const LESS: u64 = RAM_BYTES - (64 << 20);
    let mut machine = Machine {
        balloon: true,
        ..Machine::default()
    };
    let options = ["--prefill", "all"];
    let Some(mut guest) = restored(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    for size in [LESS, RAM_BYTES] {
        let monitor = &mut guest.qemu.qmp;
        monitor.execute("balloon", &json!({"value": size}));
        monitor.wait("BALLOON_CHANGE", |data| data["actual"] == size);
    }
    let last = assert_goes_on(&mut guest.qemu, &guest.saved, guest.saved.last.number);
    guest.outlives_the_daemon(last);
}

#[test]
fn a_qemu_without_privileges_in_its_sandbox() {
    let mut machine = Machine {
        confined: true,
        ..Machine::default()
    };
    let options = ["--prefill", "all", "--quiet"];
    let capture = ["--codec", "lz4"];
    let Some(mut guest) = restored(&mut machine, &capture, &options) else {
        return;
    };
    guest.run();
    let last = assert_goes_on(&mut guest.qemu, &guest.saved, guest.saved.last.number);
    guest.outlives_the_daemon(last);
}
