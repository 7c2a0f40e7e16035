//! A whole process, standing still.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::error::TraceError;
use super::patience::Patience;
use super::procfs::{ThreadStat, ThreadStatus};
use super::roundup::{Roundup, let_all_go};
use super::sys;
use super::thread::{StopCause, Stopped};

/// How long to wait for all threads to stop before giving up.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// A process all of whose threads are stopped by us. Dropping it lets the process go on as it was.
///
/// Only the threads of this process stand still. Others that share memory with it do not: processes that map the same
/// shared memory, a child of vfork(2) or clone(CLONE_VM) that has not called execve(2) yet, and the kernel itself where
/// it carries out the process's asynchronous input (io_uring, AIO).
#[derive(Debug)]
pub struct StoppedProcess {
    pid: i32,
    threads: BTreeMap<i32, Stopped>,
    since: Instant,
}

/// How it went, once the process runs again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Released {
    /// From the first interrupt to the last detach.
    pub stood_still: Duration,
    /// Threads that were stopped and are still there.
    pub threads: usize,
}

impl StoppedProcess {
    /// Stops every thread of a process. `pid` may be the id of any of its threads, as it may for kill(2): the whole
    /// process is stopped, [`Self::pid`] is the leader's id.
    ///
    /// A leader that has ended while other threads live is fine. A process that was stopped by SIGSTOP is fine, and
    /// stays stopped afterwards.
    ///
    /// # Errors
    /// Every [`TraceError`]; threads that had been stopped by then have been let go.
    pub fn stop(pid: i32, timeout: Duration) -> Result<Self, TraceError> {
        let pid = check(pid)?;
        let since = Instant::now();
        let threads = Roundup::of(pid, timeout)?;
        Ok(Self {
            pid,
            threads,
            since,
        })
    }

    /// The process id (the thread group's id).
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The ids of the threads that stand still, in ascending order.
    #[must_use]
    pub fn thread_ids(&self) -> Vec<i32> {
        self.threads.keys().copied().collect()
    }

    /// One of the threads, None if this process has no such thread.
    #[must_use]
    pub fn thread(&self, tid: i32) -> Option<&Stopped> {
        self.threads.get(&tid)
    }

    pub(super) fn thread_mut(&mut self, tid: i32) -> Option<&mut Stopped> {
        self.threads.get_mut(&tid)
    }

    pub(super) fn all_threads(&self) -> impl Iterator<Item = &Stopped> {
        self.threads.values()
    }

    /// How many threads stand still.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }

    /// A thread through which the process's memory can be reached (`/proc/TID`, process_vm_readv(2)): a leader that has
    /// ended before the others has none any more.
    #[must_use]
    pub fn memory_tid(&self) -> i32 {
        let any = self.threads.keys().next().copied().unwrap_or(self.pid);
        if self.threads.contains_key(&self.pid) {
            self.pid
        } else {
            any
        }
    }

    /// True when the process had been stopped by a signal before we came.
    #[must_use]
    pub fn was_stopped_before(&self) -> bool {
        self.threads
            .values()
            .any(|thread| thread.cause() == StopCause::GroupStop)
    }

    /// Makes sure that the process still stands where it was stopped. SIGKILL is the one thing that moves it, and then
    /// its address space may be gone: whatever was read since the last check may be nothing.
    ///
    /// # Errors
    /// [`TraceError::Ended`]; [`TraceError::Proc`] when it cannot be found out.
    pub fn check_still_there(&self) -> Result<(), TraceError> {
        match ThreadStat::read_in(self.pid, self.memory_tid()) {
            Ok(stat) if stat.state == 't' => Ok(()),
            Ok(_) | Err(TraceError::NoSuchProcess { .. }) => {
                Err(TraceError::Ended { pid: self.pid })
            }
            Err(unknown) => Err(unknown),
        }
    }

    /// From now until it is let go: if this program ends, whatever ends it, the kernel kills the process
    /// (PTRACE_O_EXITKILL). For when it must not go on as it is.
    ///
    /// # Errors
    /// [`TraceError::Ptrace`]; [`TraceError::Ended`] when the process was killed.
    pub fn kill_if_we_die(&mut self) -> Result<(), TraceError> {
        for thread in self.threads.values_mut() {
            thread.lasting_options = sys::EXIT_KILL;
            sys::set_options(thread.tid(), thread.lasting_options)
                .map_err(|errno| thread.failed("set the trace options of", errno))?;
        }
        Ok(())
    }

    /// Lets all threads go on as if they had never been stopped.
    ///
    /// # Errors
    /// The first one that occurred; the other threads have been let go nevertheless.
    pub fn release(mut self) -> Result<Released, TraceError> {
        let threads = self.threads.len();
        let_all_go(self.pid, std::mem::take(&mut self.threads))?;
        Ok(Released {
            stood_still: self.since.elapsed(),
            threads,
        })
    }

    /// Detaches, but leaves the process stopped as if by SIGSTOP: state T, until somebody sends SIGCONT. No thread
    /// executes a single instruction in between.
    ///
    /// # Errors
    /// [`TraceError::Ptrace`]; [`TraceError::Ended`] when the process was killed.
    pub fn leave_stopped(mut self) -> Result<Released, TraceError> {
        let (threads, any) = (self.threads.len(), self.memory_tid());
        if !self.was_stopped_before() {
            for thread in self.threads.values() {
                send_sigstop(self.pid, thread)?;
            }
        }
        let_all_go(self.pid, std::mem::take(&mut self.threads))?;
        await_state_stopped(self.pid, any)?;
        Ok(Released {
            stood_still: self.since.elapsed(),
            threads,
        })
    }
}

impl Drop for StoppedProcess {
    /// The way out of errors and panics. A failure has nobody left to go to.
    fn drop(&mut self) {
        drop(let_all_go(self.pid, std::mem::take(&mut self.threads)));
    }
}

/// To each thread its own: with one signal for the process, a thread that is detached before another one has picked it
/// up would run on for a moment, and what it writes then would be in the stopped process but not in the copy. SIGCONT
/// takes back those that are left over.
fn send_sigstop(pid: i32, thread: &Stopped) -> Result<(), TraceError> {
    match sys::send_signal_to_thread(Pid::from_raw(pid), thread.tid(), libc::SIGSTOP) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(TraceError::Ptrace {
            doing: "send SIGSTOP to",
            tid: thread.tid().as_raw(),
            errno,
        }),
    }
}

fn await_state_stopped(pid: i32, tid: i32) -> Result<(), TraceError> {
    const MORE_THAN_ENOUGH: Duration = Duration::from_secs(5);
    let mut patience = Patience::lasting(MORE_THAN_ENOUGH);
    loop {
        match ThreadStat::read(tid) {
            Ok(stat) if stat.state == 'T' => return Ok(()),
            Ok(stat) if !stat.has_ended() => {
                // Somebody may have sent SIGCONT or attached a debugger by now; that is theirs to know.
                if !patience.wait() {
                    return Ok(());
                }
            }
            _ => return Err(TraceError::Ended { pid }),
        }
    }
}

/// What can be said before anything is touched. Returns the id of the process that the thread belongs to.
fn check(pid: i32) -> Result<i32, TraceError> {
    if pid <= 0 {
        return Err(TraceError::NoSuchProcess { pid });
    }
    let pid = ThreadStatus::read(pid)?.process;
    if pid == Pid::this().as_raw() {
        return Err(TraceError::Myself { pid });
    }
    let stat = ThreadStat::read(pid)?;
    if stat.kernel_thread {
        return Err(TraceError::KernelThread {
            pid,
            name: stat.name,
        });
    }
    if stat.has_ended() && stat.threads <= 1 {
        return Err(TraceError::Zombie {
            pid,
            name: stat.name,
        });
    }
    Ok(pid)
}
