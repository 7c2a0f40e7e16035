//! Stopping every thread of a process, although it may be creating new ones meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::error::TraceError;
use super::patience::Patience;
use super::procfs::{self, ThreadStat, ThreadStatus};
use super::thread::{Polled, Running, Stopped};

/// Every thread of a process, as far as it is known by now. Dropping it lets go of all that have stopped.
#[derive(Debug)]
pub(super) struct Roundup {
    pid: i32,
    timeout: Duration,
    running: BTreeMap<i32, Running>,
    stopped: BTreeMap<i32, Stopped>,
}

/// Lets all threads of process `pid` go. The leader comes last: if the process was killed, the kernel reports its end
/// only when all other threads have been reaped. Returns the first error, and lets the others go nevertheless.
pub(super) fn let_all_go(pid: i32, mut threads: BTreeMap<i32, Stopped>) -> Result<(), TraceError> {
    let leader = threads.remove(&pid);
    let mut first_error = Ok(());
    for thread in threads.into_values().chain(leader) {
        first_error = first_error.and(thread.let_go());
    }
    first_error
}

impl Drop for Roundup {
    fn drop(&mut self) {
        drop(let_all_go(self.pid, std::mem::take(&mut self.stopped)));
    }
}

impl Roundup {
    /// Stops all threads of the process with this id (of the leader, not of another thread).
    pub(super) fn of(pid: i32, timeout: Duration) -> Result<BTreeMap<i32, Stopped>, TraceError> {
        let mut roundup = Self {
            pid,
            timeout,
            running: BTreeMap::new(),
            stopped: BTreeMap::new(),
        };
        roundup.complete()?;
        Ok(std::mem::take(&mut roundup.stopped))
    }

    /// Passes over the list of threads until one finds nothing new. Only a running thread can create another one, so
    /// when all known ones stand still and the kernel counts no more than those, that is all.
    fn complete(&mut self) -> Result<(), TraceError> {
        let mut patience = Patience::lasting(self.timeout);
        loop {
            self.seize_new_ones()?;
            self.wait_for_all(&mut patience)?;
            let leader = self.leader_stat()?;
            // The list is not read atomically; a thread that comes and goes can hide another one from it. The count
            // includes a leader that has ended before the others.
            let known = self.stopped.len() + usize::from(leader.has_ended());
            if known == leader.threads && !self.stopped.is_empty() {
                return Ok(());
            }
            if leader.has_ended() && leader.threads <= 1 {
                return Err(self.ended(&leader));
            }
            if !patience.wait() {
                return Err(self.not_stopping(self.pid));
            }
        }
    }

    fn leader_stat(&self) -> Result<ThreadStat, TraceError> {
        ThreadStat::read(self.pid).map_err(|error| match error {
            TraceError::NoSuchProcess { .. } if !self.stopped.is_empty() => {
                TraceError::Ended { pid: self.pid }
            }
            other => other,
        })
    }

    /// It ended before anything of it had been stopped, or because somebody killed it meanwhile.
    fn ended(&self, leader: &ThreadStat) -> TraceError {
        if self.stopped.is_empty() {
            TraceError::Zombie {
                pid: self.pid,
                name: leader.name.clone(),
            }
        } else {
            TraceError::Ended { pid: self.pid }
        }
    }

    /// First all are asked to stop and only then is anybody waited for, so that they stop as close together as possible.
    fn seize_new_ones(&mut self) -> Result<(), TraceError> {
        for tid in procfs::thread_ids(self.pid)? {
            if self.running.contains_key(&tid) || self.stopped.contains_key(&tid) {
                continue;
            }
            self.seize(tid)?;
        }
        Ok(())
    }

    fn seize(&mut self, tid: i32) -> Result<(), TraceError> {
        const ATTEMPTS: u32 = 3;
        let mut attempt = 1;
        loop {
            match Running::seize(Pid::from_raw(tid)) {
                Ok(thread) => {
                    thread.interrupt()?;
                    self.running.insert(tid, thread);
                    return Ok(());
                }
                Err(Errno::ESRCH) => return Ok(()),
                // Another tracer may have let go between the refusal and the question why.
                Err(Errno::EPERM) => match self.explain_refusal(tid) {
                    Err(TraceError::NotPermitted { .. }) if attempt < ATTEMPTS => attempt += 1,
                    explained => return explained,
                },
                Err(errno) => {
                    return Err(TraceError::Ptrace {
                        doing: "seize",
                        tid,
                        errno,
                    });
                }
            }
        }
    }

    /// EPERM has many meanings. Ok when the thread has ended meanwhile: then nothing was refused.
    fn explain_refusal(&self, tid: i32) -> Result<(), TraceError> {
        let (stat, status) = match (ThreadStat::read(tid), ThreadStatus::read(tid)) {
            (Ok(stat), Ok(status)) => (stat, status),
            (Err(TraceError::NoSuchProcess { .. }), _)
            | (_, Err(TraceError::NoSuchProcess { .. })) => return Ok(()),
            (Err(error), _) | (_, Err(error)) => return Err(error),
        };
        if stat.has_ended() {
            return Ok(());
        }
        if status.tracer != 0 {
            // TracerPid is the id of the tracing thread.
            let tracer =
                ThreadStatus::read(status.tracer).map_or(status.tracer, |tracer| tracer.process);
            let tracer_name = procfs::name_of(tracer);
            return Err(TraceError::AlreadyTraced {
                pid: self.pid,
                tid,
                tracer,
                tracer_name,
            });
        }
        Err(TraceError::NotPermitted {
            pid: self.pid,
            name: stat.name,
            uid: status.uid,
            yama: procfs::yama_hint(),
        })
    }

    fn wait_for_all(&mut self, patience: &mut Patience) -> Result<(), TraceError> {
        while let Some((&tid, _)) = self.running.first_key_value() {
            self.poll_all()?;
            if self.stopped_ones_have_ended() {
                self.recheck_stopped()?;
            }
            if !self.running.is_empty() && !patience.wait() {
                return Err(self.not_stopping(tid));
            }
        }
        Ok(())
    }

    /// True when a thread that had stopped is no more: the process was killed, or another thread has called execve(2). Both
    /// wait for us to take note of its end, and so would we for them.
    fn stopped_ones_have_ended(&self) -> bool {
        let waits = !self.running.is_empty();
        self.stopped.keys().next_back().is_some_and(|&tid| {
            waits && !ThreadStat::read_in(self.pid, tid).is_ok_and(|stat| stat.state == 't')
        })
    }

    fn poll_all(&mut self) -> Result<(), TraceError> {
        let mut replaced = false;
        for (tid, thread) in std::mem::take(&mut self.running) {
            match thread.poll()? {
                Polled::Running(thread) => drop(self.running.insert(tid, thread)),
                Polled::Stopped(thread) => drop(self.stopped.insert(tid, thread)),
                Polled::Ended => {}
                Polled::Unknown => replaced = true,
            }
        }
        if replaced {
            self.recheck_stopped()
        } else {
            Ok(())
        }
    }

    /// A thread that calls execve(2) ends all others and takes the leader's id: the leader that we had stopped is gone,
    /// and its id now belongs to a thread that still has to stop.
    fn recheck_stopped(&mut self) -> Result<(), TraceError> {
        for (tid, thread) in std::mem::take(&mut self.stopped) {
            match ThreadStat::read(tid) {
                Ok(stat) if stat.state == 't' => drop(self.stopped.insert(tid, thread)),
                _ => {
                    let thread = thread.was_replaced();
                    thread.interrupt()?;
                    self.running.insert(tid, thread);
                }
            }
        }
        Ok(())
    }

    fn not_stopping(&self, tid: i32) -> TraceError {
        procfs::not_stopping(self.pid, tid, self.timeout)
    }
}
