//! System calls that end the process.

use crate::deeds::{Fate, Other, attempt};

/// What none of the plans allows.
const NEVER: &[&str] = &[
    "execve",
    "write-memory",
    "openat2",
    "creat",
    "internet",
    "unix-socket",
    "netlink",
    "connect",
    "bind",
    "ptrace",
    "process-vm-readv",
    "process-vm-writev",
    "pidfd-getfd",
    "kill",
    "terminate",
    "fork",
    "unshare",
    "setns",
    "executable",
    "make-executable",
    "type",
    "new-userfaultfd",
    "userfaultfd",
    "register",
    "capset",
    "setuid",
    "show-myself",
    "another-filter",
    "raise-limit",
    "others-limit",
    "others-priority",
    "others-cores",
    "mount",
    "chroot",
    "bpf",
    "perf",
    "io-uring",
    "keys",
    "module",
    "reboot",
    "chmod",
    "handler",
];

/// What must go on working.
const ALWAYS: &[&str] = &["nothing", "read", "thread"];

#[track_caller]
fn killed(plan: &str, deeds: &[&str]) {
    let other = Other::start();
    for deed in deeds {
        let words = format!("{plan} {deed} {}", other.pid());
        assert_eq!(attempt(&words), Fate::Killed, "{words}");
    }
}

#[track_caller]
fn answered(words: &str, answer: &str) {
    assert_eq!(attempt(words), Fate::Answered(answer.into()), "{words}");
}

#[test]
fn who_serves_a_process() {
    killed("process", NEVER);
    killed(
        "process",
        &["create", "append", "accept", "agree", "rename"],
    );
    ALWAYS
        .iter()
        .for_each(|deed| answered(&format!("process {deed}"), "done"));
}

#[test]
fn who_listens() {
    killed("listening", NEVER);
    killed("listening", &["create", "append", "agree", "rename"]);
    answered("listening accept", "EBADF");
    ALWAYS
        .iter()
        .for_each(|deed| answered(&format!("listening {deed}"), "done"));
}

#[test]
fn who_serves_criu() {
    killed("criu", NEVER);
    killed("criu", &["create", "append", "rename"]);
    // Standard input is no userfaultfd.
    assert_ne!(attempt("criu agree"), Fate::Killed);
}

/// Who records writes files, and can do no more beside that.
#[test]
fn who_records() {
    let never: Vec<_> = NEVER
        .iter()
        .copied()
        .filter(|deed| *deed != "write-memory")
        .collect();
    killed("recording", &never);
    assert_ne!(attempt("recording rename"), Fate::Killed);
}

/// The flags of clone3 are where no filter can see them: the C library is told that there is none, and uses clone.
#[test]
fn clone3_does_not_exist() {
    answered("process clone3", "ENOSYS");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_another_architecture() {
    killed("process", &["other-architecture"]);
}

/// It can end itself, and no other way than that is open to it.
#[test]
fn aborting_is_allowed() {
    let mut target = crate::support::Target::start("confined", "process abort");
    assert_eq!(target.hear(), "confined");
    target.tell("now");
    let status = target.end();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(signal, Some(libc::SIGABRT));
}

/// Without it all of that would have to be looked for elsewhere.
#[test]
fn no_seccomp_is_for_debugging() {
    answered("process open clone3", "EINVAL");
    answered("process open unix-socket", "done");
}
