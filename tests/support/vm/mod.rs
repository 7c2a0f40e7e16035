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
#[path = "../skip.rs"]
mod skip;
pub mod state;

pub(crate) use skip::skip;
use std::time::Duration;

/// How long anything may take before it is called hung: far more than it needs, on a machine that is busy too.
pub const PATIENCE: Duration = Duration::from_secs(120);
