//! `uffd-restore@.service`

use crate::holder::Holder;
use crate::machine::Machine;
use crate::support::confined::{CAP_KILL, assert_confined};
use crate::support::service::worker_of;

#[track_caller]
fn assert_success(machine: &Machine, unit: &str) {
    assert_eq!(
        machine.show(unit, "Result"),
        "success",
        "{}",
        machine.logs()
    );
}

/// The unit is as it is shipped.
#[test]
fn a_target_is_restored_by_the_unit() {
    let machine = Machine::boot();
    let mut holder = Holder::captured(&machine, "web", 256);
    // Type=notify: returns when faults are served.
    machine.must(&["start", "uffd-restore@web.service"]);
    let unit = "uffd-restore@web.service";
    assert_eq!(machine.show(unit, "ActiveState"), "active");
    let status = machine.show(unit, "StatusText");
    assert!(
        status.starts_with("serving") && status.ends_with(" owed"),
        "{status}"
    );
    let daemon = machine.outside(&machine.show(unit, "MainPID"));
    assert_confined(worker_of(daemon).expect("it serves"), CAP_KILL);
    holder.check();
    machine.wait_for(unit, "ActiveState", |state| state == "inactive");
    assert_success(&machine, unit);
    holder.check();
    holder.target.finish();
}

/// How far it is can be seen while it is so.
#[test]
fn the_status_says_how_much_is_owed() {
    let machine = Machine::boot();
    let _holder = Holder::captured(&machine, "slow", 256);
    machine.must(&["start", "uffd-restore@slow.service"]);
    machine.wait_for("uffd-restore@slow.service", "StatusText", |status| {
        status == "serving 1 target, 1.0 MiB owed"
    });
}

/// `systemctl reload` asks to finish.
#[test]
fn reloading_finishes() {
    let machine = Machine::boot();
    let mut holder = Holder::captured(&machine, "web", 256);
    machine.must(&["start", "uffd-restore@web.service"]);
    machine.must(&["reload", "uffd-restore@web.service"]);
    machine.wait_for("uffd-restore@web.service", "ActiveState", |state| {
        state == "inactive"
    });
    let log = machine.logs();
    assert!(log.contains("asked to end"), "{log}");
    holder.check();
}

#[test]
fn stopping_finishes() {
    let machine = Machine::boot();
    let mut holder = Holder::captured(&machine, "web", 256);
    machine.must(&["start", "uffd-restore@web.service"]);
    machine.must(&["stop", "uffd-restore@web.service"]);
    let unit = "uffd-restore@web.service";
    assert_success(&machine, unit);
    holder.check();
}

/// Bad usage is not tried again and again.
#[test]
fn a_bad_configuration_stays_down() {
    let machine = Machine::boot();
    machine.configure("bad", "SNAPSHOT=/nowhere\nTARGET=--frobnicate\n");
    let unit = "uffd-restore@bad.service";
    assert!(!machine.systemctl(&["start", unit]).status.success());
    assert_eq!(machine.show(unit, "NRestarts"), "0");
    assert_eq!(machine.show(unit, "ActiveState"), "failed");
}

/// It may make no userfaultfd of its own, and gets one from the only device that the unit has.
#[test]
fn a_target_of_another_user_is_restored_by_the_unit() {
    let machine = Machine::boot();
    machine.drop_in(
        "uffd-restore@.service",
        "devices",
        "[Service]\nExecStartPre=/bin/sh -c 'test -c /dev/userfaultfd && test ! -e /dev/kmsg'\n",
    );
    let mut holder = Holder::captured_as(&machine, "web", 64, "nobody");
    machine.must(&["start", "uffd-restore@web.service"]);
    holder.check();
}
