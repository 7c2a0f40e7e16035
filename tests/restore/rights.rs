//! Targets that are not allowed much, and targets in namespaces of their own.
#![expect(unsafe_code, reason = "namespaces, and filters of system calls")]

use std::io::{Read, Write};

use nix::sys::signal::Signal;

use crate::family;
use crate::kernel::pipe;
use crate::memory::{Memory, call, flag, leak};
use crate::scene::{Captured, be_rolled_back_as};
use crate::support::{Role, end, say};

pub(crate) const ROLES: &[(&str, Role)] = &[("humble", humble)];

const PAGES: usize = 256;

fn humble(words: &[&str]) {
    let mut pid = std::process::id();
    if words.contains(&"namespaces") {
        pid = enter_namespaces();
    }
    if words.contains(&"nobody") {
        nix::unistd::setuid(65534.into()).expect("setuid");
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("death signal");
    if words.contains(&"refusing") {
        forbid(libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned());
    }
    if words.contains(&"killing") {
        forbid(libc::SECCOMP_RET_KILL_PROCESS);
    }
    let memory = Memory::private(0, PAGES);
    be_rolled_back_as(pid, &[memory]);
    (0..PAGES / 4).for_each(|page| memory.check(page));
    // Through the kernel.
    let (mut read, write) = pipe();
    let page = (PAGES / 4..PAGES)
        .find(|page| page % 5 != 3)
        .expect("one with content");
    let arguments = [crate::kernel::number(&write), memory.at(page), 8, 0, 0, 0];
    assert_eq!(call(libc::SYS_write, arguments).expect("write"), 8);
    let mut word = [0; 8];
    read.read_exact(&mut word).expect("read");
    assert_eq!(word, crate::memory::bytes_of(memory.captured(page))[..8]);
    family::start(|| memory.check_all()).join();
    memory.check_all();
    say("right");
    end();
}

/// The rest is done by a process in a user namespace and a pid namespace of its own, as a child of this one. Returns its
/// id outside of them.
fn enter_namespaces() -> u32 {
    let (mut read, mut write) = pipe();
    // Only a process with one thread can enter a user namespace.
    let Some(first) = fork_and_follow() else {
        // SAFETY: plain numbers.
        let result = unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) };
        assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
        std::fs::write("/proc/self/uid_map", "0 0 1").expect("uid_map");
        if let Some(second) = fork_and_follow() {
            write.write_all(&second.to_le_bytes()).expect("write");
            wait_and_end(second);
        }
        let mut pid = [0; 4];
        read.read_exact(&mut pid).expect("read");
        assert_eq!(std::process::id(), 1);
        return u32::from_le_bytes(pid);
    };
    wait_and_end(first);
}

/// The child of a fork, which dies with its parent; `None` in the child.
fn fork_and_follow() -> Option<u32> {
    // SAFETY: the child uses what fork leaves usable: its memory, its descriptors, and malloc.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("death signal");
        nix::unistd::alarm::set(120);
        return None;
    }
    Some(child.cast_unsigned())
}

fn wait_and_end(child: u32) -> ! {
    let child = nix::unistd::Pid::from_raw(child.cast_signed());
    let status = nix::sys::wait::waitpid(child, None).expect("a child");
    assert_eq!(status, nix::sys::wait::WaitStatus::Exited(child, 0));
    end();
}

/// In all threads: what is needed to get a userfaultfd into this process.
fn forbid(action: u32) {
    let forbidden = [
        libc::SYS_userfaultfd,
        libc::SYS_socketpair,
        libc::SYS_recvmsg,
        libc::SYS_ioctl,
    ];
    let line = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    // Load the number; to the last line for each that is forbidden.
    let mut program = vec![line(0x20, 0, 0)];
    for (index, number) in forbidden.iter().enumerate() {
        let jump = u8::try_from(forbidden.len() - index).expect("small");
        program.push(line(0x15, jump, u32::try_from(*number).expect("small")));
    }
    program.push(line(0x06, 0, libc::SECCOMP_RET_ALLOW));
    program.push(line(0x06, 0, action));
    let len = u16::try_from(program.len()).expect("small");
    let filter = Vec::leak(program).as_mut_ptr();
    let program = leak(libc::sock_fprog { len, filter });
    let no_new_privileges = flag(libc::PR_SET_NO_NEW_PRIVS);
    call(libc::SYS_prctl, [no_new_privileges, 1, 0, 0, 0, 0]).expect("prctl");
    // SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC.
    call(libc::SYS_seccomp, [1, 1, program, 0, 0, 0]).expect("seccomp");
}

#[test]
fn targets_that_may_not_do_much() {
    for case in [
        "nobody",
        "refusing",
        "nobody killing",
        "namespaces",
        "namespaces killing",
    ] {
        eprintln!("{case}");
        let done = Captured::new("humble", case).restore(&[]).finish();
        assert_eq!(done.events("fork"), 1, "{case}: {done:?}");
        assert!(done.all_pages() > PAGES as u64, "{case}: {done:?}");
        assert!(done.pages("demand") > PAGES as u64 / 2, "{case}: {done:?}");
    }
}
