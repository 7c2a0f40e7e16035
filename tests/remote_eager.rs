//! The pages that must be present are those that the target itself says.
#![expect(
    unsafe_code,
    reason = "targets that ask the kernel where their own things are"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
mod support;

use std::thread;

use sleepers::{leak, syscall};
use support::area::{Area, PAGE};
use support::{Target, hear, play_role, say, wait_until};
use uffd_restore::handover;
use uffd_restore::tracee::{DEFAULT_STOP_TIMEOUT, StoppedProcess};

#[test]
fn role() {
    play_role(&[("target", target)]);
}

unsafe extern "C" {
    /// Of glibc: distance of the thread's struct rseq from its thread pointer.
    static __rseq_offset: isize;
    static environ: *const *const u8;
}

const SIGNAL_STACK_PAGES: usize = 16;

/// Two threads with a memory of their own for everything that the kernel may be told about. Each says its tid and then the addresses
/// that must be among the pages.
fn target(_: &[&str]) {
    for _ in 0..2 {
        thread::spawn(|| {
            let addresses = settle_down();
            let words: Vec<String> = addresses.iter().map(u64::to_string).collect();
            // The stack pointer at the border between two pages.
            let stack = Area::private(2).address();
            let border = stack + PAGE as u64;
            let tid = nix::unistd::gettid();
            say(&format!("{tid} {stack} {border} {}", words.join(" ")));
            sleep_with_stack(border);
        });
    }
    // SAFETY: the C library's, which nobody changes.
    let first = unsafe { *environ };
    // The arguments of the role alone are some pages of the environment.
    let far = first.addr() + 2 * PAGE;
    say(&format!("0 {} {far}", first.addr()));
    while hear().is_some() {}
    support::end();
}

fn sleep_with_stack(mut pointer: u64) {
    // SAFETY: pause(2) never returns here, because no handler ever runs; if it did, the stack pointer would be put back.
    unsafe {
        std::arch::asm!(
            "xchg rsp, {pointer}",
            "syscall",
            "xchg rsp, {pointer}",
            pointer = inout(reg) pointer,
            inout("rax") libc::SYS_pause => _,
            out("rcx") _,
            out("r11") _,
        );
    }
    unreachable!("{pointer}");
}

fn settle_down() -> Vec<u64> {
    let pointer: usize;
    // SAFETY: reads the word that the thread pointer points to, which is the thread pointer.
    unsafe { std::arch::asm!("mov {}, fs:0", out(reg) pointer) };
    // SAFETY: a constant that the C library sets before main.
    let offset = unsafe { __rseq_offset };
    let glibc_rseq = pointer.checked_add_signed(offset).expect("an address");

    let area = |pages: usize| {
        let area = Area::private(pages);
        usize::try_from(area.address()).expect("an address")
    };
    // Not where the C library has it: that is beside the control block.
    const LEN: usize = 32;
    const SIGNATURE: usize = 0x5305_3053;
    const UNREGISTER: usize = 1;
    let rseq = area(1);
    for arguments in [
        [glibc_rseq, LEN, UNREGISTER, SIGNATURE, 0, 0],
        [rseq, LEN, 0, SIGNATURE, 0, 0],
    ] {
        assert_eq!(syscall(libc::SYS_rseq, arguments), 0);
    }

    let cleared = area(1);
    syscall(libc::SYS_set_tid_address, [cleared, 0, 0, 0, 0, 0]);

    let stack = area(SIGNAL_STACK_PAGES);
    let description = leak(libc::stack_t {
        ss_sp: std::ptr::with_exposed_provenance_mut(stack),
        ss_flags: 0,
        ss_size: SIGNAL_STACK_PAGES * PAGE,
    });
    assert_eq!(
        syscall(libc::SYS_sigaltstack, [description, 0, 0, 0, 0, 0]),
        0
    );

    // Head, two entries of which the second points back to the head, and one that is being locked, each on a page of its own; the futex
    // words lie two pages further on.
    let [head, entry, second, pending] = [area(1), area(3), area(3), area(3)];
    for (address, words) in [
        // The lowest bit says something else and does not belong to the address.
        (head, [entry | 1, 2 * PAGE, pending]),
        (entry, [second, 0, 0]),
        (second, [head, 0, 0]),
    ] {
        // SAFETY: mapped above, and used by this thread and the kernel only.
        unsafe { *std::ptr::with_exposed_provenance_mut::<[usize; 3]>(address) = words };
    }
    assert_eq!(
        syscall(libc::SYS_set_robust_list, [head, 24, 0, 0, 0, 0]),
        0
    );

    let top = stack + (SIGNAL_STACK_PAGES - 1) * PAGE;
    [
        pointer,
        rseq,
        cleared,
        top,
        head,
        entry,
        entry + 2 * PAGE,
        second,
        second + 2 * PAGE,
        pending,
        pending + 2 * PAGE,
    ]
    .map(|address| address as u64)
    .to_vec()
}

#[test]
fn everything_that_the_target_says_is_in_the_set() {
    let mut target = Target::start("target", &"word ".repeat(PAGE));
    let said: Vec<Vec<u64>> = (0..3).map(|_| target.hear_numbers()).collect();
    for line in said.iter().filter(|line| line[0] != 0) {
        let call = || std::fs::read_to_string(format!("/proc/{}/syscall", line[0]));
        wait_until("the thread to sleep", || {
            call().is_ok_and(|text| text.starts_with("34 "))
        });
    }
    let mut stopped = StoppedProcess::stop(target.pid(), DEFAULT_STOP_TIMEOUT).expect("stop");
    let maps = || std::fs::read_to_string(format!("/proc/{}/maps", target.pid())).expect("maps");
    let before = maps();
    let pages = handover::must_be_present(&mut stopped).expect("pages");
    assert!(maps() == before, "mappings left behind");

    let has = |address: u64| pages.contains(&(address & !(PAGE as u64 - 1)));
    for line in &said {
        for (index, address) in line[1..].iter().enumerate() {
            assert!(has(*address), "thread {}, address {index}", line[0]);
        }
    }
    for tid in stopped.thread_ids() {
        let registers = stopped
            .thread(tid)
            .expect("there")
            .registers()
            .expect("registers");
        assert!(has(registers.stack_pointer()), "stack of {tid}");
        assert!(has(registers.stack_pointer() - 128), "red zone of {tid}");
        assert!(has(registers.thread_pointer()), "control block of {tid}");
    }
    assert!(pages.is_sorted_by(|a, b| a < b), "sorted, each once");
    assert!(pages.iter().all(|page| page % PAGE as u64 == 0));
    // All of them mapped, and few: nobody wants to wait for them.
    for page in &pages {
        let mut byte = [0];
        stopped
            .caller()
            .expect("caller")
            .memory()
            .read(*page, &mut byte)
            .expect("mapped");
    }
    assert!(pages.len() < 100, "{}", pages.len());
    stopped.release().expect("release");
    target.finish();
}
