//! `uffd-restore-listen@.socket`, `uffd-restore-listen@.service`

use std::fs;
use std::path::Path;

use crate::machine::Machine;
use crate::peer::{self, Peer};
use crate::support::confined::{CAP_KILL, CAP_SYS_PTRACE, assert_confined};
use crate::support::service::worker_of;

pub(crate) const SOCKET: &str = "uffd-restore-listen@vm.socket";
pub(crate) const SERVICE: &str = "uffd-restore-listen@vm.service";

pub(crate) fn configured(pages: usize) -> Machine {
    let machine = Machine::boot();
    let memory = peer::memory_file(pages);
    fs::write(machine.inside("/usr/local/share/vm.mem"), memory).expect("written");
    machine.configure("vm", "SNAPSHOT=/usr/local/share/vm.mem\n");
    machine
}

pub(crate) fn vmm(machine: &Machine, pages: usize) -> Peer {
    Peer::start_by(machine.run_this(), &pages.to_string(), "")
}

pub(crate) fn socket() -> &'static Path {
    Path::new("/run/uffd-restore/vm.sock")
}

/// The service is started by the first VMM that connects; the units are as they are shipped.
#[test]
fn a_vmm_that_connects_starts_the_service() {
    let machine = configured(64);
    machine.must(&["start", SOCKET]);
    assert_eq!(machine.show(SERVICE, "ActiveState"), "inactive");
    let mut vmm = vmm(&machine, 64);
    vmm.hand_over(socket(), "");
    vmm.must("check 0 8 1");
    assert_eq!(machine.show(SERVICE, "ActiveState"), "active");
    machine.wait_for(SERVICE, "StatusText", |status| {
        status.starts_with("serving 1 target, ")
    });
    let daemon = machine.outside(&machine.show(SERVICE, "MainPID"));
    assert_confined(
        worker_of(daemon).expect("it serves"),
        CAP_KILL | CAP_SYS_PTRACE,
    );
    vmm.check_all();
    machine.wait_for(SERVICE, "StatusText", |status| {
        status == "nobody is being served"
    });
    machine.must(&["stop", SERVICE]);
    assert_eq!(
        machine.show(SERVICE, "Result"),
        "success",
        "{}",
        machine.logs()
    );
    vmm.check_all();
}

/// Who connects while the service is ending waits for the next one.
#[test]
fn a_reloaded_service_finishes_and_the_next_vmm_starts_another() {
    let machine = configured(64);
    machine.must(&["start", SOCKET]);
    let mut first = vmm(&machine, 64);
    first.hand_over(socket(), "");
    machine.wait_for(SERVICE, "ActiveState", |state| state == "active");
    let before = machine.show(SERVICE, "MainPID");
    machine.must(&["reload", SERVICE]);
    machine.wait_for(SERVICE, "ActiveState", |state| state == "inactive");
    first.check_all();
    let mut second = vmm(&machine, 64);
    second.hand_over(socket(), "");
    second.check_all();
    assert_ne!(machine.show(SERVICE, "MainPID"), before);
}

#[test]
fn several_are_counted() {
    let machine = configured(64);
    machine.must(&["start", SOCKET]);
    let mut vmms: Vec<Peer> = (0..3).map(|_| vmm(&machine, 64)).collect();
    for vmm in &mut vmms {
        vmm.hand_over(socket(), "");
        vmm.must("check 0 1 1");
    }
    machine.wait_for(SERVICE, "StatusText", |status| {
        status.starts_with("serving 3 targets, ")
    });
}
