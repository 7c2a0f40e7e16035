//! What tests of remote calls share.

use uffd_restore::tracee::{DEFAULT_STOP_TIMEOUT, RemoteCaller, StoppedProcess};

pub fn stop(pid: i32) -> StoppedProcess {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT).expect("stop")
}

/// The thread whose id the target says next.
pub fn hear_thread(target: &mut super::Target) -> i32 {
    i32::try_from(target.hear_numbers()[0]).expect("a thread's id")
}

pub fn assert_calls(caller: &mut RemoteCaller<'_>) {
    let tid = u64::try_from(caller.tid()).expect("positive");
    assert_eq!(caller.call(libc::SYS_gettid, [0; 6]).expect("gettid"), tid);
}

/// Fields of the thread's status that say how signals are handled.
pub fn signal_handling(tid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/status")).expect("status");
    let wanted = ["SigPnd", "SigBlk", "SigIgn", "SigCgt", "Seccomp"];
    text.lines()
        .filter(|line| wanted.iter().any(|field| line.starts_with(field)))
        .map(str::to_owned)
        .collect()
}
