//! A userfaultfd made inside of targets that may not make one themselves, and nothing left behind in them.
#![expect(
    unsafe_code,
    reason = "targets under filters and in namespaces; requests to a userfaultfd"
)]

#[path = "support/sleepers.rs"]
mod sleepers;
mod support;

use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;

use sleepers::{leak, syscall};
use support::area::{Area, PAGE};
use support::{Target, assert_left_alone, hear, play_role, say, state, wait_until};
use uffd_restore::handover::{self, HandoverError};
use uffd_restore::tracee::{DEFAULT_STOP_TIMEOUT, StoppedProcess, TraceError};

#[test]
fn role() {
    play_role(&[
        ("target", target),
        ("crowded", crowded),
        ("headless", headless),
        ("creator", creator),
    ]);
}

fn stop(pid: i32) -> StoppedProcess {
    StoppedProcess::stop(pid, DEFAULT_STOP_TIMEOUT).expect("stop")
}

/// A process that is not permitted this and that, by the words. Says its id and where a page of it lies; then, told so, reads the page
/// with a system call and says the first word of it.
fn target(words: &[&str]) {
    if words.contains(&"namespace") {
        enter_user_namespace();
    }
    if words.contains(&"nobody") {
        nix::unistd::setuid(65534.into()).expect("setuid");
    }
    for (word, action) in [
        (
            "refusing",
            libc::SECCOMP_RET_ERRNO | libc::EPERM.cast_unsigned(),
        ),
        ("killing", libc::SECCOMP_RET_KILL_PROCESS),
    ] {
        if words.contains(&word) {
            forbid(action);
        }
    }
    serve_page();
}

fn serve_page() {
    let area = Area::private(1);
    say(&format!("{} {}", std::process::id(), area.address()));
    while hear().is_some() {
        // Through the kernel, which reads the page in kernel mode.
        let (read, write) = nix::unistd::pipe().expect("pipe");
        let page = usize::try_from(area.address()).expect("an address");
        let [read, write] =
            [&read, &write].map(|end| usize::try_from(end.as_raw_fd()).expect("fd"));
        assert_eq!(syscall(libc::SYS_write, [write, page, 8, 0, 0, 0]), 8);
        let word = leak(0_u64);
        assert_eq!(syscall(libc::SYS_read, [read, word, 8, 0, 0, 0]), 8);
        // SAFETY: leaked above, written by the kernel only.
        let word = unsafe { *std::ptr::with_exposed_provenance::<u64>(word) };
        say(&word.to_string());
    }
    support::end();
}

/// Only a process with a single thread can: a child goes on in this one's place.
fn enter_user_namespace() {
    // SAFETY: the child goes on with what a fork of a process with several threads leaves usable: memory and descriptors; the C
    // library makes malloc usable too, and no lock of this program was held.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child > 0 {
        // SAFETY: waits for the child and stores nothing.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
        support::end();
    }
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("death signal");
    // SAFETY: plain numbers.
    let result = unsafe { libc::unshare(libc::CLONE_NEWUSER) };
    assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
    std::fs::write("/proc/self/uid_map", "0 0 1").expect("uid_map");
}

/// In all threads: what is needed to get a userfaultfd into this process.
fn forbid(action: u32) {
    let forbidden = [
        libc::SYS_userfaultfd,
        libc::SYS_socketpair,
        libc::SYS_recvmsg,
        libc::SYS_ioctl,
        libc::SYS_prctl,
    ];
    let filter = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    // Load the number; to the last line for each that is forbidden.
    let mut program = vec![filter(0x20, 0, 0)];
    for (index, number) in forbidden.iter().enumerate() {
        let jump = u8::try_from(forbidden.len() - index).expect("small");
        program.push(filter(0x15, jump, u32::try_from(*number).expect("small")));
    }
    program.push(filter(0x06, 0, libc::SECCOMP_RET_ALLOW));
    program.push(filter(0x06, 0, action));
    let len = u16::try_from(program.len()).expect("small");
    let filter = Vec::leak(program).as_mut_ptr();
    let program = leak(libc::sock_fprog { len, filter });
    // PR_SET_NO_NEW_PRIVS; SECCOMP_SET_MODE_FILTER with TSYNC.
    assert_eq!(syscall(libc::SYS_prctl, [38, 1, 0, 0, 0, 0]), 0);
    assert_eq!(syscall(libc::SYS_seccomp, [1, 1, program, 0, 0, 0]), 0);
}

/// What must not change.
fn belongings(pid: i32) -> (Vec<String>, String) {
    let mut open: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("fd")
        .map(|entry| {
            let path = entry.expect("entry").path();
            let file = std::fs::read_link(&path).expect("link");
            format!("{} {}", path.display(), file.display())
        })
        .collect();
    open.sort();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    (open, maps)
}

fn ioctl<T>(uffd: &OwnedFd, request: libc::c_ulong, argument: &mut T) {
    // SAFETY: the tests below pass the structure that the request wants.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    assert_eq!(
        result,
        0,
        "{request:#x}: {}",
        std::io::Error::last_os_error()
    );
}

/// UFFDIO_API and UFFDIO_REGISTER for missing pages.
fn register(uffd: &OwnedFd, page: u64) {
    let mut api = [0xaa_u64, 0, 0];
    ioctl(uffd, 0xc018_aa3f, &mut api);
    let mut register = [page, PAGE as u64, 1, 0];
    ioctl(uffd, 0xc020_aa00, &mut register);
}

/// Waits for a fault and fills its page.
fn serve_one(uffd: &OwnedFd, page: u64) {
    let mut poll = libc::pollfd {
        fd: uffd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd that lives until the call returns.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 60_000) };
    assert_eq!((ready, poll.revents), (1, libc::POLLIN));
    let mut message = [0_u64; 4];
    // SAFETY: the buffer has 32 bytes and lives until the call returns.
    let got = unsafe { libc::read(uffd.as_raw_fd(), message.as_mut_ptr().cast(), 32) };
    assert_eq!((got, message[0] & 0xff), (32, 0x12));
    assert_eq!(message[2], page);
    let content = vec![0x5a_u8; PAGE];
    let mut copy = [
        page,
        content.as_ptr().expose_provenance() as u64,
        PAGE as u64,
        0,
        0,
    ];
    ioctl(uffd, 0xc028_aa03, &mut copy);
}

/// The target's id and the address of its page.
fn hear_page(target: &mut Target) -> (i32, u64) {
    let numbers = target.hear_numbers();
    (i32::try_from(numbers[0]).expect("a pid"), numbers[1])
}

#[test]
fn it_serves_faults_of_kernel_mode_whatever_the_target_may_do() {
    for case in [
        "",
        "nobody",
        "refusing",
        "killing",
        "nobody killing",
        "namespace",
    ] {
        let mut target = Target::start("target", case);
        let (pid, page) = hear_page(&mut target);
        let mut stopped = stop(pid);
        let before = belongings(pid);
        let uffd = handover::create(&mut stopped).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert!(belongings(pid) == before, "{case}: left something behind");
        register(&uffd, page);
        stopped.release().expect("release");
        assert_left_alone(pid);
        target.tell("read");
        serve_one(&uffd, page);
        assert_eq!(target.hear_numbers(), [0x5a5a_5a5a_5a5a_5a5a], "{case}");
        let flags = nix::fcntl::fcntl(&uffd, nix::fcntl::FcntlArg::F_GETFL).expect("flags");
        assert_ne!(flags & libc::O_NONBLOCK, 0);
        let close = nix::fcntl::fcntl(&uffd, nix::fcntl::FcntlArg::F_GETFD).expect("flags");
        assert_eq!(close, libc::FD_CLOEXEC);
        drop(uffd);
        target.finish();
    }
}

/// Has only so many descriptors left as the word says.
fn crowded(words: &[&str]) {
    let open = leave_free(words[0].parse().expect("a number"));
    say(&std::process::id().to_string());
    while hear().is_some() {}
    drop(open);
    support::end();
}

/// Opens files until there is room for so many more.
fn leave_free(free: usize) -> Vec<std::fs::File> {
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64)
        .expect("setrlimit");
    let mut open = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        open.push(file);
    }
    open.truncate(open.len() - free);
    open
}

#[test]
fn two_free_descriptors_are_enough_and_fewer_are_an_error() {
    for free in 0..=3 {
        let mut target = Target::start("crowded", &free.to_string());
        target.hear();
        let mut stopped = stop(target.pid());
        let before = belongings(target.pid());
        let created = handover::create(&mut stopped).map(drop);
        assert!(belongings(target.pid()) == before, "left something behind");
        match (free, created) {
            (0 | 1, Err(error @ HandoverError::TooManyFiles { .. })) => {
                assert!(error.to_string().contains("--nofile"), "{error}");
            }
            (2 | 3, Ok(())) => {}
            (_, other) => panic!("{free}: {other:?}"),
        }
        stopped.release().expect("release");
        target.finish();
    }
}

/// The leader ends; another thread goes on.
fn headless(_: &[&str]) {
    thread::spawn(serve_page);
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
    let pid = usize::try_from(std::process::id()).expect("a pid");
    let signal = usize::try_from(libc::SIGUSR1).expect("small");
    assert_eq!(syscall(libc::SYS_tgkill, [pid, pid, signal, 0, 0, 0]), 0);
    loop {
        thread::park();
    }
}

#[test]
fn a_process_whose_leader_has_ended_gets_one_through_another_thread() {
    let mut target = Target::start("headless", "");
    let (pid, page) = hear_page(&mut target);
    wait_until("the leader to end", || state(pid) == 'Z');
    let mut stopped = stop(pid);
    let tid = stopped.memory_tid();
    assert_ne!(tid, pid);
    let before = belongings(tid);
    let uffd = handover::create(&mut stopped).expect("create");
    assert!(belongings(tid) == before, "left something behind");
    assert!(
        handover::must_be_present(&mut stopped)
            .expect("pages")
            .len()
            > 2
    );
    register(&uffd, page);
    stopped.release().expect("release");
    target.tell("read");
    serve_one(&uffd, page);
    assert_eq!(target.hear_numbers(), [0x5a5a_5a5a_5a5a_5a5a]);
    drop(uffd);
    target.finish();
}

/// Creates one for the process with this id: without the device, without the right to suspend filters, or with few
/// descriptors. Says how it went.
fn creator(words: &[&str]) {
    let pid: i32 = words[0].parse().expect("a pid");
    match words[1] {
        "deviceless" => {
            // SAFETY: plain numbers; affects this thread only.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
            let private = nix::mount::MsFlags::MS_PRIVATE | nix::mount::MsFlags::MS_REC;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .expect("make mounts private");
            let none = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("none"), "/dev", Some("tmpfs"), none, None::<&str>)
                .expect("hide the devices");
        }
        "powerless" => drop_cap_sys_admin(),
        _ => {}
    }
    let mut stopped = stop(pid);
    let before = belongings(pid);
    if words[1] == "crowded" {
        // With each number another step is the one that fails.
        let errors: Vec<String> = (0..6)
            .filter_map(|free| {
                let ballast = leave_free(free);
                let created = handover::create(&mut stopped);
                drop(ballast);
                assert!(belongings(pid) == before, "left something behind");
                created.err().map(|error| error.to_string())
            })
            .collect();
        say(&errors.join(" "));
        return;
    }
    let created = handover::create(&mut stopped);
    assert!(belongings(pid) == before, "left something behind");
    match created {
        Ok(uffd) => {
            register(&uffd, words[2].parse().expect("an address"));
            say("created");
        }
        Err(error) => say(&error.to_string()),
    }
}

fn drop_cap_sys_admin() {
    const CAP_SYS_ADMIN: u32 = 21;
    // _LINUX_CAPABILITY_VERSION_3, this thread; effective, permitted, inheritable, twice.
    let header = leak([0x2008_0522_u32, 0]);
    let data = leak([0_u32; 6]);
    assert_eq!(syscall(libc::SYS_capget, [header, data, 0, 0, 0, 0]), 0);
    let sets = std::ptr::with_exposed_provenance_mut::<[u32; 6]>(data);
    // SAFETY: leaked above, used by the kernel and this function only.
    let mut changed = unsafe { *sets };
    changed[0] &= !(1 << CAP_SYS_ADMIN);
    // SAFETY: as above.
    unsafe { *sets = changed };
    assert_eq!(syscall(libc::SYS_capset, [header, data, 0, 0, 0, 0]), 0);
}

/// What a creator of this kind says about a target of that kind.
fn creator_says(kind: &str, target: &str) -> String {
    let mut target = Target::start("target", target);
    let (pid, page) = hear_page(&mut target);
    let said = Target::start("creator", &format!("{pid} {kind} {page}")).hear();
    assert_left_alone(pid);
    target.finish();
    said
}

#[test]
fn without_the_device_the_system_call_is_used_if_the_target_may() {
    assert_eq!(creator_says("deviceless", ""), "created");
    assert_eq!(creator_says("deviceless", "killing"), "created");
    let error = creator_says("deviceless", "nobody");
    for part in [
        "/dev/userfaultfd",
        "No such file",
        "CAP_SYS_PTRACE",
        "vm.unprivileged_userfaultfd",
        "EPERM",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
}

#[test]
fn a_filter_that_cannot_be_suspended_is_not_tried() {
    assert_eq!(creator_says("powerless", "nobody"), "created");
    let error = creator_says("powerless", "killing");
    assert!(
        error.contains("seccomp") && error.contains("CAP_SYS_ADMIN"),
        "{error}"
    );
}

#[test]
fn a_failure_half_way_leaves_nothing_behind() {
    let error = creator_says("crowded", "");
    assert!(
        error.contains("fetch") && error.contains("ulimit -n"),
        "{error}"
    );
}

#[test]
fn a_target_killed_at_any_moment_has_ended() {
    let mut created = 0;
    for round in 0..30 {
        let mut target = Target::start("target", "");
        let (pid, _) = hear_page(&mut target);
        let mut stopped = stop(pid);
        let killer = thread::spawn(move || {
            for _ in 0..round * 10 {
                thread::yield_now();
            }
            target.kill();
            target
        });
        let error = loop {
            match handover::create(&mut stopped) {
                Ok(_) => created += 1,
                Err(error) => break error,
            }
        };
        // Before anything else that could panic: the zombie waits for its tracer.
        stopped.release().expect("nothing left to release");
        drop(killer.join().expect("the killer"));
        assert!(
            matches!(error, HandoverError::Trace(TraceError::Ended { .. })),
            "{error}"
        );
    }
    assert!(created > 0, "never got that far");
}

#[test]
fn a_pidfd_tells_the_end() {
    let mut target = Target::start("target", "");
    let (pid, _) = hear_page(&mut target);
    let pidfd = handover::pidfd(pid).expect("pidfd");
    let ended = |time_out: i32| {
        let mut poll = libc::pollfd {
            fd: pidfd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one pollfd that lives until the call returns.
        unsafe { libc::poll(&raw mut poll, 1, time_out) == 1 }
    };
    assert!(!ended(0));
    target.kill();
    assert!(ended(60_000));
    assert!(handover::pidfd(i32::MAX).is_err());
}
