//! Nothing is lost when the whole service is killed, or is restarted by another build.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::holder::{Holder, Kids};
use crate::listen::{SERVICE, SOCKET, configured, socket, vmm};
use crate::machine::Machine;

const UNIT: &str = "uffd-restore@web.service";
const PAGES: usize = 256;

fn started() -> (Machine, Holder) {
    let machine = Machine::boot();
    let holder = Holder::captured(&machine, "web", PAGES);
    machine.must(&["start", UNIT]);
    (machine, holder)
}

/// Waits until the service is another process than before, and serves.
fn wait_for_another(machine: &Machine, unit: &str, before: &str) {
    machine.wait_for(unit, "MainPID", |pid| pid != before && pid != "0");
    machine.wait_for(unit, "ActiveState", |state| state == "active");
}

fn assert_over(machine: &Machine) {
    machine.wait_for(UNIT, "ActiveState", |state| state == "inactive");
    assert_eq!(
        machine.show(UNIT, "Result"),
        "success",
        "{}",
        machine.logs()
    );
}

/// Another file, of which nothing that runs has anything.
fn replace_program(machine: &Machine) {
    let program = machine.inside("/usr/local/bin/uffd-restore");
    let other = program.with_extension("new");
    fs::copy(&program, &other).expect("copied");
    let mut file = OpenOptions::new().append(true).open(&other).expect("open");
    file.write_all(b"\n").expect("room");
    drop(file);
    fs::rename(&other, &program).expect("replaced");
}

#[test]
fn a_restart_goes_on_with_the_target() {
    let (machine, mut holder) = started();
    // The process, its address space, the journal.
    assert_eq!(machine.show(UNIT, "NFileDescriptorStore"), "3");
    holder.check_some(0, 64);
    for round in 1..=3 {
        let before = machine.show(UNIT, "MainPID");
        replace_program(&machine);
        machine.must(&["restart", UNIT]);
        wait_for_another(&machine, UNIT, &before);
        assert_eq!(machine.show(UNIT, "NRestarts"), "0");
        assert_eq!(
            machine.show(UNIT, "NFileDescriptorStore"),
            "3",
            "{}",
            machine.logs()
        );
        machine.wait_for(UNIT, "StatusText", |status| {
            status.starts_with("serving 1 target, ")
        });
        // What it wrote meanwhile is its own.
        holder.own(round, round as u64 * 1000);
        holder.check_some(64 * round, 32);
    }
    holder.check();
    assert_over(&machine);
    holder.target.finish();
}

/// `systemctl restart` in a row, without waiting for anything, while the target reads.
#[test]
fn restarts_in_a_row() {
    let (machine, mut holder) = started();
    holder.target.tell("check slowly");
    for _ in 0..6 {
        machine.must(&["restart", UNIT]);
    }
    assert_eq!(holder.target.hear(), "right", "{}", machine.logs());
    holder.check();
    assert_over(&machine);
}

#[test]
fn the_whole_service_is_killed_while_the_target_forks() {
    let (machine, mut holder) = started();
    holder.target.tell("fork 400");
    assert_eq!(holder.target.hear(), "done");
    for round in 1..=5 {
        std::thread::sleep(Duration::from_millis(150));
        let before = machine.show(UNIT, "MainPID");
        machine.must(&["kill", "--signal=KILL", UNIT]);
        wait_for_another(&machine, UNIT, &before);
        assert_eq!(machine.show(UNIT, "NRestarts"), round.to_string());
    }
    let Kids {
        right,
        wrong,
        killed,
    } = holder.reap();
    eprintln!(
        "children: {right} right, {wrong} wrong, {killed} killed\n{}",
        machine.logs()
    );
    assert_eq!(right + wrong + killed, 400, "{}", machine.logs());
    // A child is killed if it was forked in the microseconds before, and all that miss nothing with it; until the next run is there it
    // may have read zeros, and the next run says so (docs/systemd.md).
    let logs = machine.logs();
    let told = logs.matches("a child was forked in the moment").count();
    assert!(wrong <= told, "{wrong} wrong, {told} told\n{logs}");
    assert!(right >= 200, "{right} of 400\n{}", machine.logs());
    holder.check();
    assert_over(&machine);
}

/// The store has no room for children, and nobody noticed: as if all of them had been forked in the last moment.
#[test]
fn children_that_are_not_in_the_store_are_killed() {
    let machine = Machine::boot();
    machine.drop_in(
        "uffd-restore@.service",
        "store",
        "[Service]\nFileDescriptorStoreMax=3\n",
    );
    let mut holder = Holder::captured(&machine, "web", PAGES);
    machine.must(&["start", UNIT]);
    holder.target.tell("fork 5 late");
    assert_eq!(holder.target.hear(), "done");
    std::thread::sleep(Duration::from_millis(500));
    let before = machine.show(UNIT, "MainPID");
    machine.must(&["kill", "--signal=KILL", UNIT]);
    wait_for_another(&machine, UNIT, &before);
    let kids = holder.reap();
    assert_eq!(
        (kids.right, kids.wrong, kids.killed),
        (0, 0, 5),
        "{}",
        machine.logs()
    );
    holder.check();
    assert_over(&machine);
    assert!(
        machine.logs().contains("its missing memory is lost"),
        "{}",
        machine.logs()
    );
}

/// There is no room, and that is known: nothing is left to anybody, and what is owed is installed before the service ends.
#[test]
fn what_does_not_fit_into_the_store_is_finished() {
    let machine = Machine::boot();
    machine.drop_in(
        "uffd-restore@.service",
        "store",
        "[Service]\nFileDescriptorStoreMax=2\nEnvironment=FDSTORE=2\n",
    );
    let mut holder = Holder::captured(&machine, "web", PAGES);
    machine.must(&["start", UNIT]);
    assert!(
        machine.logs().contains("the descriptor store is full"),
        "{}",
        machine.logs()
    );
    let pid = machine.show(UNIT, "MainPID");
    machine.must(&["kill", "--signal=USR1", UNIT]);
    assert_over(&machine);
    assert_ne!(pid, "0");
    assert!(
        machine
            .logs()
            .contains("not all that is served is in the descriptor store")
    );
    holder.check();
}

/// One process after the other: the guard must not end what the next run goes on with.
#[test]
fn the_keeper_alone_is_killed() {
    let (machine, mut holder) = started();
    holder.check_some(0, 16);
    for _ in 0..3 {
        let before = machine.show(UNIT, "MainPID");
        let keeper = Pid::from_raw(machine.outside(&before));
        kill(keeper, Signal::SIGKILL).expect("it lives");
        wait_for_another(&machine, UNIT, &before);
    }
    holder.check();
    assert_over(&machine);
}

/// The version of the journal that a process has open, in its number in the machine.
fn set_version(keeper: i32, version: u64) -> u64 {
    let folder = fs::read_dir(format!("/proc/{keeper}/fd")).expect("descriptors");
    let journal = folder.flatten().map(|entry| entry.path()).find(|path| {
        let link = fs::read_link(path).unwrap_or_default();
        link.starts_with("/memfd:uffd-restore-journal")
            || link == Path::new("/memfd:uffd-restore-journal (deleted)")
    });
    let path = journal.expect("a journal");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .expect("open");
    file.seek(SeekFrom::Start(8)).expect("a word");
    let mut word = [0; 8];
    file.read_exact(&mut word).expect("a word");
    file.seek(SeekFrom::Start(8)).expect("a word");
    file.write_all(&version.to_le_bytes()).expect("written");
    u64::from_le_bytes(word)
}

#[test]
fn another_version_is_refused_and_the_target_waits() {
    let (machine, mut holder) = started();
    holder.check_some(0, 16);
    let keeper = machine.outside(&machine.show(UNIT, "MainPID"));
    let version = set_version(keeper, 9999);
    machine.must(&["--no-block", "restart", UNIT]);
    machine.wait_for(UNIT, "StatusText", |status| {
        status.contains("it has version 9999") && status.contains("the targets wait")
    });
    assert_eq!(machine.show(UNIT, "ActiveState"), "activating");
    assert_eq!(machine.show(UNIT, "NFileDescriptorStore"), "3");
    let began = Instant::now();
    holder.target.tell("check");
    std::thread::sleep(Duration::from_millis(500));
    // The one that wrote it comes back.
    let keeper = machine.outside(&machine.show(UNIT, "MainPID"));
    assert_eq!(set_version(keeper, version), 9999);
    machine.must(&["restart", UNIT]);
    assert_eq!(holder.target.hear(), "right");
    assert!(began.elapsed() > Duration::from_millis(500));
    assert_over(&machine);
    assert!(machine.logs().contains("it has version 9999"));
}

#[test]
fn to_stop_one_that_was_refused_kills_the_target() {
    let (machine, mut holder) = started();
    set_version(machine.outside(&machine.show(UNIT, "MainPID")), 9999);
    machine.must(&["--no-block", "restart", UNIT]);
    machine.wait_for(UNIT, "StatusText", |status| {
        status.contains("the targets wait")
    });
    machine.must(&["stop", UNIT]);
    assert!(!holder.target.end().success());
}

/// Whatever is wrong with the new one, the target waits.
#[test]
fn a_snapshot_that_is_gone_is_waited_for() {
    let (machine, mut holder) = started();
    let snapshot = machine.inside("/usr/local/share/web.snap");
    let away = snapshot.with_extension("away");
    fs::rename(&snapshot, &away).expect("moved");
    machine.must(&["--no-block", "restart", UNIT]);
    machine.wait_for(UNIT, "StatusText", |status| status.contains("web.snap"));
    fs::rename(&away, &snapshot).expect("moved");
    machine.must(&["restart", UNIT]);
    holder.check();
    assert_over(&machine);
}

/// Whatever is wrong with the command line, the target waits.
#[test]
fn a_command_line_that_makes_no_sense_is_waited_for() {
    let (machine, mut holder) = started();
    let path = machine.inside("/usr/local/etc/uffd-restore/web.conf");
    let right = fs::read_to_string(&path).expect("a configuration");
    machine.configure("web", &right.replace("OPTIONS=", "OPTIONS=--frobnicate "));
    machine.must(&["--no-block", "restart", UNIT]);
    machine.wait_for(UNIT, "StatusText", |status| status.contains("frobnicate"));
    machine.configure("web", &right);
    machine.must(&["restart", UNIT]);
    holder.check();
    assert_over(&machine);
}

fn two_vmms() -> (Machine, [crate::peer::Peer; 2]) {
    let machine = configured(64);
    machine.must(&["start", SOCKET]);
    let vmms = [(); 2].map(|()| {
        let mut vmm = vmm(&machine, 64);
        vmm.hand_over(socket(), "");
        vmm.must("check 0 8 1");
        vmm
    });
    machine.wait_for(SERVICE, "NFileDescriptorStore", |count| count == "6");
    (machine, vmms)
}

#[test]
fn a_restart_goes_on_with_all_vmms() {
    let (machine, mut vmms) = two_vmms();
    replace_program(&machine);
    machine.must(&["restart", SERVICE]);
    machine.wait_for(SERVICE, "StatusText", |status| {
        status.starts_with("serving 2 targets, ")
    });
    assert_eq!(machine.show(SERVICE, "NRestarts"), "0");
    for vmm in &mut vmms {
        vmm.check_all();
    }
    machine.wait_for(SERVICE, "NFileDescriptorStore", |count| count == "0");
    let mut third = vmm(&machine, 64);
    third.hand_over(socket(), "");
    third.check_all();
}

#[test]
fn all_vmms_survive_a_kill_of_the_whole_service() {
    let (machine, mut vmms) = two_vmms();
    for round in 1..=3 {
        let before = machine.show(SERVICE, "MainPID");
        machine.must(&["kill", "--signal=KILL", SERVICE]);
        wait_for_another(&machine, SERVICE, &before);
        for vmm in &mut vmms {
            vmm.must(&format!("check {} 8 1", 8 * round));
            vmm.must(&format!("remove {} 2", 40 + 2 * round));
        }
    }
    for vmm in &mut vmms {
        vmm.check_all();
    }
    machine.wait_for(SERVICE, "NFileDescriptorStore", |count| count == "0");
}
