//! Signals, stops and the end that come while a stopped process is made to call the kernel.
#![expect(unsafe_code, reason = "a target that counts its signals")]

#[path = "support/sleepers.rs"]
mod sleepers;
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sleepers::{leak, syscall};
use support::calling::{assert_calls, hear_thread, signal_handling, stop};
use support::{Target, assert_left_alone, hear, play_role, say, state, wait_until};
use uffd_restore::tracee::{RemoteCallError, StopCause, TraceError};

#[test]
fn role() {
    play_role(&[("handler", handler)]);
}

/// Two real-time signals of which none may get lost, and two of the old kind.
const QUEUED: i32 = 40;
const COUNTED: [i32; 4] = [QUEUED, libc::SIGUSR1, libc::SIGSEGV, libc::SIGTRAP];
static HANDLED: [AtomicU64; 4] = [const { AtomicU64::new(0) }; 4];
/// Signals that said to come from somebody other than the parent, which sends all of them.
static FORGED: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(signal: i32, info: *const libc::siginfo_t, _: *const libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo_t to handlers that were installed with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: signals sent by tgkill have the sender's id.
    let sender = unsafe { info.si_pid() };
    let parent = std::os::unix::process::parent_id();
    if info.si_code != libc::SI_TKILL || u32::try_from(sender) != Ok(parent) {
        FORGED.fetch_add(1, Ordering::SeqCst);
    }
    let index = COUNTED.iter().position(|counted| *counted == signal);
    HANDLED[index.expect("one of them")].fetch_add(1, Ordering::SeqCst);
}

/// A thread that handles signals, in user mode or (`sleeping`) in a call that returns for nothing else.
fn handler(words: &[&str]) {
    let sleeping = words.contains(&"sleeping");
    for signal in COUNTED {
        let action = leak(libc::sigaction {
            sa_sigaction: count as *const () as libc::sighandler_t,
            // SAFETY: an empty set is all zeros.
            sa_mask: unsafe { std::mem::zeroed() },
            sa_flags: libc::SA_SIGINFO,
            sa_restorer: None,
        });
        // SAFETY: the handler uses atomics only.
        let result = unsafe {
            libc::sigaction(
                signal,
                std::ptr::with_exposed_provenance(action),
                std::ptr::null_mut(),
            )
        };
        assert_eq!(result, 0);
    }
    thread::spawn(move || {
        say(&nix::unistd::gettid().to_string());
        loop {
            if sleeping {
                assert_eq!(syscall(libc::SYS_pause, [0; 6]), -i64::from(libc::EINTR));
            }
            std::hint::spin_loop();
        }
    });
    while hear().is_some() {
        let handled = HANDLED.iter().map(|count| count.load(Ordering::SeqCst));
        let words: Vec<String> = handled
            .chain([FORGED.load(Ordering::SeqCst)])
            .map(|count| count.to_string())
            .collect();
        say(&words.join(" "));
    }
    support::end();
}

fn handled(target: &mut Target) -> Vec<u64> {
    target.tell("report");
    target.hear_numbers()
}

fn send(pid: i32, tid: i32, signal: i32) {
    let [pid, tid, signal] = [pid, tid, signal].map(|n| usize::try_from(n).expect("positive"));
    assert_eq!(syscall(libc::SYS_tgkill, [pid, tid, signal, 0, 0, 0]), 0);
}

#[test]
fn signals_between_calls_are_delivered_once_when_let_go() {
    for kind in ["running", "sleeping"] {
        let mut target = Target::start("handler", kind);
        let tid = hear_thread(&mut target);
        let pid = target.pid();
        let before = signal_handling(tid);
        for round in 1..=50 {
            let mut stopped = stop(pid);
            send(pid, tid, QUEUED);
            let mut caller = stopped.caller_in(tid).expect("caller");
            send(pid, tid, libc::SIGSEGV);
            assert_calls(&mut caller);
            send(pid, tid, QUEUED);
            send(pid, tid, libc::SIGUSR1);
            assert_calls(&mut caller);
            send(pid, tid, libc::SIGTRAP);
            assert_calls(&mut caller);
            caller.finish().expect("finish");
            let mut caller = stopped.caller().expect("any caller");
            assert_calls(&mut caller);
            drop(caller);
            send(pid, tid, QUEUED);
            stopped.release().expect("release");
            let expected = [3 * round, round, round, round, 0];
            wait_until("all signals", || {
                let sum = |counts: &[u64]| counts.iter().sum::<u64>();
                sum(&handled(&mut target)) >= sum(&expected)
            });
            assert_eq!(handled(&mut target), expected, "{kind}");
        }
        assert_eq!(signal_handling(tid), before);
        target.finish();
    }
}

/// Sends as many as it can until told to end, and says how many that were.
fn flood(pid: i32, tid: i32, end: &AtomicBool) -> u64 {
    let arguments = [pid, tid, QUEUED, 0, 0, 0].map(|n| usize::try_from(n).expect("positive"));
    let mut sent = 0;
    while !end.load(Ordering::SeqCst) {
        match syscall(libc::SYS_tgkill, arguments) {
            0 => sent += 1,
            result => assert_eq!(result, -i64::from(libc::EAGAIN), "the queue is full"),
        }
        thread::yield_now();
    }
    sent
}

fn stop_and_call(pid: i32, tid: i32) -> StopCause {
    let mut stopped = stop(pid);
    let cause = stopped.thread(tid).expect("there").cause();
    let mut caller = stopped.caller_in(tid).expect("caller");
    assert_calls(&mut caller);
    assert_calls(&mut caller);
    drop(caller);
    stopped.release().expect("release");
    cause
}

#[test]
fn signals_at_any_moment_are_delivered_once() {
    for kind in ["running", "sleeping"] {
        let mut target = Target::start("handler", kind);
        let tid = hear_thread(&mut target);
        let pid = target.pid();
        let end = AtomicBool::new(false);
        let mut sent = thread::scope(|scope| {
            let sender = scope.spawn(|| flood(pid, tid, &end));
            for _ in 0..200 {
                stop_and_call(pid, tid);
            }
            end.store(true, Ordering::SeqCst);
            sender.join().expect("the sender")
        });
        // Stops that catch a signal on its way are the interesting ones, so here they are made likely: the thread is stopped
        // again just as it begins to handle many.
        let mut caught = 0;
        wait_until("stops that catch a signal on its way", || {
            kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("kill");
            wait_until("the target to stop", || state(tid) == 'T');
            for _ in 0..1000 {
                send(pid, tid, QUEUED);
                sent += 1;
            }
            kill(Pid::from_raw(pid), Signal::SIGCONT).expect("kill");
            let cause = stop_and_call(pid, tid);
            caught += u32::from(matches!(cause, StopCause::Signal(_)));
            wait_until("all signals", || handled(&mut target)[0] >= sent);
            caught > 2
        });
        wait_until("all signals", || handled(&mut target)[0] >= sent);
        assert_eq!(handled(&mut target), [sent, 0, 0, 0, 0], "{kind}");
        target.finish();
    }
}

#[test]
fn a_process_stopped_by_a_signal_stays_stopped() {
    let mut target = Target::start("handler", "running");
    let tid = hear_thread(&mut target);
    let pid = Pid::from_raw(target.pid());
    for sigstop_comes in ["before", "after"] {
        if sigstop_comes == "before" {
            kill(pid, Signal::SIGSTOP).expect("kill");
            wait_until("the target to stop", || state(tid) == 'T');
        }
        for _ in 0..20 {
            let mut stopped = stop(target.pid());
            for id in stopped.thread_ids() {
                let mut caller = stopped.caller_in(id).expect("caller");
                assert_calls(&mut caller);
                if sigstop_comes == "after" {
                    kill(pid, Signal::SIGSTOP).expect("kill");
                }
                assert_calls(&mut caller);
                assert_calls(&mut caller);
            }
            let threads = stopped.thread_ids();
            stopped.release().expect("release");
            for id in threads {
                wait_until("the target to be back", || state(id) == 'T');
            }
            assert_left_alone(target.pid());
        }
        kill(pid, Signal::SIGCONT).expect("kill");
        wait_until("the thread to run", || state(tid) == 'R');
        assert_eq!(handled(&mut target)[0], 0);
    }
    target.finish();
}

#[test]
fn a_target_killed_between_calls_has_ended() {
    for kind in ["running", "sleeping"] {
        let mut target = Target::start("handler", kind);
        let tid = hear_thread(&mut target);
        let mut stopped = stop(target.pid());
        let mut caller = stopped.caller_in(tid).expect("caller");
        let mut scratch = caller.scratch(4096).expect("scratch");
        target.kill();
        wait_until("it to end", || matches!(state(target.pid()), 'Z' | '?'));
        let error = scratch
            .call(libc::SYS_gettid, [0; 6])
            .expect_err("it is dead");
        assert!(
            matches!(error, RemoteCallError::Trace(TraceError::Ended { .. })),
            "{error}"
        );
        drop(scratch);
        drop(caller);
        assert!(matches!(stopped.caller(), Err(TraceError::Ended { .. })));
        stopped.release().expect("nothing left to release");
    }
}

#[test]
fn a_target_killed_at_any_moment_has_ended() {
    for round in 0..20 {
        let mut target = Target::start("handler", "running");
        let other = hear_thread(&mut target);
        // The end of a leader looks different from that of another thread.
        let tid = if round % 2 == 0 { other } else { target.pid() };
        let mut stopped = stop(target.pid());
        let mut caller = stopped.caller_in(tid).expect("caller");
        let killer = thread::spawn(move || {
            for _ in 0..round * 20 {
                thread::yield_now();
            }
            target.kill();
            target
        });
        let error = loop {
            match caller.scratch(4096) {
                Ok(scratch) => drop(scratch),
                Err(error) => break error,
            }
        };
        drop(caller);
        // Before anything else that could panic: the zombie waits for its tracer.
        stopped.release().expect("nothing left to release");
        drop(killer.join().expect("the killer"));
        assert!(
            matches!(error, RemoteCallError::Trace(TraceError::Ended { .. })),
            "{error}"
        );
    }
}
