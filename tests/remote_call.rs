//! System calls made inside of a stopped process: their results, and that the process notices nothing.
#![expect(
    unsafe_code,
    reason = "targets that know every register, signal and system call of theirs"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
#[path = "support/sleeping.rs"]
mod sleeping;
mod support;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread;

use nix::errno::Errno;
use sleepers::syscall;
use sleeping::Sleepers;
use support::{Target, assert_left_alone, hear, play_role, say, wait_until};
use uffd_restore::tracee::{
    DEFAULT_STOP_TIMEOUT, RemoteCallError, RemoteCaller, StoppedProcess, TraceError,
};

#[test]
fn role() {
    play_role(&[("sleepers", sleeping::play), ("caller", caller)]);
}

fn stop(pid: i32) -> StoppedProcess {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT).expect("stop")
}

fn number(id: i32) -> u64 {
    u64::try_from(id).expect("positive")
}

const NOTHING: [u64; 6] = [0; 6];

/// The thread is who it should be, and memory can be mapped, used and unmapped.
fn use_it(caller: &mut RemoteCaller<'_>) {
    let (pid, tid) = (number(caller.pid()), number(caller.tid()));
    assert_eq!(caller.call(libc::SYS_getpid, NOTHING).expect("getpid"), pid);
    assert_eq!(caller.call(libc::SYS_gettid, NOTHING).expect("gettid"), tid);
    let refused = caller.call(libc::SYS_close, [u64::MAX, 0, 0, 0, 0, 0]);
    assert!(matches!(
        refused,
        Err(RemoteCallError::Refused(Errno::EBADF))
    ));
    let mut scratch = caller.scratch(3 * 4096).expect("scratch");
    scratch.write(4090, b"across the border").expect("write");
    let name = scratch.address() + 4090;
    // PR_SET_VMA would do as well, but this is a call that reads memory and one that writes it, in every kernel.
    let count = scratch
        .call(libc::SYS_getcwd, [scratch.address(), 4096, 0, 0, 0, 0])
        .expect("getcwd");
    assert!(count > 1 && name > scratch.address());
    let mut text = [0; 17];
    scratch.read(4090, &mut text).expect("read");
    assert_eq!(&text, b"across the border");
    assert!(scratch.read(3 * 4096 - 1, &mut text).is_err());
    scratch.release().expect("unmapped");
}

#[test]
fn no_sleeping_call_notices_calls_made_by_its_thread() {
    let mut sleepers = Sleepers::start();
    sleepers.wait_until_all_sleep();
    let maps = maps_of(sleepers.pid());
    for round in 0..30 {
        sleepers.wait_until_all_sleep();
        let mut stopped = stop(sleepers.pid());
        for (tid, _, name) in &sleepers.threads {
            let mut caller = stopped
                .caller_in(*tid)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(caller.tid(), *tid);
            use_it(&mut caller);
            if round % 2 == 0 {
                caller.finish().expect("finish");
            }
        }
        assert!(maps_of(sleepers.pid()) == maps, "mappings left behind");
        stopped.release().expect("release");
        assert_eq!(
            sleepers.returned(),
            "",
            "calls that returned in round {round}"
        );
    }
    sleepers.finish();
}

fn maps_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps")
}

static ROUNDS: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicI64 = AtomicI64::new(0);

std::arch::global_asm!(
    // Each register starts with a number of its own and grows by another number of its own in each of rdi rounds. The
    // counter lies below the stack pointer, in the red zone. Returns how many are not what they must be.
    ".globl uffd_test_registers",
    "uffd_test_registers:",
    "push rbx",
    "push rbp",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rsp - 8], rdi",
    "mov [rsp - 16], rdi",
    "mov rax, 1",
    "mov rbx, 2",
    "mov rcx, 3",
    "mov rdx, 4",
    "mov rsi, 5",
    "mov rdi, 6",
    "mov rbp, 7",
    "mov r8, 8",
    "mov r9, 9",
    "mov r10, 10",
    "mov r11, 11",
    "mov r12, 12",
    "mov r13, 13",
    "mov r14, 14",
    "mov r15, 15",
    "movq xmm0, rax",
    "movq xmm15, r15",
    "2:",
    "add rax, 101",
    "add rbx, 102",
    "add rcx, 103",
    "add rdx, 104",
    "add rsi, 105",
    "add rdi, 106",
    "add rbp, 107",
    "add r8, 108",
    "add r9, 109",
    "add r10, 110",
    "add r11, 111",
    "add r12, 112",
    "add r13, 113",
    "add r14, 114",
    "add r15, 115",
    "paddq xmm15, xmm0",
    "dec qword ptr [rsp - 8]",
    "jnz 2b",
    // Take away again what they must have become.
    "mov [rsp - 24], rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 102",
    "sub rbx, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 103",
    "sub rcx, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 104",
    "sub rdx, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 105",
    "sub rsi, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 106",
    "sub rdi, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 107",
    "sub rbp, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 108",
    "sub r8, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 109",
    "sub r9, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 110",
    "sub r10, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 111",
    "sub r11, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 112",
    "sub r12, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 113",
    "sub r13, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 114",
    "sub r14, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 115",
    "sub r15, rax",
    "mov rax, [rsp - 16]",
    "imul rax, rax, 101",
    "sub [rsp - 24], rax",
    "xor eax, eax",
    "cmp qword ptr [rsp - 24], 1",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rbx, 2",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rcx, 3",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rdx, 4",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rsi, 5",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rdi, 6",
    "je 3f",
    "inc rax",
    "3:",
    "cmp rbp, 7",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r8, 8",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r9, 9",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r10, 10",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r11, 11",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r12, 12",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r13, 13",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r14, 14",
    "je 3f",
    "inc rax",
    "3:",
    "cmp r15, 15",
    "je 3f",
    "inc rax",
    "3:",
    "movq rdi, xmm15",
    "sub rdi, [rsp - 16]",
    "cmp rdi, 15",
    "je 3f",
    "inc rax",
    "3:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbp",
    "pop rbx",
    "ret",
);

unsafe extern "C" {
    fn uffd_test_registers(rounds: u64) -> i64;
}

/// One thread that counts in all of its registers, and one that makes system calls all the time. Both know what must come out.
fn caller(words: &[&str]) {
    let rounds: u64 = words[0].parse().expect("a number");
    thread::spawn(move || {
        say(&nix::unistd::gettid().to_string());
        loop {
            // SAFETY: the function keeps to the C calling convention and uses no memory but 24 bytes of its red zone.
            let wrong = unsafe { uffd_test_registers(rounds) };
            WRONG.fetch_add(wrong, Ordering::SeqCst);
            ROUNDS.fetch_add(1, Ordering::SeqCst);
        }
    });
    static CALLS: AtomicU64 = AtomicU64::new(0);
    thread::spawn(|| {
        say(&nix::unistd::gettid().to_string());
        let parent = syscall(libc::SYS_getppid, [0; 6]);
        loop {
            let right = syscall(libc::SYS_getppid, [0; 6]) == parent
                && syscall(libc::SYS_close, [9999, 0, 0, 0, 0, 0]) == -i64::from(libc::EBADF)
                && syscall(libc::SYS_sched_yield, [0; 6]) == 0;
            WRONG.fetch_add(i64::from(!right), Ordering::SeqCst);
            CALLS.fetch_add(1, Ordering::SeqCst);
        }
    });
    while hear().is_some() {
        say(&format!(
            "{} {} {}",
            ROUNDS.load(Ordering::SeqCst),
            CALLS.load(Ordering::SeqCst),
            WRONG.load(Ordering::SeqCst)
        ));
    }
    support::end();
}

/// Target and its two threads.
fn start_caller() -> (Target, [i32; 2]) {
    let mut target = Target::start("caller", "2000000");
    let threads = [(); 2].map(|()| i32::try_from(target.hear_numbers()[0]).expect("tid"));
    (target, threads)
}

/// Both threads go on, and neither has found anything wrong.
fn assert_goes_on(target: &mut Target) {
    target.tell("report");
    let before = target.hear_numbers();
    wait_until("both threads to go on", || {
        target.tell("report");
        let now = target.hear_numbers();
        assert_eq!(now[2], 0, "registers or results that were wrong");
        // Two: a round that began before this may have ended after it.
        now[0] >= before[0] + 2 && now[1] > before[1]
    });
}

#[test]
fn thousands_of_calls_leave_registers_and_results_alone() {
    let (mut target, threads) = start_caller();
    for _ in 0..250 {
        let mut stopped = stop(target.pid());
        for tid in threads {
            let mut caller = stopped.caller_in(tid).expect("caller");
            for _ in 0..2 {
                use_it(&mut caller);
            }
        }
        stopped.release().expect("release");
        // Another moment each time.
        thread::yield_now();
    }
    assert_goes_on(&mut target);
    assert_left_alone(target.pid());
    target.finish();
}

#[test]
fn any_thread_is_good_enough_and_strangers_are_refused() {
    let (mut target, _) = start_caller();
    let maps = maps_of(target.pid());
    let mut stopped = stop(target.pid());
    let mut caller = stopped.caller().expect("caller");
    use_it(&mut caller);
    // Not all of what was mapped is unmapped by hand.
    let scratch = caller.scratch(1).expect("scratch");
    assert_eq!(scratch.len(), 4096);
    drop(scratch);
    let page = caller
        .map_anonymous(0, 8192, libc::PROT_READ, libc::MAP_PRIVATE)
        .expect("map");
    caller
        .advise(page, 4096, libc::MADV_DONTNEED)
        .expect("advise");
    let refused = caller.advise(page + 1, 4096, libc::MADV_DONTNEED);
    assert!(matches!(
        refused,
        Err(RemoteCallError::Refused(Errno::EINVAL))
    ));
    caller.unmap(page, 8192).expect("unmap");
    caller.finish().expect("finish");
    assert!(maps_of(target.pid()) == maps, "mappings left behind");
    let stranger = i32::try_from(std::process::id()).expect("pid");
    assert!(matches!(
        stopped.caller_in(stranger),
        Err(TraceError::NoSuchProcess { .. })
    ));
    stopped.release().expect("release");
    assert_goes_on(&mut target);
    target.finish();
}
