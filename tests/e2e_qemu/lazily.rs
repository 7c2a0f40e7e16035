//! With `uffd-restore`: the guest runs while its memory is still in the snapshot.

use super::restored::Restored;
use super::vm::machine::{Machine, Memory, RAM_BYTES};

#[test]
fn shared_memory_and_everything_brought_meanwhile() {
    let mut machine = Machine {
        memory: Memory::Shared,
        ..Machine::default()
    };
    let options = ["--prefill", "all"];
    let Some(mut guest) = Restored::of(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    let last = guest.goes_on(guest.saved.last.number);
    println!("{}", guest.outlives_the_daemon(last));
}

#[test]
fn private_memory_of_two_processors_on_demand_only() {
    let mut machine = Machine {
        cpus: 2,
        ..Machine::default()
    };
    let options = ["--prefill", "none"];
    let Some(mut guest) = Restored::of(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    guest.goes_on(guest.saved.last.number);
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
    let Some(mut guest) = Restored::of(&mut machine, &[], &options) else {
        return;
    };
    guest.run();
    guest.balloon(LESS);
    guest.balloon(RAM_BYTES);
    let last = guest.goes_on(guest.saved.last.number);
    println!("{}", guest.outlives_the_daemon(last));
}

#[test]
fn a_qemu_without_privileges_in_its_sandbox() {
    let mut machine = Machine {
        confined: true,
        ..Machine::default()
    };
    let options = ["--prefill", "all", "--quiet"];
    let capture = ["--codec", "lz4"];
    let Some(mut guest) = Restored::of(&mut machine, &capture, &options) else {
        return;
    };
    guest.run();
    let last = guest.goes_on(guest.saved.last.number);
    println!("{}", guest.outlives_the_daemon(last));
}
