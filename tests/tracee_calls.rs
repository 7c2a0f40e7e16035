//! What a thread that sleeps in the kernel notices of being stopped and let go: nothing.
#![expect(
    unsafe_code,
    reason = "raw system calls, exactly those that are to be interrupted"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
#[path = "support/sleeping.rs"]
mod sleeping;
mod support;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use sleepers::{block, descriptor, leak, syscall};
use sleeping::{Sleepers, sleeps_in};
use support::{Target, hear, play_role, say, wait_until};
use uffd_restore::tracee::{DEFAULT_STOP_TIMEOUT, StoppedProcess};

#[test]
fn role() {
    play_role(&[
        ("sleepers", sleeping::play),
        ("ticker", ticker),
        ("waiter", waiter),
    ]);
}

#[test]
fn no_sleeping_call_returns_because_of_a_stop() {
    let mut sleepers = Sleepers::start();
    for round in 0..100 {
        sleepers.wait_until_all_sleep();
        let stopped = StoppedProcess::stop(sleepers.pid(), DEFAULT_STOP_TIMEOUT).expect("stop");
        assert!(stopped.threads() > sleepers.threads.len());
        stopped.release().expect("release");
        assert_eq!(
            sleepers.returned(),
            "",
            "calls that returned in round {round}"
        );
    }
    sleepers.finish();
}

static TICKS: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_tick(_: i32) {
    TICKS.fetch_add(1, Ordering::SeqCst);
}

fn handle(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handlers of this file only increment an atomic.
    let before = unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
}

/// Counts the ticks of an interval timer and of a timerfd.
fn ticker(_: &[&str]) {
    handle(libc::SIGALRM, count_tick);
    let millisecond = libc::timeval {
        tv_sec: 0,
        tv_usec: 1000,
    };
    let interval = leak(libc::itimerval {
        it_interval: millisecond,
        it_value: millisecond,
    });
    assert_eq!(syscall(libc::SYS_setitimer, [0, interval, 0, 0, 0, 0]), 0);
    let timer = descriptor(libc::SYS_timerfd_create, [1, 0, 0, 0, 0, 0]);
    let millisecond = libc::timespec {
        tv_sec: 0,
        tv_nsec: 1_000_000,
    };
    let interval = leak(libc::itimerspec {
        it_interval: millisecond,
        it_value: millisecond,
    });
    assert_eq!(
        syscall(libc::SYS_timerfd_settime, [timer, 0, interval, 0, 0, 0]),
        0
    );
    // SAFETY: the descriptor was just created and belongs to nobody else.
    let timer = unsafe { OwnedFd::from_raw_fd(i32::try_from(timer).expect("fd")) };
    let expirations: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    thread::spawn(move || {
        let descriptor = usize::try_from(timer.as_raw_fd()).expect("fd");
        loop {
            if syscall(libc::SYS_read, [descriptor, leak(0_u64), 8, 0, 0, 0]) == 8 {
                expirations.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    say("ready");
    while hear().is_some() {
        say(&format!(
            "{} {}",
            TICKS.load(Ordering::SeqCst),
            expirations.load(Ordering::SeqCst)
        ));
    }
    support::end();
}

#[test]
fn timers_go_on() {
    let mut target = Target::start("ticker", "");
    target.hear();
    for _ in 0..50 {
        target.tell("ticks");
        let before = target.hear_numbers();
        StoppedProcess::stop(target.pid(), DEFAULT_STOP_TIMEOUT)
            .expect("stop")
            .release()
            .expect("release");
        wait_until("both timers to go on", || {
            target.tell("ticks");
            let now = target.hear_numbers();
            now[0] > before[0] && now[1] > before[1]
        });
    }
    target.finish();
}

static HANDLED: AtomicUsize = AtomicUsize::new(0);

extern "C" fn count_handled(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// Waits in `epoll_pwait` for a signal that is blocked outside of it, as a careful program does: says the number of
/// signals handled each time the call returns.
fn waiter(_: &[&str]) {
    handle(libc::SIGUSR1, count_handled);
    block(libc::SIGUSR1);
    let epoll = descriptor(libc::SYS_epoll_create1, [0; 6]);
    let (events, nothing_blocked) = (leak([0_u64; 8]), leak(0_u64));
    say(&format!("{}", nix::unistd::gettid()));
    let mut handled = 0;
    loop {
        let result = syscall(
            libc::SYS_epoll_pwait,
            [epoll, events, 1, usize::MAX, nothing_blocked, 8],
        );
        assert_eq!(
            result,
            -i64::from(libc::EINTR),
            "epoll_pwait returns for a signal only"
        );
        let now = HANDLED.load(Ordering::SeqCst);
        assert_eq!(
            now,
            handled + 1,
            "and for each signal once, after its handler"
        );
        handled = now;
        say(&handled.to_string());
    }
}

fn send(target: &Target, tid: i32) {
    let [pid, tid] = [target.pid(), tid].map(|id| usize::try_from(id).expect("positive"));
    let signal = usize::try_from(libc::SIGUSR1).expect("small");
    assert_eq!(syscall(libc::SYS_tgkill, [pid, tid, signal, 0, 0, 0]), 0);
}

#[test]
fn a_signal_during_the_stop_ends_the_call_once() {
    let mut target = Target::start("waiter", "");
    let tid = i32::try_from(target.hear_numbers()[0]).expect("tid");
    for round in 1..=200 {
        wait_until("the call", || sleeps_in(tid, libc::SYS_epoll_pwait));
        let stopped = StoppedProcess::stop(target.pid(), DEFAULT_STOP_TIMEOUT).expect("stop");
        send(&target, tid);
        stopped.release().expect("release");
        assert_eq!(target.hear_numbers(), [round]);
    }
}

#[test]
fn signals_at_any_moment_of_a_stop_end_the_call_once() {
    let mut target = Target::start("waiter", "");
    let tid = i32::try_from(target.hear_numbers()[0]).expect("tid");
    let pid = target.pid();
    let go_on: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let stopper = thread::spawn(move || {
        let mut stops = 0_u32;
        while go_on.load(Ordering::SeqCst) == 0 {
            StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT)
                .expect("stop")
                .release()
                .expect("release");
            stops += 1;
        }
        stops
    });
    for round in 1..=3000 {
        send(&target, tid);
        assert_eq!(target.hear_numbers(), [round]);
        // Another moment each time.
        thread::sleep(Duration::from_micros(round * 37 % 500));
    }
    go_on.store(1, Ordering::SeqCst);
    let stops = stopper.join().expect("the stopping thread");
    assert!(stops > 100, "only {stops} stops");
}
