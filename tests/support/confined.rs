//! How confined the threads of a process are, by what the kernel says of them.

use std::fs;

/// Bits of capabilities that a daemon may have while it serves; some places do not let limits be raised, and need CAP_SYS_NICE.
pub const CAP_DAC_OVERRIDE: u64 = 1 << 1;
pub const CAP_KILL: u64 = 1 << 5;
pub const CAP_SYS_PTRACE: u64 = 1 << 19;
pub const CAP_SYS_NICE: u64 = 1 << 23;

/// A thread.
#[derive(Debug)]
pub struct Thread {
    pub name: String,
    pub permitted: u64,
    pub bounding: u64,
    pub no_new_privileges: bool,
    /// Filters of system calls: 0 none, 2 some.
    pub seccomp: u64,
}

/// All threads of a process.
pub fn threads(pid: i32) -> Vec<Thread> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives");
    tasks
        .map(|task| task.expect("listed").path().join("status"))
        .filter_map(|status| fs::read_to_string(status).ok())
        .map(|status| {
            let value = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_else(|| panic!("no {name} in {status}"))
                    .trim()
            };
            let mask = |name| u64::from_str_radix(value(name), 16).expect("a mask");
            Thread {
                name: value("Name:").to_owned(),
                permitted: mask("CapPrm:"),
                bounding: mask("CapBnd:"),
                no_new_privileges: value("NoNewPrivs:") == "1",
                seccomp: value("Seccomp:").parse().expect("a number"),
            }
        })
        .collect()
}

/// None of them may do more than `most`, and their system calls are looked at.
#[track_caller]
pub fn assert_confined(pid: i32, most: u64) {
    let threads = threads(pid);
    assert!(threads.len() > 1, "{threads:?}");
    for thread in &threads {
        assert_eq!(thread.permitted & !(most | CAP_SYS_NICE), 0, "{thread:x?}");
        assert!(
            thread.no_new_privileges && thread.seccomp == 2,
            "{thread:x?}"
        );
    }
}

/// The same of what they could execute. Under a service manager that gives no CAP_SETPCAP, its own bounds stay, and only the lack of new
/// privileges counts.
#[track_caller]
pub fn assert_bounded(pid: i32, most: u64) {
    let threads = threads(pid);
    let serving = threads
        .iter()
        .find(|thread| thread.permitted & CAP_KILL != 0);
    let bounding = serving.expect("one that serves").bounding;
    assert_eq!(bounding & !(most | CAP_SYS_NICE), 0, "{bounding:x}");
}
