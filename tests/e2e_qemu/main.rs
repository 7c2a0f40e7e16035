//! A Linux guest in an unmodified QEMU goes on in another QEMU, where it left off.

mod eagerly;
mod killed;
mod lazily;
mod restored;
#[path = "../support/mod.rs"]
mod support;
#[path = "../support/vm/mod.rs"]
mod vm;

use std::fs;
use std::path::Path;

use vm::flow::{Saved, Stage};
use vm::machine::Qemu;

/// Everything a test needs, or nothing when this machine does not have it.
fn stage() -> Option<Stage> {
    if let Some(missing) = vm::image::missing() {
        vm::skip(&missing);
        return None;
    }
    Some(Stage::new(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
        Path::new(env!("CARGO_BIN_EXE_uffd-snapshot")),
    ))
}

/// QEMU without complaint puts the RAM into a file that is meant for the devices; then nothing would be lazy.
fn assert_devices_only(saved: &Saved) {
    let len = fs::metadata(&saved.devices)
        .expect("the device state")
        .len();
    assert!(len < 2 << 20, "{len} bytes of device state: RAM is inside");
}

/// The guest counts on from where it was, and everything it checks is right, twice; returns the last number.
fn assert_goes_on(qemu: &mut Qemu, saved: &Saved, after: u64) -> u64 {
    let (mut number, mut full_rounds) = (after, 0);
    while full_rounds < 2 {
        let next = qemu.console.next_loop();
        number += 1;
        assert_eq!(next.number, number, "the guest does not go on where it was");
        assert!(next.ok, "the guest finds wrong memory");
        if next.full {
            assert_eq!(next.checksum, saved.checksum, "not the same memory");
            full_rounds += 1;
        }
    }
    number
}
