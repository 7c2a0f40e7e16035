//! The processes that a daemon consists of.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The process that serves for a keeper, if there is one.
pub fn worker_of(keeper: i32) -> Option<i32> {
    child_called("uffd-worker", keeper)
}

/// The process that watches over a keeper, if there is one.
pub fn guard_of(keeper: i32) -> Option<i32> {
    child_called("uffd-guard", keeper)
}

fn child_called(name: &str, keeper: i32) -> Option<i32> {
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let mut pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|&pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let (head, tail) = stat.rsplit_once(") ").unwrap_or_default();
        let mut fields = tail.split(' ');
        let dead = fields.next().is_none_or(|state| state == "Z");
        let parent = fields.next().and_then(|parent| parent.parse().ok());
        !dead && head.ends_with(&format!("({name}")) && parent == Some(keeper)
    })
}

/// Sends a signal to a daemon, given by the process that was started. What nobody can pass on goes to the process that serves as well,
/// so that nobody takes over: SIGKILL, SIGSTOP, SIGCONT.
pub fn signal_daemon(keeper: i32, signal: Signal) {
    let send = |pid| {
        let _ = kill(Pid::from_raw(pid), signal);
    };
    let alone = !matches!(signal, Signal::SIGKILL | Signal::SIGSTOP | Signal::SIGCONT);
    if !alone {
        // As long as the keeper stands still nobody is replaced.
        let _ = kill(Pid::from_raw(keeper), Signal::SIGSTOP);
        super::wait_until("the keeper stands still", || {
            matches!(super::state(keeper), 'T' | 'Z' | 'X' | '?')
        });
        if let Some(worker) = worker_of(keeper) {
            send(worker);
            let state = || super::state(worker);
            super::wait_until("the worker hears it", || match signal {
                Signal::SIGSTOP => state() == 'T',
                Signal::SIGKILL => matches!(state(), 'Z' | 'X' | '?'),
                _ => true,
            });
        }
    }
    send(keeper);
}
