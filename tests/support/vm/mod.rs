//! Real guests in a real QEMU, saved and restored: what the end-to-end tests and the benchmark of restoring share.
//!
//! The guest is a distribution kernel under `-accel tcg` (no KVM needed) with one program, `guest.c`, that checks all its
//! memory for ever and says so on the console. Anything that goes wrong is a panic that says what QEMU and the guest
//! said last; every process ends when its value is dropped, or when this program dies.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the tests and the benchmark use a part of it each"
)]

pub mod console;
pub mod cpio;
pub mod flow;
pub mod image;
pub mod machine;
pub mod process;
pub mod qmp;
pub mod restore;
pub mod state;

use std::time::Duration;

/// How long anything may take before it is called hung: far more than it needs, on a machine that is busy too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Says that a test cannot run on this machine. Where every test must run, as in `scripts/test`, it fails here: what a test
/// prints that passes is not always shown.
pub fn skip(why: &str) {
    println!("SKIPPED: {why}");
    let tolerated = std::env::var_os("UFFD_RESTORE_SKIP_NOTHING").is_none();
    assert!(tolerated, "a test that cannot run counts as failed");
}
