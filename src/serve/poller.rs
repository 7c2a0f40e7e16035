//! Everything that can make the loop go on, in one place.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::{Pid, getppid};

use crate::readable::readable_within;
use crate::session::SpaceId;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ready {
    /// An address space has something to say.
    Space(SpaceId),
    /// The pool has finished something.
    Pool,
    /// The target has ended.
    TargetEnded,
    /// Somebody asks us to end.
    Signal,
    /// Another process of the restore has come, or none will any more.
    Arrival,
}

const POOL: u64 = 0;
const TARGET: u64 = 1;
const SIGNAL: u64 = 2;
const CLOCK: u64 = 3;
const ARRIVAL: u64 = 4;
const FIRST_SPACE: u64 = 16;

/// Signals that ask this program to end.
pub const ENDING_SIGNALS: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
];

/// Keeps the signals that ask this program to end from ending it at once, but for those that it was started to ignore
/// (nohup(1), a shell's background jobs). For the first thread, before it starts others.
///
/// # Errors
/// None is expected.
pub fn hold_signals() -> Result<(), Errno> {
    let ignored = ignored_signals();
    ENDING_SIGNALS
        .into_iter()
        .filter(|&signal| ignored & (1 << (signal as i32 - 1)) == 0)
        .collect::<SigSet>()
        .thread_block()
}

/// True when one of the signals that are held has come.
#[must_use]
pub fn asked_to_end() -> bool {
    held_signals().is_ok_and(|signals| readable_within(signals, Duration::ZERO))
}

/// Those that are held. The others end this program, or were ignored when it was started and stay so.
fn held_signals() -> Result<SignalFd, Errno> {
    let held = SigSet::thread_get_mask()?;
    let signals: SigSet = ENDING_SIGNALS
        .into_iter()
        .filter(|&signal| held.contains(signal))
        .collect();
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// One bit for each signal, from the lowest for signal 1 on.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// By what a session is asked to end.
#[derive(Debug)]
pub enum Orders {
    /// By the signals that [`hold_signals`] holds.
    Signals,
    /// By whoever writes 1 to this: the program has other sessions, and the signals are for all of them.
    Told(Arc<EventFd>),
}

enum Ending {
    Signals(SignalFd),
    Told(Arc<EventFd>),
}

impl Ending {
    fn of(orders: Orders) -> Result<Self, Errno> {
        Ok(match orders {
            Orders::Signals => Self::Signals(held_signals()?),
            Orders::Told(told) => Self::Told(told),
        })
    }

    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Signals(signals) => signals.as_fd(),
            Self::Told(told) => told.as_fd(),
        }
    }
}

pub(super) struct Poller {
    epoll: Epoll,
    ending: Ending,
    /// Makes the loop go on now and then. A timeout for each wait would be set and cancelled with every fault.
    clock: TimerFd,
    events: Vec<EpollEvent>,
}

impl Poller {
    /// [`Poller::wait`] returns at least every `tick`.
    pub(super) fn new(pool: BorrowedFd<'_>, orders: Orders, tick: Duration) -> Result<Self, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let ending = Ending::of(orders)?;
        epoll.add(pool, EpollEvent::new(EpollFlags::EPOLLIN, POOL))?;
        epoll.add(ending.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, SIGNAL))?;
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let ticks = Expiration::Interval(TimeSpec::from_duration(tick));
        clock.set(ticks, TimerSetTimeFlags::empty())?;
        epoll.add(&clock, EpollEvent::new(EpollFlags::EPOLLIN, CLOCK))?;
        Ok(Self {
            epoll,
            ending,
            clock,
            events: vec![EpollEvent::empty(); 64],
        })
    }

    /// Watches for the end of the target.
    pub(super) fn add_target(&self, target: impl AsFd) -> Result<(), Errno> {
        self.epoll
            .add(target, EpollEvent::new(EpollFlags::EPOLLIN, TARGET))
    }

    /// Watches for processes that are yet to come.
    pub(super) fn add_arrivals(&self, bell: impl AsFd) -> Result<(), Errno> {
        self.epoll
            .add(bell, EpollEvent::new(EpollFlags::EPOLLIN, ARRIVAL))
    }

    /// Watches the userfaultfd of an address space.
    pub(super) fn add(&self, id: SpaceId, descriptor: impl AsFd) -> Result<(), Errno> {
        self.epoll.add(
            descriptor,
            EpollEvent::new(EpollFlags::EPOLLIN, FIRST_SPACE + id.0),
        )
    }

    /// Watches no more. Closing a descriptor does that too.
    pub(super) fn remove(&self, descriptor: impl AsFd) {
        let _ = self.epoll.delete(descriptor);
    }

    /// Waits until something happens, or the time for a look around has come; and no longer than `most`.
    pub(super) fn wait(
        &mut self,
        most: Option<Duration>,
        ready: &mut Vec<Ready>,
    ) -> Result<(), Errno> {
        ready.clear();
        let timeout = match most {
            None => EpollTimeout::NONE,
            // In milliseconds, and not too soon: that would be to look again and again.
            Some(most) => {
                EpollTimeout::try_from(most.as_micros().div_ceil(1000)).unwrap_or(EpollTimeout::MAX)
            }
        };
        let count = match self.epoll.wait(&mut self.events, timeout) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno),
        };
        ready.extend(
            self.events
                .iter()
                .take(count)
                .filter_map(|event| match event.data() {
                    POOL => Some(Ready::Pool),
                    TARGET => Some(Ready::TargetEnded),
                    SIGNAL => Some(Ready::Signal),
                    ARRIVAL => Some(Ready::Arrival),
                    CLOCK => {
                        // Silent until the next tick. Somebody waited for it, or it would not be here.
                        let _ = self.clock.wait();
                        None
                    }
                    space => Some(Ready::Space(SpaceId(space - FIRST_SPACE))),
                }),
        );
        Ok(())
    }

    /// Waits until [`Poller::wait`] has something, or a time that is too short for it has passed.
    pub(super) fn pause(&self, most: Duration) {
        let mut asked = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        // Interrupted, it is as if the time had passed.
        let _ = ppoll(&mut asked, Some(TimeSpec::from_duration(most)), None);
    }

    /// The signals that have come.
    pub(super) fn signals(&self) -> Vec<Signal> {
        match &self.ending {
            Ending::Signals(signals) => come(signals),
            Ending::Told(told) => match told.read() {
                Ok(requests) => {
                    // Each is one of its own: the others come next time.
                    if requests > 1 {
                        let _ = told.write(requests - 1);
                    }
                    vec![Signal::SIGTERM]
                }
                Err(_) => Vec::new(),
            },
        }
    }
}

/// How far apart the same signal may come by two ways.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// The process that passes signals on, as long as it is the parent of this one; 0 if there is none.
static OBEYED: AtomicI32 = AtomicI32::new(0);

/// From now on the parent of this process passes on what is sent to it. A service manager tells both, and the same signal twice means
/// another thing.
pub fn obey_only(parent: Pid) {
    OBEYED.store(parent.as_raw(), Ordering::Relaxed);
}

/// True for a signal that counts: one that is not passed on, and not the same as the last one by another way.
fn counts(signal: Signal, from: u32) -> bool {
    static LAST: Mutex<Option<(Signal, u32, Instant)>> = Mutex::new(None);
    let obeyed = OBEYED.load(Ordering::Relaxed);
    if obeyed == 0 || getppid().as_raw() != obeyed {
        return true;
    }
    let now = Instant::now();
    let this = Some((signal, from, now));
    let last = mem::replace(
        &mut *LAST.lock().unwrap_or_else(PoisonError::into_inner),
        this,
    );
    let again = last.is_some_and(|(last, who, when)| {
        last == signal && who != from && now.duration_since(when) < ONE_SIGNAL
    });
    // That one is the parent's to act on.
    signal != Signal::SIGUSR1 && !again
}

/// The signals that have come.
fn come(signals: &SignalFd) -> Vec<Signal> {
    std::iter::from_fn(|| signals.read_signal().ok().flatten())
        .filter_map(|come| {
            let signal = Signal::try_from(come.ssi_signo.cast_signed()).ok()?;
            counts(signal, come.ssi_pid).then_some(signal)
        })
        .collect()
}

/// The signals that ask this program to end, for who has several sessions.
#[derive(Debug)]
pub struct EndingSignals(SignalFd);

impl EndingSignals {
    /// Those that are held.
    ///
    /// # Errors
    /// No descriptor, no memory.
    pub fn held() -> Result<Self, Errno> {
        held_signals().map(Self)
    }

    /// Those that have come since the last call.
    #[must_use]
    pub fn come(&self) -> Vec<Signal> {
        come(&self.0)
    }
}

impl AsFd for EndingSignals {
    /// Readable when one has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
