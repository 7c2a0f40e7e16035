//! Users that may not, and devices that are not there.

use std::process::Command;

use super::actor::Actor;
use super::daemon::{Daemon, in_shell, restoring, run};
use super::lab::Lab;

/// The command as uid 65534, with these capabilities and no others.
pub(crate) fn as_nobody(inner: &Command, capabilities: &[&str]) -> Command {
    let mut options = String::new();
    if !capabilities.is_empty() {
        let all = format!("+{}", capabilities.join(",+"));
        options = format!("--inh-caps={all} --ambient-caps={all}");
    }
    let script =
        format!("exec setpriv --reuid=65534 --regid=65534 --clear-groups {options} \"$@\"");
    in_shell(&script, inner)
}

/// The command where /dev/userfaultfd cannot be opened by anybody.
pub(crate) fn without_device(inner: &Command) -> Command {
    with_mounts(
        "mount --bind /dev/userfaultfd /dev/userfaultfd && mount -o remount,bind,nodev /dev/userfaultfd",
        inner,
    )
}

/// The command where everybody may open /dev/userfaultfd.
pub(crate) fn with_device_for_all(lab: &Lab, inner: &Command) -> Command {
    let node = lab.path("device");
    let node = node.display();
    with_mounts(
        &format!(
            "numbers=$(stat -c '0x%t 0x%T' /dev/userfaultfd) && mknod -m 666 {node} c $numbers && \
             mount --bind {node} /dev/userfaultfd"
        ),
        inner,
    )
}

fn with_mounts(script: &str, inner: &Command) -> Command {
    let unshared = in_shell(&format!("{script} && exec \"$@\""), inner);
    let mut command = Command::new("unshare");
    command
        .arg("-m")
        .arg(unshared.get_program())
        .args(unshared.get_args());
    command
}

pub(crate) fn unprivileged_may() -> bool {
    std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd")
        .is_ok_and(|value| value.trim() == "1")
}

#[test]
fn nobody_is_told_about_the_device_and_the_sysctl() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::with(16, "nobody");
    let ended = run(as_nobody(&restoring(&snapshot, &actor, &[]), &[]));
    if unprivileged_may() {
        ended.assert(1, &["CAP_SYS_PTRACE"]);
    } else {
        ended.assert(
            1,
            &[
                "not permitted",
                "/dev/userfaultfd: Permission denied",
                "run as root",
                "vm.unprivileged_userfaultfd",
            ],
        );
    }
    actor.assert_untouched();
}

#[test]
fn nobody_with_the_device_needs_a_capability_to_follow_forks() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::with(16, "nobody");
    let nobody = as_nobody(&restoring(&snapshot, &actor, &[]), &[]);
    run(with_device_for_all(&lab, &nobody)).assert(1, &["CAP_SYS_PTRACE", "forks"]);
    actor.assert_untouched();
}

#[test]
fn a_target_of_another_user_needs_a_capability_to_be_traced() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let nobody = as_nobody(&restoring(&snapshot, &actor, &[]), &[]);
    run(with_device_for_all(&lab, &nobody)).assert(
        1,
        &[
            "not permitted to trace",
            &actor.pid().to_string(),
            "uid 0",
            "CAP_SYS_PTRACE",
        ],
    );
    actor.assert_untouched();
}

#[test]
fn a_capability_is_enough_for_targets_of_the_same_user_and_two_for_others() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let both = &["sys_ptrace", "dac_override"][..];
    for (words, capabilities) in [("nobody", &both[..1]), ("", both), ("nobody", both)] {
        let mut actor = Actor::with(16, words);
        let command = as_nobody(&restoring(&snapshot, &actor, &[]), capabilities);
        let daemon = Daemon::spawn(with_device_for_all(&lab, &command));
        daemon.hear("serving");
        actor.assert_restored();
        daemon.end().assert(0, &["all memory is in place"]);
        std::fs::remove_file(lab.path("device")).expect("remove");
    }
    let mut actor = Actor::start(16);
    let command = as_nobody(&restoring(&snapshot, &actor, &[]), &both[..1]);
    run(command).assert(
        1,
        &[
            &format!("/proc/{}/mem", actor.pid()),
            "run as root",
            "CAP_DAC_OVERRIDE",
        ],
    );
    actor.assert_untouched();
}

#[test]
fn without_the_device_a_target_must_have_rights_of_its_own() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let daemon = Daemon::spawn(without_device(&restoring(&snapshot, &actor, &[])));
    daemon.hear("serving");
    actor.assert_restored();
    daemon.end().assert(0, &["all memory is in place"]);

    let mut actor = Actor::with(16, "nobody");
    let daemon = Daemon::spawn(without_device(&restoring(&snapshot, &actor, &[])));
    if unprivileged_may() {
        daemon.hear("serving");
        actor.assert_restored();
        daemon.end().assert(0, &[]);
        return;
    }
    daemon.end().assert(
        1,
        &[
            &actor.pid().to_string(),
            "/dev/userfaultfd",
            "CAP_SYS_PTRACE",
            "vm.unprivileged_userfaultfd",
        ],
    );
    actor.assert_untouched();
}

#[test]
fn a_traced_target_is_said_to_be_traced_and_by_whom() {
    let (_lab, snapshot) = Lab::with_snapshot(16);
    let mut actor = Actor::start(16);
    let stopped = uffd_restore::tracee::StoppedProcess::stop(
        actor.pid(),
        uffd_restore::tracee::DEFAULT_STOP_TIMEOUT,
    )
    .expect("stop");
    run(restoring(&snapshot, &actor, &[])).assert(
        1,
        &[
            "already traced",
            "stop that debugger",
            &std::process::id().to_string(),
        ],
    );
    stopped.release().expect("release");
    actor.assert_untouched();
}

/// One that serves cannot be looked into by others of its user, and is known nevertheless.
#[test]
fn the_pid_file_of_another_daemon_of_the_same_user_stays() {
    let (lab, snapshot) = Lab::with_snapshot(16);
    let folder = lab.path("run");
    std::fs::create_dir(&folder).expect("a folder");
    std::os::unix::fs::chown(&folder, Some(65534), Some(65534)).expect("chown");
    let option = format!("--pidfile={}/pid", folder.display());
    let mut actor = Actor::with(16, "nobody");
    let command = as_nobody(&restoring(&snapshot, &actor, &[&option]), &["sys_ptrace"]);
    let daemon = Daemon::spawn(with_device_for_all(&lab, &command));
    daemon.hear("serving");
    let other = Actor::with(16, "nobody");
    let command = as_nobody(&restoring(&snapshot, &other, &[&option]), &[]);
    run(command).assert(2, &["is that of process", "--pidfile"]);
    actor.assert_restored();
    daemon.end().assert(0, &["all memory is in place"]);
}
