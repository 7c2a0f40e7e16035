//! Stopping every thread of a process, although it may be creating new ones meanwhile.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::error::TraceError;
use super::procfs::{self, ThreadStat, ThreadStatus};
use super::thread::{Polled, Running, Stopped};

/// Waiting for something that no descriptor tells about: first by giving the processor away, then by ever longer naps.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Instant,
    looks: u32,
}

impl Patience {
    pub(super) fn until(deadline: Instant) -> Self {
        Self { deadline, looks: 0 }
    }

    /// Waits a little. False when the time is over.
    pub(super) fn wait(&mut self) -> bool {
        self.looks = self.looks.saturating_add(1);
        match self.looks {
            0..=200 => thread::yield_now(),
            201..=1000 => thread::sleep(Duration::from_micros(20)),
            _ => thread::sleep(Duration::from_millis(1)),
        }
        Instant::now() < self.deadline
    }
}

/// Every thread of a process, as far as it is known by now. Dropping it lets go of all that have stopped.
#[derive(Debug)]
pub(super) struct Roundup {
    pid: i32,
    timeout: Duration,
    running: BTreeMap<i32, Running>,
    stopped: BTreeMap<i32, Stopped>,
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
        Ok(roundup.stopped)
    }

    /// Passes over the list of threads until one finds nothing new. Only a running thread can create another one, so
    /// when all known ones stand still and the kernel counts no more than those, that is all.
    fn complete(&mut self) -> Result<(), TraceError> {
        let mut patience = Patience::until(Instant::now() + self.timeout);
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
            match Running::seize(Pid::from_raw(tid)) {
                Ok(thread) => {
                    thread.interrupt()?;
                    self.running.insert(tid, thread);
                }
                Err(Errno::ESRCH) => {}
                Err(Errno::EPERM) => self.explain_refusal(tid)?,
                Err(errno) => {
                    return Err(TraceError::Ptrace {
                        doing: "seize",
                        tid,
                        errno,
                    });
                }
            }
        }
        Ok(())
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
            let tracer_name = procfs::name_of(status.tracer);
            return Err(TraceError::AlreadyTraced {
                pid: self.pid,
                tid,
                tracer: status.tracer,
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
            if !self.running.is_empty() && !patience.wait() {
                return Err(self.not_stopping(tid));
            }
        }
        Ok(())
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
        let (pid, timeout, wchan) = (self.pid, self.timeout, procfs::wait_channel(tid));
        match ThreadStat::read(tid).map_or('?', |stat| stat.state) {
            'D' => TraceError::Uninterruptible {
                pid,
                tid,
                wchan,
                timeout,
            },
            state => TraceError::NotStopping {
                pid,
                tid,
                state,
                wchan,
                timeout,
            },
        }
    }
}
