//! What may be in the way of a call in a stopped process: its own idea of SIGTRAP, code that is not executable, restartable
//! sequences, seccomp filters, 32-bit code.
#![expect(
    unsafe_code,
    reason = "targets that know every signal and instruction of theirs"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
mod support;

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use sleepers::{block, leak, syscall};
use support::calling::{assert_calls, hear_thread, signal_handling, stop};
use support::{Target, hear, play_role, say, state, wait_until};
use uffd_restore::tracee::{RemoteCallError, StoppedProcess, TraceError};

#[test]
fn role() {
    play_role(&[
        ("trapless", trapless),
        ("unexecutable", unexecutable),
        ("sequence", sequence),
        ("filtered", filtered),
    ]);
}

fn send(pid: i32, tid: i32, signal: i32) {
    let [pid, tid, signal] = [pid, tid, signal].map(|n| usize::try_from(n).expect("positive"));
    assert_eq!(syscall(libc::SYS_tgkill, [pid, tid, signal, 0, 0, 0]), 0);
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

extern "C" fn do_nothing(_: i32) {}

/// A thread that sleeps in a system call made by a page of its own, which the test makes unexecutable.
fn unexecutable(_: &[&str]) {
    // SAFETY: the handler does nothing.
    let before =
        unsafe { libc::signal(libc::SIGSEGV, do_nothing as *const () as libc::sighandler_t) };
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

/// An i386 program that sleeps for ever: one segment, and `pause` in a loop.
fn program_32() -> Vec<u8> {
    const BASE: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    // mov eax, 29 (pause); int 0x80; jmp to the beginning
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let mut program = vec![0x7f, b'E', b'L', b'F', 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let halves = |values: &[u16]| {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    let words = |values: &[u32]| {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect::<Vec<u8>>()
    };
    // Executable, i386; version, entry, program headers, sections, flags; sizes and counts.
    program.extend(halves(&[2, 3]));
    program.extend(words(&[1, BASE + HEADERS, 52, 0, 0]));
    program.extend(halves(&[52, 32, 1, 0, 0, 0]));
    // Load all of it, readable and executable.
    let len = HEADERS + u32::try_from(code.len()).expect("short");
    program.extend(words(&[1, 0, BASE, BASE, len, len, 5, 4096]));
    program.extend(code);
    program
}

#[test]
fn a_32_bit_process_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("sleep32");
    std::fs::write(&path, program_32()).expect("write");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("permissions");
    let mut child = match std::process::Command::new(&path).spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("SKIPPED: a_32_bit_process_is_refused: no 32-bit programs: {error}");
            return;
        }
    };
    let pid = i32::try_from(child.id()).expect("pid");
    wait_until("it to sleep", || {
        std::fs::read_to_string(format!("/proc/{pid}/syscall"))
            .is_ok_and(|text| text.starts_with("29 "))
    });
    let mut stopped = stop(pid);
    let error = stopped.caller().map(drop).expect_err("must be refused");
    assert!(matches!(error, TraceError::Not64Bit { .. }), "{error}");
    let error = stopped
        .caller_in(pid)
        .map(drop)
        .expect_err("must be refused");
    assert!(matches!(error, TraceError::Not64Bit { .. }), "{error}");
    stopped.release().expect("release");
    child.kill().expect("kill");
    child.wait().expect("wait");
}
