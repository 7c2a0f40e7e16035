//! Stopping whole processes in every condition they can be in, and leaving them as they were.

mod support;

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::{Target, assert_left_alone, hear, play_role, say, state, wait_until};
use uffd_restore::tracee::{DEFAULT_STOP_TIMEOUT, StoppedProcess, TraceError};

#[test]
fn role() {
    play_role(&[
        ("counter", counter),
        ("storm", storm),
        ("chain", chain),
        ("headless", headless),
        ("stopper", stopper),
        ("unprivileged", unprivileged),
    ]);
}

fn stop(pid: i32) -> StoppedProcess {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT).expect("stop")
}

fn stop_error(pid: i32) -> TraceError {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT)
        .map(drop)
        .expect_err("must be refused")
}

static COUNT: AtomicU64 = AtomicU64::new(0);

/// Counts as fast as it can, and says how far it is.
fn counter(_: &[&str]) {
    thread::spawn(|| {
        loop {
            COUNT.fetch_add(1, Ordering::SeqCst);
        }
    });
    say(&nix::unistd::gettid().to_string());
    while hear().is_some() {
        say(&COUNT.load(Ordering::SeqCst).to_string());
    }
    support::end();
}

fn count(target: &mut Target) -> u64 {
    target.tell("count");
    target.hear_numbers()[0]
}

/// The target answers, and goes on counting.
fn assert_runs(target: &mut Target) {
    let before = count(target);
    wait_until("the target to count", || count(target) > before);
}

#[test]
fn stopped_means_all_threads_and_released_means_none() {
    let mut target = Target::start("counter", "");
    let other_thread = i32::try_from(target.hear_numbers()[0]).expect("tid");
    assert_ne!(other_thread, target.pid());
    // By the id of a thread that is not the leader.
    let stopped = stop(other_thread);
    assert_eq!(
        (stopped.pid(), stopped.memory_tid()),
        (target.pid(), target.pid())
    );
    for entry in std::fs::read_dir(format!("/proc/{}/task", target.pid())).expect("task") {
        let tid = entry
            .expect("entry")
            .file_name()
            .to_str()
            .expect("number")
            .parse()
            .expect("number");
        assert_eq!(state(tid), 't');
    }
    assert!(!stopped.was_stopped_before());
    let released = stopped.release().expect("release");
    assert!(released.threads >= 3 && released.stood_still < DEFAULT_STOP_TIMEOUT);
    assert_left_alone(target.pid());
    assert_runs(&mut target);
    // Dropped, as on the way out of an error.
    drop(stop(target.pid()));
    assert_left_alone(target.pid());
    assert_runs(&mut target);
    target.finish();
}

#[test]
fn a_process_stopped_by_a_signal_stays_so_until_sigcont() {
    let mut target = Target::start("counter", "");
    target.hear();
    let pid = Pid::from_raw(target.pid());
    kill(pid, Signal::SIGSTOP).expect("kill");
    wait_until("the target to stop", || state(target.pid()) == 'T');
    for _ in 0..20 {
        let stopped = stop(target.pid());
        assert!(stopped.was_stopped_before());
        stopped.release().expect("release");
        wait_until("the target to be back", || state(target.pid()) == 'T');
        stop(target.pid()).leave_stopped().expect("leave stopped");
        assert_eq!(state(target.pid()), 'T');
    }
    kill(pid, Signal::SIGCONT).expect("kill");
    assert_runs(&mut target);
    target.finish();
}

#[test]
fn left_stopped_means_stopped_by_a_signal() {
    let mut target = Target::start("counter", "");
    target.hear();
    for _ in 0..20 {
        stop(target.pid()).leave_stopped().expect("leave stopped");
        assert_eq!(state(target.pid()), 'T');
        assert_left_alone(target.pid());
        kill(Pid::from_raw(target.pid()), Signal::SIGCONT).expect("kill");
        assert_runs(&mut target);
    }
    target.finish();
}

/// Three threads that start short-lived threads for ever.
fn storm(_: &[&str]) {
    let ended: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
    for _ in 0..3 {
        thread::spawn(|| {
            while !ended.load(Ordering::SeqCst) {
                COUNT.fetch_add(1, Ordering::SeqCst);
                let threads: Vec<_> = (0..4)
                    .map(|_| thread::spawn(|| COUNT.fetch_add(1, Ordering::SeqCst)))
                    .collect();
                threads
                    .into_iter()
                    .for_each(|thread| assert!(thread.join().is_ok()));
            }
        });
    }
    say("ready");
    while hear().is_some() {
        say(&COUNT.load(Ordering::SeqCst).to_string());
    }
    support::end();
}

/// A thread that starts its successor and ends, for ever.
fn chain(_: &[&str]) {
    fn link() {
        COUNT.fetch_add(1, Ordering::SeqCst);
        thread::spawn(link);
    }
    thread::spawn(link);
    say("ready");
    while hear().is_some() {
        say(&COUNT.load(Ordering::SeqCst).to_string());
    }
    support::end();
}

#[test]
fn threads_that_come_and_go_are_stopped_too() {
    for role in ["storm", "chain"] {
        let mut target = Target::start(role, "");
        target.hear();
        for round in 0..100 {
            let stopped = stop(target.pid());
            // Nobody is left who could create or end a thread.
            let tasks = || {
                std::fs::read_dir(format!("/proc/{}/task", target.pid()))
                    .expect("task")
                    .count()
            };
            assert_eq!(tasks(), stopped.threads(), "{role}, round {round}");
            thread::yield_now();
            assert_eq!(tasks(), stopped.threads(), "{role}, round {round}");
            stopped.release().expect("release");
        }
        assert_runs(&mut target);
        target.finish();
    }
}

/// The leader ends; another thread goes on.
#[expect(unsafe_code, reason = "there is no safe way to end the leader only")]
fn headless(_: &[&str]) {
    thread::spawn(|| {
        say(&nix::unistd::gettid().to_string());
        counter(&[]);
    });
    // A test runs in a thread of its own, so the leader is made to end itself by a signal to it alone.
    extern "C" fn end_this_thread(_: i32) {
        // SAFETY: ends the calling thread; it holds nothing that anybody needs, as it sleeps in the test harness.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    // SAFETY: the handler makes one system call.
    unsafe {
        libc::signal(
            libc::SIGUSR1,
            end_this_thread as *const () as libc::sighandler_t,
        )
    };
    let pid = std::process::id();
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1) };
    loop {
        thread::park();
    }
}

#[test]
fn a_process_whose_leader_has_ended_is_stopped_through_its_other_threads() {
    let mut target = Target::start("headless", "");
    target.hear();
    target.hear();
    wait_until("the leader to end", || state(target.pid()) == 'Z');
    for _ in 0..10 {
        let stopped = stop(target.pid());
        assert_ne!(stopped.memory_tid(), target.pid());
        assert_ne!(
            std::fs::read(format!("/proc/{}/maps", stopped.memory_tid()))
                .expect("maps")
                .len(),
            0
        );
        stopped.check_still_there().expect("still there");
        stopped.release().expect("release");
        assert_runs(&mut target);
    }
    target.finish();
}

#[test]
fn what_cannot_be_stopped_is_explained() {
    let error = stop_error(2);
    assert!(
        matches!(error, TraceError::KernelThread { pid: 2, .. }),
        "{error}"
    );
    let error = stop_error(i32::MAX);
    assert!(matches!(error, TraceError::NoSuchProcess { .. }), "{error}");
    for nonsense in [0, -1, i32::MIN] {
        assert!(matches!(
            stop_error(nonsense),
            TraceError::NoSuchProcess { .. }
        ));
    }
    let myself = i32::try_from(std::process::id()).expect("pid");
    assert!(matches!(stop_error(myself), TraceError::Myself { .. }));

    let mut zombie = Command::new("true")
        .stdout(Stdio::null())
        .spawn()
        .expect("true");
    let pid = i32::try_from(zombie.id()).expect("pid");
    wait_until("it to end", || state(pid) == 'Z');
    let error = stop_error(pid);
    assert!(matches!(error, TraceError::Zombie { .. }), "{error}");
    assert!(
        zombie
            .wait()
            .expect("its exit status is still there")
            .success()
    );
}

/// Tries to stop a process, and says why it could not.
fn stopper(words: &[&str]) {
    let pid = words[0].parse().expect("a pid");
    let error = StoppedProcess::stop(pid, Duration::from_secs(5))
        .map(drop)
        .expect_err("must be refused");
    say(&format!("{error}"));
}

/// The same as user nobody.
fn unprivileged(words: &[&str]) {
    nix::unistd::setuid(65534.into()).expect("setuid");
    stopper(words);
}

#[test]
fn refusals_name_who_and_what() {
    let mut target = Target::start("counter", "");
    target.hear();
    let pid = target.pid().to_string();
    let error = Target::start("unprivileged", &pid).hear();
    assert!(
        error.contains("CAP_SYS_PTRACE") && error.contains("uid 0") && error.contains(&pid),
        "{error}"
    );
    let stopped = stop(target.pid());
    let error = Target::start("stopper", &pid).hear();
    let myself = format!("(pid {})", std::process::id());
    assert!(
        error.contains("already traced") && error.contains(&myself),
        "{error}"
    );
    stopped.release().expect("release");
    assert_runs(&mut target);
    target.finish();
}

#[test]
fn a_process_killed_while_it_is_stopped_is_noticed() {
    let mut target = Target::start("counter", "");
    target.hear();
    let stopped = stop(target.pid());
    stopped.check_still_there().expect("still there");
    target.kill();
    wait_until("it to end", || matches!(state(target.pid()), 'Z' | '?'));
    assert!(matches!(
        stopped.check_still_there(),
        Err(TraceError::Ended { .. })
    ));
    stopped
        .release()
        .expect("nothing is left to release, which is no error");
}
