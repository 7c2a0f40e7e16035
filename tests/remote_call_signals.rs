//! Signals and stops that come while a stopped process is made to call the kernel, and everything else that may be
//! in the way: its own idea of SIGTRAP, code that is not executable, restartable sequences, filters, 32-bit code, SIGKILL.
#![expect(
    unsafe_code,
    reason = "targets that know every signal and instruction of theirs"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
mod support;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sleepers::{block, leak, syscall};
use support::{Target, assert_left_alone, hear, play_role, say, state, wait_until};
use uffd_restore::tracee::{
    DEFAULT_STOP_TIMEOUT, RemoteCallError, RemoteCaller, StopCause, StoppedProcess, TraceError,
};

#[test]
fn role() {
    play_role(&[
        ("handler", handler),
        ("trapless", trapless),
        ("unexecutable", unexecutable),
        ("sequence", sequence),
        ("filtered", filtered),
    ]);
}

fn stop(pid: i32) -> StoppedProcess {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT).expect("stop")
}

/// The thread whose id the target says next.
fn hear_thread(target: &mut Target) -> i32 {
    i32::try_from(target.hear_numbers()[0]).expect("a thread's id")
}

fn assert_calls(caller: &mut RemoteCaller<'_>) {
    let tid = u64::try_from(caller.tid()).expect("positive");
    assert_eq!(caller.call(libc::SYS_gettid, [0; 6]).expect("gettid"), tid);
}

/// Fields of the thread's status that say how signals are handled.
fn signal_handling(tid: i32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/status")).expect("status");
    let wanted = ["SigPnd", "SigBlk", "SigIgn", "SigCgt", "Seccomp"];
    text.lines()
        .filter(|line| wanted.iter().any(|field| line.starts_with(field)))
        .map(str::to_owned)
        .collect()
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

#[test]
fn signals_at_any_moment_are_delivered_once() {
    for kind in ["running", "sleeping"] {
        let mut target = Target::start("handler", kind);
        let tid = hear_thread(&mut target);
        let pid = target.pid();
        let end = AtomicBool::new(false);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| flood(pid, tid, &end));
            let (mut caught, mut rounds) = (0, 0);
            // Stops that catch a signal on its way are the interesting ones, and a matter of luck.
            wait_until("stops that catch a signal on its way", || {
                let mut stopped = stop(pid);
                let cause = stopped.thread(tid).expect("there").cause();
                caught += u32::from(matches!(cause, StopCause::Signal(_)));
                let mut caller = stopped.caller_in(tid).expect("caller");
                assert_calls(&mut caller);
                assert_calls(&mut caller);
                drop(caller);
                stopped.release().expect("release");
                rounds += 1;
                rounds > 100 && caught > 2
            });
            end.store(true, Ordering::SeqCst);
            sender.join().expect("the sender")
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

/// Ignores SIGTRAP, and a thread blocks it as well, among others.
fn trapless(_: &[&str]) {
    // SAFETY: no handler.
    let before = unsafe { libc::signal(libc::SIGTRAP, libc::SIG_IGN) };
    assert_ne!(before, libc::SIG_ERR);
    thread::spawn(|| {
        for signal in [libc::SIGTRAP, libc::SIGUSR2, libc::SIGSEGV, 50] {
            block(signal);
        }
        say(&nix::unistd::gettid().to_string());
        loop {
            std::hint::spin_loop();
        }
    });
    while hear().is_some() {}
    support::end();
}

#[test]
fn how_a_process_handles_signals_does_not_change() {
    let mut target = Target::start("trapless", "");
    let tid = hear_thread(&mut target);
    let before = signal_handling(tid);
    let mut stopped = stop(target.pid());
    for id in stopped.thread_ids() {
        let mut caller = stopped.caller_in(id).expect("caller");
        for _ in 0..10 {
            assert_calls(&mut caller);
        }
        if id == tid {
            // Waits, because the thread blocks it.
            send(target.pid(), tid, 50);
        }
    }
    stopped.release().expect("release");
    let after = signal_handling(tid);
    assert_eq!(&after[1..], &before[1..]);
    assert_eq!(after[0], "SigPnd:\t0002000000000000");
    target.finish();
}

/// A thread that sleeps in a system call made by a page of its own, which the test makes unexecutable.
fn unexecutable(_: &[&str]) {
    // SAFETY: the handler uses an atomic only. Rust's own handler would do, but this one is ours.
    let before = unsafe { libc::signal(libc::SIGSEGV, count as *const () as libc::sighandler_t) };
    assert_ne!(before, libc::SIG_ERR);
    // SAFETY: without MAP_FIXED nothing existing is touched.
    let page = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    assert_ne!(page, libc::MAP_FAILED);
    // mov eax, SYS_pause; syscall
    let code = [0xb8_u8, 34, 0, 0, 0, 0x0f, 0x05];
    // SAFETY: the page is writable and larger.
    unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), page.cast::<u8>(), code.len()) };
    let address = page.expose_provenance();
    let thread = thread::spawn(move || {
        say(&nix::unistd::gettid().to_string());
        let page = std::ptr::with_exposed_provenance::<()>(address);
        // SAFETY: the page holds a function without arguments that never returns.
        let sleep: extern "C" fn() = unsafe { std::mem::transmute(page) };
        sleep();
    });
    drop(thread);
    while hear().is_some() {}
    support::end();
}

#[test]
fn a_fault_of_our_own_is_an_error_and_no_signal_for_the_target() {
    let mut target = Target::start("unexecutable", "");
    let tid = hear_thread(&mut target);
    wait_until("the call", || {
        std::fs::read_to_string(format!("/proc/{tid}/syscall"))
            .is_ok_and(|text| text.starts_with("34 "))
    });
    let before = signal_handling(tid);
    let protect = |stopped: &mut StoppedProcess, rights: i32| {
        let registers = stopped.thread(tid).expect("there").registers();
        let page = registers.expect("registers").instruction_pointer() & !4095;
        let rights = u64::try_from(rights).expect("small");
        let mut caller = stopped.caller_in(target.pid()).expect("another thread");
        let arguments = [page, 4096, rights, 0, 0, 0];
        caller
            .call(libc::SYS_mprotect, arguments)
            .expect("mprotect");
    };
    for _ in 0..3 {
        let mut stopped = stop(target.pid());
        protect(&mut stopped, libc::PROT_READ);
        let mut caller = stopped.caller_in(tid).expect("caller");
        for _ in 0..2 {
            let error = caller
                .call(libc::SYS_gettid, [0; 6])
                .expect_err("no execution");
            assert!(
                matches!(
                    error,
                    RemoteCallError::Trace(TraceError::CallDisturbed {
                        signal: libc::SIGSEGV,
                        ..
                    })
                ),
                "{error}"
            );
        }
        drop(caller);
        // It goes on there when it makes its call again.
        protect(&mut stopped, libc::PROT_READ | libc::PROT_EXEC);
        stopped.release().expect("release");
        wait_until("the thread to sleep again", || state(tid) == 'S');
        assert_eq!(signal_handling(tid), before);
    }
    target.finish();
}

std::arch::global_asm!(
    // rdi: struct rseq. rsi: counter of aborts. Stays in a restartable sequence until it is aborted, for ever.
    ".globl uffd_test_sequence",
    "uffd_test_sequence:",
    "lea rax, [rip + uffd_test_sequence_description]",
    "mov [rdi + 8], rax",
    "2:",
    "pause",
    "jmp 2b",
    "3:",
    // The signature that glibc registered.
    ".long 0x53053053",
    "4:",
    "lock inc qword ptr [rsi]",
    "jmp uffd_test_sequence",
    ".pushsection .data",
    ".balign 32",
    "uffd_test_sequence_description:",
    ".long 0, 0",
    ".quad 2b, 3b - 2b, 4b",
    ".popsection",
);

unsafe extern "C" {
    fn uffd_test_sequence(area: usize, aborts: *const AtomicU64) -> !;
    /// Of glibc: distance of the thread's struct rseq from its thread pointer, and its size.
    static __rseq_offset: isize;
    static __rseq_size: u32;
}

/// A thread that is in a restartable sequence all the time.
fn sequence(_: &[&str]) {
    static ABORTS: AtomicU64 = AtomicU64::new(0);
    thread::spawn(|| {
        let pointer: isize;
        // SAFETY: reads the word that the thread pointer points to, which is the thread pointer.
        unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer) };
        // SAFETY: constants that the C library sets before main.
        let (offset, size) = unsafe { (__rseq_offset, __rseq_size) };
        assert_ne!(size, 0, "the C library has no rseq");
        say(&nix::unistd::gettid().to_string());
        let area = usize::try_from(pointer + offset).expect("an address");
        // SAFETY: area is the thread's registered area, and the counter is static.
        unsafe { uffd_test_sequence(area, &raw const ABORTS) };
    });
    while hear().is_some() {
        say(&ABORTS.load(Ordering::SeqCst).to_string());
    }
    support::end();
}

#[test]
fn a_restartable_sequence_is_aborted_and_not_continued_unprotected() {
    let mut target = Target::start("sequence", "");
    let tid = hear_thread(&mut target);
    let aborts = |target: &mut Target| {
        target.tell("report");
        target.hear_numbers()[0]
    };
    let mut inside = 0;
    for _ in 0..50 {
        let mut stopped = stop(target.pid());
        let before = stopped
            .thread(tid)
            .expect("there")
            .registers()
            .expect("registers");
        let mut caller = stopped.caller_in(tid).expect("caller");
        assert_calls(&mut caller);
        drop(caller);
        let after = stopped
            .thread(tid)
            .expect("there")
            .registers()
            .expect("registers");
        inside += u32::from(before.instruction_pointer() != after.instruction_pointer());
        stopped.release().expect("release");
        // A thread that is in the sequence without the kernel's knowledge never leaves it again.
        let now = aborts(&mut target);
        for _ in 0..2 {
            stop(target.pid()).release().expect("release");
        }
        wait_until("another abort", || aborts(&mut target) > now);
    }
    assert!(inside > 0, "never stopped in the sequence");
    target.finish();
}

/// Two seccomp programs: for getppid(2) fail with EPERM, or kill the process.
fn filtered(words: &[&str]) {
    let action = match words {
        ["errno"] => libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        _ => libc::SECCOMP_RET_KILL_PROCESS,
    };
    let number = u32::try_from(libc::SYS_getppid).expect("small");
    let program = [
        libc::sock_filter {
            code: 0x20,
            jt: 0,
            jf: 0,
            k: 0,
        },
        libc::sock_filter {
            code: 0x15,
            jt: 0,
            jf: 1,
            k: number,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: action,
        },
        libc::sock_filter {
            code: 0x06,
            jt: 0,
            jf: 0,
            k: libc::SECCOMP_RET_ALLOW,
        },
    ];
    let program = leak(libc::sock_fprog {
        len: 4,
        filter: std::ptr::with_exposed_provenance_mut(leak(program)),
    });
    thread::spawn(move || {
        assert_eq!(syscall(libc::SYS_prctl, [38, 1, 0, 0, 0, 0]), 0);
        assert_eq!(syscall(libc::SYS_seccomp, [1, 0, program, 0, 0, 0]), 0);
        say(&nix::unistd::gettid().to_string());
        while hear().is_some() {
            say(&syscall(libc::SYS_getppid, [0; 6]).to_string());
        }
        support::end();
    });
    loop {
        thread::park();
    }
}

#[test]
fn seccomp_filters_are_suspended_for_our_calls_only() {
    let mut target = Target::start("filtered", "errno");
    let mut killer = Target::start("filtered", "kill");
    for target in [&mut target, &mut killer] {
        let tid = hear_thread(target);
        for _ in 0..10 {
            let mut stopped = stop(target.pid());
            let mut caller = stopped.caller_in(tid).expect("caller");
            let parent = caller.call(libc::SYS_getppid, [0; 6]).expect("getppid");
            assert_eq!(parent, u64::from(std::process::id()));
            drop(caller);
            stopped.release().expect("release");
        }
    }
    target.tell("call");
    assert_eq!(target.hear(), format!("-{}", libc::EPERM));
    target.finish();
    killer.tell("call");
    wait_until("the filter to kill", || state(killer.pid()) == 'Z');
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
