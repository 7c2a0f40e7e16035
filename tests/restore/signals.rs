//! Signals while threads wait for pages, and stops.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;

use crate::kernel::{number, pipe};
use crate::memory::{Memory, PAGE, bytes_of, call, flag};
use crate::scene::{Captured, Done, be_rolled_back};
use crate::support::{Role, assert_left_alone, end, hear, say, state, wait_until};

pub(crate) const ROLES: &[(&str, Role)] = &[("storm", storm), ("stopped", stopped)];

const PAGES: usize = 2000;

static HANDLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn on_signal(_: i32) {
    HANDLED.fetch_add(1, Ordering::Relaxed);
}

#[expect(unsafe_code, reason = "sigaction(2)")]
fn handle_signals() {
    let handler = SigHandler::Handler(on_signal);
    let action = SigAction::new(handler, SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only counts, in an atomic.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("sigaction");
}

/// One thread looks at all pages, itself or through the kernel, and another sends it signals all the while.
fn storm(words: &[&str]) {
    handle_signals();
    let memory = Memory::private(0, PAGES);
    be_rolled_back(&[memory]);
    let over = AtomicBool::new(false);
    let victim = nix::unistd::gettid();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pid = flag(nix::unistd::getpid().as_raw());
            let arguments = [pid, flag(victim.as_raw()), flag(libc::SIGUSR1), 0, 0, 0];
            while !over.load(Ordering::Relaxed) {
                call(libc::SYS_tgkill, arguments).expect("tgkill");
            }
        });
        if words == ["user"] {
            memory.check_all();
        } else {
            memory_through_the_kernel(&memory);
        }
        over.store(true, Ordering::Relaxed);
    });
    say(&HANDLED.load(Ordering::Relaxed).to_string());
    say("right");
    end();
}

fn memory_through_the_kernel(memory: &Memory) {
    let (mut read, write) = pipe();
    for page in 0..memory.pages {
        let arguments = [number(&write), memory.at(page), PAGE, 0, 0, 0];
        assert_eq!(call(libc::SYS_write, arguments).expect("write"), PAGE);
        let mut got = vec![0; PAGE];
        read.read_exact(&mut got).expect("read");
        assert!(got == bytes_of(memory.captured(page)), "page {page}");
    }
}

fn in_a_storm(how: &str, frame: &str) -> Done {
    let mut scene = Captured::with("storm", how, &["--frame-pages", frame]).restore(&[]);
    let handled = scene.target.hear_numbers()[0];
    let done = scene.finish();
    assert!(handled > 10, "only {handled} signals");
    eprintln!("{handled} signals: {done:?}");
    assert_eq!(done.installed(), Memory::content_in(PAGES), "{done:?}");
    done
}

#[test]
fn signals_during_faults_of_user_mode() {
    let done = in_a_storm("user", "1");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
    // A fault that a signal interrupts is told again, if its page is not there by then: how often depends on how busy the machine is.
    let done = in_a_storm("user", "512");
    assert!(done.faults() > done.pages("demand") + 10, "{done:?}");
}

#[test]
fn signals_during_faults_of_kernel_mode() {
    let done = in_a_storm("kernel", "1");
    assert!(done.pages("demand") > PAGES as u64 / 2, "{done:?}");
}

/// A thread in the kernel that has a signal asks again and again, for as long as its page is being decoded.
#[test]
fn a_flood_of_messages_for_one_page() {
    let done = in_a_storm("kernel", "512");
    assert!(done.faults() > 100, "{done:?}");
}

/// Four threads look at all pages, in different orders. Says `half` in the middle.
fn stopped(_: &[&str]) {
    let memory = Memory::private(0, 4 * PAGES);
    be_rolled_back(&[memory]);
    (0..memory.pages / 2).for_each(|page| memory.check(page));
    say("half");
    std::thread::scope(|scope| {
        for seed in 0..4 {
            scope.spawn(move || {
                let order = crate::memory::Dice::new(seed).shuffled(memory.pages);
                order.iter().for_each(|&page| memory.check(page));
            });
        }
    });
    say("right");
    while hear().is_some() {}
    end();
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("the target lives");
}

fn stop(pid: i32) {
    send(pid, Signal::SIGSTOP);
    wait_until("the target to stop", || all_stopped(pid));
}

fn all_stopped(pid: i32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the target lives");
    tasks.flatten().all(|task| {
        let tid = task.file_name().to_string_lossy().parse().expect("a tid");
        // A thread that ended meanwhile has no state.
        matches!(state(tid), 'T' | '?')
    })
}

#[test]
fn stopped_and_continued_in_the_middle() {
    let captured = Captured::new("stopped", "");
    let pid = captured.pid;
    let mut scene = captured.restore(&[]);
    assert_eq!(scene.target.hear(), "half");
    for _ in 0..40 {
        stop(pid);
        send(pid, Signal::SIGCONT);
    }
    let done = scene.finish();
    assert_eq!(done.installed(), Memory::content_in(4 * PAGES), "{done:?}");
}

#[test]
fn a_target_that_was_stopped_stays_so() {
    let captured = Captured::new("stopped", "");
    let pid = captured.pid;
    stop(pid);
    let scene = captured.restore(&[]);
    assert_left_alone(pid);
    wait_until("all threads to be as they were", || all_stopped(pid));
    send(pid, Signal::SIGCONT);
    let mut scene = scene;
    assert_eq!(scene.target.hear(), "half");
    let done = scene.finish();
    assert_eq!(done.installed(), Memory::content_in(4 * PAGES), "{done:?}");
    assert!(done.pages("demand") > PAGES as u64, "{done:?}");
}
