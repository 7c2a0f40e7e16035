//! Without the daemon: all RAM is written before the guest runs. Shows that saving and restoring is right by itself, and
//! that the guest finds a page that is not.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::vm::flow::{boot, go_on, prepare, save};
use super::vm::machine::{Machine, Memory, Qemu, RAM_BYTES};
use super::vm::restore::{fill, ram_of};
use super::{assert_devices_only, assert_goes_on, stage};

#[test]
fn a_guest_goes_on_and_finds_a_damaged_page() {
    let Some(stage) = stage() else { return };
    let machine = Machine {
        memory: Memory::Shared,
        disk: Some(stage.disk()),
        ..Machine::default()
    };
    let (source, full) = boot(&stage, &machine);
    let saved = save(&stage, &machine, source, full, &[]);
    assert_devices_only(&saved);
    // What the guest writes when it goes on the first time must not be there when it does so again.
    let disk = disk_file(&machine);
    let disk_then = fs::read(&disk).expect("the disk");
    let restore = || {
        fs::write(&disk, &disk_then).expect("the disk");
        let qemu = prepare(&stage, &machine, &saved);
        let (snapshot, pid) = (&saved.snapshot, qemu.pid());
        fill(&stage.uffd_snapshot, snapshot, pid, &machine.memory);
        qemu
    };

    let mut qemu = restore();
    go_on(&stage, &machine, &saved, &mut qemu);
    assert_goes_on(&mut qemu, &saved, saved.last.number);
    qemu.quit();

    let mut qemu = restore();
    damage(&qemu, &machine.memory);
    go_on(&stage, &machine, &saved, &mut qemu);
    while qemu.console.next_loop().ok {
        // At least the second full round from now meets it.
        let passed = qemu.console.transcript().matches(" full").count();
        assert!(passed < 2, "the guest did not notice");
    }
    assert!(qemu.console.transcript().contains("is damaged"));
}

/// The file behind the guest's disk.
fn disk_file(machine: &Machine) -> String {
    let drive = machine.disk.as_deref().expect("it has one");
    let file = drive
        .split(',')
        .find_map(|option| option.strip_prefix("file="));
    file.expect("a file").to_owned()
}

/// Changes a byte in the middle of a page that the guest checks.
fn damage(qemu: &Qemu, memory: &Memory) {
    let ram = ram_of(qemu.pid(), memory);
    let file = format!("/proc/{}/mem", qemu.pid());
    let file = File::options().read(true).write(true).open(file);
    let file = file.expect("QEMU's memory");
    // See `identity` in guest.c; nothing but its page begins like this.
    let wanted = 0x5047_0100_0000_0400_u64;
    let page = (ram.start..ram.start + RAM_BYTES)
        .step_by(4096)
        .find(|&page| {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, page).expect("QEMU's RAM");
            u64::from_le_bytes(word) == wanted
        })
        .expect("the page is in RAM");
    let mut byte = [0];
    file.read_exact_at(&mut byte, page + 2000)
        .expect("QEMU's RAM");
    byte[0] ^= 1;
    file.write_all_at(&byte, page + 2000).expect("QEMU's RAM");
}
