//! What a service gives to systemd's descriptor store, by the functions of the daemon, comes back to the next run of it.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use uffd_restore::service::{Manager, Numbers, StoredName, Word};

use crate::machine::Machine;

const JOURNAL: StoredName = StoredName::Journal { session: 1 };
const SPACE: StoredName = StoredName::Space {
    session: 1,
    space: 2,
};
const PROCESS: StoredName = StoredName::Process {
    session: 1,
    number: 0,
};

/// The role of a service: stores some descriptors when it is started first, and says what it was passed.
pub(crate) fn store(_: &[&str]) {
    let manager = Manager::from_environment().expect("systemd");
    let numbers = Numbers::from_environment().unwrap_or_default();
    let passed = numbers.take(own).expect("all are open");
    assert!(passed.sockets.is_empty());
    let mut names = Vec::new();
    for (name, descriptor) in passed.stored {
        let mut text = String::new();
        if name == JOURNAL {
            let mut file = File::from(descriptor);
            file.rewind().expect("a file");
            file.read_to_string(&mut text).expect("text");
        }
        names.push(format!("{name}={text}"));
    }
    names.sort();
    if names.is_empty() {
        let journal = memfd_create("journal", MFdFlags::MFD_CLOEXEC).expect("memory");
        let mut journal = File::from(journal);
        journal.write_all(b"what happened").expect("room");
        manager.store(JOURNAL, journal.as_fd()).expect("stored");
        // A blocking userfaultfd, which always polls as an error, and a process that has ended.
        let userfaultfd = uffd_restore::uffd::new_for_this_process().expect("a userfaultfd");
        manager.store(SPACE, userfaultfd.as_fd()).expect("stored");
        let ended = ended_process();
        manager.store(PROCESS, ended.as_fd()).expect("stored");
        assert!(manager.barrier(Duration::from_secs(10)));
    }
    let status = format!("passed: {}", names.join(" "));
    manager.say(&[Word::Ready, Word::Status(&status)]);
    loop {
        std::thread::sleep(Duration::from_millis(50));
        if fs::exists("/run/forget").unwrap_or(false) {
            manager.forget(SPACE).expect("forgotten");
            manager.say(&[Word::Status("forgotten")]);
        }
    }
}

#[expect(unsafe_code, reason = "they come as numbers")]
fn own(number: i32) -> Result<OwnedFd, nix::Error> {
    // SAFETY: it was passed to this process, or opened by it just now, and nobody else takes it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[expect(unsafe_code, reason = "pidfd_open(2)")]
fn ended_process() -> OwnedFd {
    let mut child = std::process::Command::new("true").spawn().expect("it runs");
    // SAFETY: plain numbers.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, child.id(), 0) };
    child.wait().expect("a child");
    own(i32::try_from(pidfd).expect("a descriptor")).expect("it is open")
}

const UNIT: &str = "store.service";

#[test]
fn what_is_stored_survives_a_kill_and_a_restart() {
    let machine = Machine::boot();
    let this = std::env::current_exe().expect("this program");
    machine.unit(
        UNIT,
        &format!(
            "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nNotifyAccess=all\nRestart=on-failure\n\
             RestartKillSignal=SIGKILL\nFileDescriptorStoreMax=8\nEnvironment={}=store\n\
             ExecStart={} role --exact --nocapture --test-threads=1\n",
            crate::support::ROLE,
            this.display()
        ),
    );
    machine.must(&["start", UNIT]);
    assert_eq!(machine.show(UNIT, "NFileDescriptorStore"), "3");
    assert_eq!(machine.show(UNIT, "StatusText"), "passed:");
    let all = "passed: 1.journal=what happened 1.pid.0= 1.space.2=";
    let first = machine.show(UNIT, "MainPID");
    machine.must(&["kill", "--signal=KILL", UNIT]);
    machine.wait_for(UNIT, "MainPID", |pid| pid != first && pid != "0");
    machine.wait_for(UNIT, "StatusText", |status| status == all);
    machine.must(&["restart", UNIT]);
    assert_eq!(machine.show(UNIT, "StatusText"), all);
    let touch = machine.run("touch").arg("/run/forget").status();
    assert!(touch.expect("touch runs").success());
    machine.wait_for(UNIT, "NFileDescriptorStore", |count| count == "2");
}
