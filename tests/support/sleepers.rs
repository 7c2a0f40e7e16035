//! Every system call that can sleep and be interrupted, as far as a program meets them.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::io;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicI64, Ordering};

/// One minute: time-outs never end while a test runs.
const LONG: libc::timespec = libc::timespec {
    tv_sec: 60,
    tv_nsec: 0,
};

/// A call that sleeps: its name, its number, and how to make it. The result is what the kernel returned.
pub(crate) struct Sleeper {
    pub(crate) name: &'static str,
    pub(crate) number: i64,
    pub(crate) call: Box<dyn Fn() -> i64 + Send>,
}

/// A system call with plain numbers, or addresses of things that live as long as the process.
pub(crate) fn syscall(number: i64, arguments: [usize; 6]) -> i64 {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the callers below pass descriptors, numbers, and addresses of leaked values of the type that the call wants.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if result == -1 {
        -i64::from(io::Error::last_os_error().raw_os_error().unwrap_or(0))
    } else {
        result
    }
}

pub(crate) fn leak<T>(value: T) -> usize {
    std::ptr::from_mut(Box::leak(Box::new(value))).expose_provenance()
}

pub(crate) fn descriptor(number: i64, arguments: [usize; 6]) -> usize {
    usize::try_from(syscall(number, arguments))
        .unwrap_or_else(|_| panic!("system call {number} failed"))
}

fn mask_of(signal: i32) -> u64 {
    1 << (signal - 1)
}

pub(crate) fn block(signal: i32) {
    let set = leak(mask_of(signal));
    let how = usize::try_from(libc::SIG_BLOCK).expect("small");
    assert_eq!(syscall(libc::SYS_rt_sigprocmask, [how, set, 0, 8, 0, 0]), 0);
}

fn socket_pair() -> (usize, usize) {
    let pair = leak([0_i32; 2]);
    let kind = usize::try_from(libc::SOCK_STREAM).expect("small");
    assert_eq!(syscall(libc::SYS_socketpair, [1, kind, 0, pair, 0, 0]), 0);
    // SAFETY: leaked above, and written by the kernel only.
    let pair = unsafe { *std::ptr::with_exposed_provenance::<[i32; 2]>(pair) };
    (
        usize::try_from(pair[0]).expect("fd"),
        usize::try_from(pair[1]).expect("fd"),
    )
}

fn with_time_out(socket: usize, option: i32) -> usize {
    let time = leak(libc::timeval {
        tv_sec: 60,
        tv_usec: 0,
    });
    let option = usize::try_from(option).expect("small");
    assert_eq!(
        syscall(
            libc::SYS_setsockopt,
            [socket, 1, option, time, size_of::<libc::timeval>(), 0]
        ),
        0
    );
    socket
}

fn listener() -> usize {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    usize::try_from(socket.into_raw_fd()).expect("fd")
}

fn full_socket() -> usize {
    let (socket, _other) = socket_pair();
    let bytes = leak([0_u8; 65536]);
    let dont_wait = usize::try_from(libc::MSG_DONTWAIT).expect("small");
    while syscall(libc::SYS_sendto, [socket, bytes, 65536, dont_wait, 0, 0]) > 0 {}
    socket
}

/// Every call that can sleep and be interrupted, as far as a program meets them.
pub(crate) fn calls() -> Vec<Sleeper> {
    let mut calls = Vec::new();
    let mut add = |name, number, call: Box<dyn Fn() -> i64 + Send>| {
        calls.push(Sleeper { name, number, call });
    };
    // The address of LONG is a constant for the kernel to read; nanosleep writes the remainder elsewhere.
    let long = leak(LONG);
    let forever = usize::MAX;
    add_polling(&mut add, long, forever);
    add_sockets(&mut add);
    add_signals(&mut add, long);
    let semaphore = descriptor(libc::SYS_semget, [0, 1, 0o600 | 0o1000, 0, 0, 0]);
    let operation = leak(libc::sembuf {
        sem_num: 0,
        sem_op: -1,
        sem_flg: 0,
    });
    // Removed by the role at its end; a killed role leaves it, as System V has it.
    SEMAPHORE.store(i64::try_from(semaphore).expect("small"), Ordering::SeqCst);
    add(
        "semtimedop",
        libc::SYS_semtimedop,
        Box::new(move || syscall(libc::SYS_semtimedop, [semaphore, operation, 1, long, 0, 0])),
    );
    add(
        "semop",
        libc::SYS_semop,
        Box::new(move || syscall(libc::SYS_semop, [semaphore, operation, 1, 0, 0, 0])),
    );
    add(
        "nanosleep",
        libc::SYS_nanosleep,
        Box::new(move || syscall(libc::SYS_nanosleep, [long, leak(LONG), 0, 0, 0, 0])),
    );
    add(
        "clock_nanosleep",
        libc::SYS_clock_nanosleep,
        Box::new(move || {
            let mut now =
                nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("clock");
            *now.as_mut() = libc::timespec {
                tv_sec: now.tv_sec() + 60,
                tv_nsec: now.tv_nsec(),
            };
            syscall(
                libc::SYS_clock_nanosleep,
                [1, 1, leak(*now.as_ref()), 0, 0, 0],
            )
        }),
    );
    let word = leak(0_u32);
    add(
        "futex",
        libc::SYS_futex,
        Box::new(move || syscall(libc::SYS_futex, [word, 128, 0, 0, 0, 0])),
    );
    add(
        "futex with time-out",
        libc::SYS_futex,
        Box::new(move || syscall(libc::SYS_futex, [word, 128, 0, long, 0, 0])),
    );
    let (pipe, keep) = nix::unistd::pipe().expect("pipe");
    std::mem::forget(keep);
    let pipe = usize::try_from(pipe.into_raw_fd()).expect("fd");
    let byte = leak(0_u8);
    add(
        "read pipe",
        libc::SYS_read,
        Box::new(move || syscall(libc::SYS_read, [pipe, byte, 1, 0, 0, 0])),
    );
    let inotify = descriptor(libc::SYS_inotify_init1, [0; 6]);
    let event = leak([0_u64; 64]);
    add(
        "read inotify",
        libc::SYS_read,
        Box::new(move || syscall(libc::SYS_read, [inotify, event, 512, 0, 0, 0])),
    );
    let context = leak(0_usize);
    assert_eq!(syscall(libc::SYS_io_setup, [4, context, 0, 0, 0, 0]), 0);
    // SAFETY: leaked above, written by io_setup.
    let context = unsafe { *std::ptr::with_exposed_provenance::<usize>(context) };
    add(
        "io_getevents",
        libc::SYS_io_getevents,
        Box::new(move || {
            syscall(
                libc::SYS_io_getevents,
                [context, 1, 1, leak([0_u64; 4]), long, 0],
            )
        }),
    );
    let ring = syscall(libc::SYS_io_uring_setup, [4, leak([0_u64; 15]), 0, 0, 0, 0]);
    if let Ok(ring) = usize::try_from(ring) {
        add(
            "io_uring_enter",
            libc::SYS_io_uring_enter,
            Box::new(move || syscall(libc::SYS_io_uring_enter, [ring, 0, 1, 1, 0, 0])),
        );
    }
    calls
}

/// The semaphore set that the calls use; 0 or more.
pub(crate) static SEMAPHORE: AtomicI64 = AtomicI64::new(-1);
type Add<'a> = dyn FnMut(&'static str, i64, Box<dyn Fn() -> i64 + Send>) + 'a;

fn add_polling(add: &mut Add<'_>, long: usize, forever: usize) {
    let epoll = descriptor(libc::SYS_epoll_create1, [0; 6]);
    let events = leak([0_u64; 8]);
    add(
        "epoll_wait",
        libc::SYS_epoll_wait,
        Box::new(move || syscall(libc::SYS_epoll_wait, [epoll, events, 1, forever, 0, 0])),
    );
    add(
        "epoll_wait with time-out",
        libc::SYS_epoll_wait,
        Box::new(move || syscall(libc::SYS_epoll_wait, [epoll, events, 1, 60_000, 0, 0])),
    );
    let nothing_blocked = leak(0_u64);
    add(
        "epoll_pwait",
        libc::SYS_epoll_pwait,
        Box::new(move || {
            syscall(
                libc::SYS_epoll_pwait,
                [epoll, events, 1, forever, nothing_blocked, 8],
            )
        }),
    );
    add(
        "epoll_pwait2",
        libc::SYS_epoll_pwait2,
        Box::new(move || {
            syscall(
                libc::SYS_epoll_pwait2,
                [epoll, events, 1, long, nothing_blocked, 8],
            )
        }),
    );
    add(
        "poll",
        libc::SYS_poll,
        Box::new(move || syscall(libc::SYS_poll, [0, 0, forever, 0, 0, 0])),
    );
    add(
        "poll with time-out",
        libc::SYS_poll,
        Box::new(move || syscall(libc::SYS_poll, [0, 0, 60_000, 0, 0, 0])),
    );
    add(
        "ppoll",
        libc::SYS_ppoll,
        Box::new(move || syscall(libc::SYS_ppoll, [0, 0, leak(LONG), nothing_blocked, 8, 0])),
    );
    add(
        "select",
        libc::SYS_select,
        Box::new(move || {
            syscall(
                libc::SYS_select,
                [
                    0,
                    0,
                    0,
                    0,
                    leak(libc::timeval {
                        tv_sec: 60,
                        tv_usec: 0,
                    }),
                    0,
                ],
            )
        }),
    );
}

fn add_sockets(add: &mut Add<'_>) {
    let byte = leak(0_u8);
    let receive = |time_out: bool| {
        let (socket, _other) = socket_pair();
        if time_out {
            with_time_out(socket, libc::SO_RCVTIMEO)
        } else {
            socket
        }
    };
    for (name, socket) in [
        ("recv", receive(false)),
        ("recv with time-out", receive(true)),
    ] {
        add(
            name,
            libc::SYS_recvfrom,
            Box::new(move || syscall(libc::SYS_recvfrom, [socket, byte, 1, 0, 0, 0])),
        );
    }
    let socket = receive(true);
    add(
        "read socket with time-out",
        libc::SYS_read,
        Box::new(move || syscall(libc::SYS_read, [socket, byte, 1, 0, 0, 0])),
    );
    for (name, socket) in [
        ("accept", listener()),
        (
            "accept with time-out",
            with_time_out(listener(), libc::SO_RCVTIMEO),
        ),
    ] {
        add(
            name,
            libc::SYS_accept,
            Box::new(move || syscall(libc::SYS_accept, [socket, 0, 0, 0, 0, 0])),
        );
    }
    let full = with_time_out(full_socket(), libc::SO_SNDTIMEO);
    add(
        "send with time-out",
        libc::SYS_sendto,
        Box::new(move || syscall(libc::SYS_sendto, [full, leak([0_u8; 4096]), 4096, 0, 0, 0])),
    );
}

fn add_signals(add: &mut Add<'_>, long: usize) {
    let set = leak(mask_of(libc::SIGUSR2));
    add(
        "rt_sigtimedwait",
        libc::SYS_rt_sigtimedwait,
        Box::new(move || {
            block(libc::SIGUSR2);
            syscall(libc::SYS_rt_sigtimedwait, [set, 0, long, 8, 0, 0])
        }),
    );
    let nothing = leak(0_u64);
    add(
        "rt_sigsuspend",
        libc::SYS_rt_sigsuspend,
        Box::new(move || syscall(libc::SYS_rt_sigsuspend, [nothing, 8, 0, 0, 0, 0])),
    );
    add(
        "pause",
        libc::SYS_pause,
        Box::new(|| syscall(libc::SYS_pause, [0; 6])),
    );
    add(
        "wait4",
        libc::SYS_wait4,
        Box::new(|| {
            // Ends when this process does, which closes its input.
            let mut child = std::process::Command::new("cat")
                .stdin(std::process::Stdio::piped())
                .spawn()
                .expect("cat");
            let id = usize::try_from(child.id()).expect("pid");
            let result = syscall(libc::SYS_wait4, [id, 0, 0, 0, 0, 0]);
            drop(child.kill().and_then(|()| child.wait()));
            result
        }),
    );
}
