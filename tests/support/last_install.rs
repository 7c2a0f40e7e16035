//! The process that serves is killed at the worst moment: the kernel has installed something for it, and it does not know yet.
#![expect(unsafe_code, reason = "a union that nix leaves as it is")]

use std::collections::HashMap;
use std::fs;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use uffd_restore::uffd::abi::UFFDIO_COPY;

/// Kills a worker when a call returns by which it has installed content. `watching` is called when that can no longer be missed, and makes
/// somebody ask for it. Returns when the worker is dead.
pub fn kill_at_next_install(worker: i32, watching: impl FnOnce() + Send) {
    // A thread of its own: what it waits for is what it traces, and no child of the test's.
    std::thread::scope(|scope| {
        scope.spawn(|| kill_by_this_thread(worker, watching));
    });
}

fn kill_by_this_thread(worker: i32, watching: impl FnOnce()) {
    let threads = seize(worker);
    watching();
    watch(worker, &threads);
    // Until then the keeper does not hear of it.
    loop {
        match waitpid(None, Some(ours())) {
            Err(Errno::ECHILD) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// Only what this thread traces.
fn ours() -> WaitPidFlag {
    WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD
}

/// All threads, each stopping at every call.
fn seize(worker: i32) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{worker}/task")).expect("a worker");
    let tasks = tasks.map(|task| task.expect("a thread").file_name());
    let threads: Vec<Pid> = tasks
        .map(|name| {
            Pid::from_raw(
                name.to_str()
                    .and_then(|name| name.parse().ok())
                    .expect("a number"),
            )
        })
        .collect();
    for &thread in &threads {
        ptrace::seize(thread, ptrace::Options::PTRACE_O_TRACESYSGOOD).expect("seize");
        ptrace::interrupt(thread).expect("interrupt");
        let stopped = waitpid(thread, Some(ours())).expect("a stop");
        assert!(
            matches!(stopped, WaitStatus::PtraceEvent(..)),
            "{stopped:?}"
        );
        ptrace::syscall(thread, None).expect("go on");
    }
    threads
}

/// Until a copy returns that went well.
fn watch(worker: i32, threads: &[Pid]) {
    let mut copies: HashMap<Pid, bool> = HashMap::new();
    loop {
        let stopped = waitpid(None, Some(ours())).expect("a stop");
        let thread = stopped.pid().expect("a thread");
        assert!(threads.contains(&thread), "{stopped:?}");
        let mut signal = None;
        match stopped {
            WaitStatus::PtraceSyscall(_) => {
                let info = ptrace::syscall_info(thread).expect("a call");
                if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
                    // SAFETY: that is what `op` says is there.
                    let entry = unsafe { info.u.entry };
                    let is_copy = i64::try_from(entry.nr) == Ok(libc::SYS_ioctl)
                        && entry.args[1] == UFFDIO_COPY;
                    copies.insert(thread, is_copy);
                } else if copies.get(&thread) == Some(&true) {
                    // SAFETY: as above: the only other stop at a call is that at its end.
                    let exit = unsafe { info.u.exit };
                    if exit.sval == 0 {
                        kill(Pid::from_raw(worker), Signal::SIGKILL).expect("kill");
                        return;
                    }
                }
            }
            WaitStatus::Stopped(_, its) => signal = Some(its),
            WaitStatus::PtraceEvent(..) => {}
            other => panic!("{other:?}"),
        }
        ptrace::syscall(thread, signal).expect("go on");
    }
}
