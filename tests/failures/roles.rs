//! What targets do.
#![expect(
    unsafe_code,
    reason = "loads that may fail, children, and the system calls of userfaultfd"
)]

use std::arch::asm;
use std::io::Error;
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::lab::CONTENT;
use super::support::area::{Area, PAGE};
use super::support::{end, hear, say};

/// The first word of a page before anything is restored: this, plus its number.
const OLD: u64 = 0x01d0_0000_0000;
/// What a load that ended in SIGBUS loads.
const SIGBUS: u64 = 0xdead_5169_b055;

/// Memory of some pages with a content of its own. Says its address, and does what it is told.
pub(crate) fn memory(words: &[&str]) {
    let pages = words[0].parse().expect("pages");
    let area = if words.contains(&"shared") {
        Area::shared(pages)
    } else {
        Area::private(pages)
    };
    for page in 0..pages {
        area.write(page, OLD + page as u64);
        last_word(&area, page);
    }
    catch_sigbus();
    if words.contains(&"nobody") {
        nix::unistd::setgid(65534.into()).expect("setgid");
        nix::unistd::setuid(65534.into()).expect("setuid");
        nix::sys::prctl::set_dumpable(true).expect("dumpable");
    }
    if words.contains(&"full") {
        fill_descriptors();
    }
    if words.contains(&"zombie") {
        zombie();
    }
    let registered = words
        .iter()
        .find_map(|word| word.strip_prefix("registered="));
    if let Some(mode) = registered {
        register(&area, mode.parse().expect("a mode"));
    }
    say(&format!("{:#x}", area.address()));
    if words.contains(&"eager") {
        say(&format!("{:#x}", private_memfd(pages).address()));
    }
    while let Some(line) = hear() {
        obey(&area, &line);
    }
    end();
}

fn obey(area: &Area, line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = || words[1].parse::<usize>().expect("a number");
    match words[0] {
        "survey" => say(&survey(area)),
        "read" => say(&name_of(load(area.address() + offset(number())), number())),
        "write" => {
            area.write(number(), 7);
            say(&area.read(number()).to_string());
        }
        "send" => say(&send(area, number())),
        "child" => say(&in_child(false, || touch_without_handler(area, number()))),
        "namespaced" => say(&in_child(true, || touch_without_handler(area, number()))),
        "linger" => linger(area, number()),
        "orphan" => orphan(area),
        "sleeper" => sleeper(area),
        "exec" => {
            let error = Command::new("sleep").arg("60").exec();
            panic!("exec: {error}");
        }
        "exit" => end(),
        other => panic!("{other}?"),
    }
}

/// How many pages are new, old, poisoned, zero, and anything else.
fn survey(area: &Area) -> String {
    let mut counts = [0_usize; 5];
    for page in 0..area.pages {
        let word = load(area.address() + offset(page));
        let last = load(area.address() + offset(page) + PAGE as u64 - 8);
        let expected = CONTENT + page as u64;
        let class = match word {
            word if word == expected && last == expected => 0,
            word if word == OLD + page as u64 && last == word => 1,
            SIGBUS => 2,
            0 => 3,
            _ => 4,
        };
        counts[class] += 1;
    }
    counts.map(|count| count.to_string()).join(" ")
}

fn name_of(word: u64, page: usize) -> String {
    match word {
        SIGBUS => "sigbus".to_owned(),
        word if word == CONTENT + page as u64 => "new".to_owned(),
        word if word == OLD + page as u64 => "old".to_owned(),
        word => format!("{word:#x}"),
    }
}

fn offset(page: usize) -> u64 {
    (page * PAGE) as u64
}

fn last_word(area: &Area, page: usize) {
    let address = usize::try_from(area.address() + offset(page)).expect("an address") + PAGE - 8;
    // SAFETY: the last word of a page of the area.
    unsafe { *std::ptr::with_exposed_provenance_mut::<u64>(address) = OLD + page as u64 };
}

/// A load whose failure is a value.
fn load(address: u64) -> u64 {
    let value: u64;
    // SAFETY: `mov rax, [rdi]`, in the three bytes that the handler of SIGBUS steps over.
    unsafe {
        asm!(".byte 0x48, 0x8b, 0x07", in("rdi") address, out("rax") value, options(nostack, readonly));
    }
    value
}

fn catch_sigbus() {
    // SAFETY: zeros are a value of it: no mask, no flags.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_flags = libc::SA_SIGINFO;
    let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) = step_over;
    action.sa_sigaction = handler as usize;
    // SAFETY: the handler calls nothing, and returns behind the load that failed.
    let result = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    assert_eq!(result, 0);
}

extern "C" fn step_over(_: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let context = context.cast::<libc::ucontext_t>();
    // SAFETY: the kernel passes the context that it will restore, and nobody else has it.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    registers[usize::try_from(libc::REG_RIP).unwrap_or(0)] += 3;
    registers[usize::try_from(libc::REG_RAX).unwrap_or(0)] = SIGBUS.cast_signed();
}

/// The kernel reads a page for us.
fn send(area: &Area, page: usize) -> String {
    let (_read, write) = nix::unistd::pipe().expect("pipe");
    let address = usize::try_from(area.address() + offset(page)).expect("an address");
    // SAFETY: the kernel reads eight bytes of the area, or fails.
    let sent = unsafe {
        libc::write(
            std::os::fd::AsRawFd::as_raw_fd(&write),
            std::ptr::with_exposed_provenance(address),
            8,
        )
    };
    if sent == 8 {
        "sent".to_owned()
    } else {
        Error::last_os_error()
            .raw_os_error()
            .map_or(String::new(), |number| {
                nix::errno::Errno::from_raw(number).to_string()
            })
    }
}

/// A child that dies of SIGBUS, if that is what it gets, and otherwise ends with the class of the page.
fn touch_without_handler(area: &Area, page: usize) -> i32 {
    // SAFETY: back to the default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    match load(area.address() + offset(page)) {
        0 => 10,
        word if word == CONTENT + page as u64 => 0,
        _ => 11,
    }
}

/// Runs something in a child, in a pid namespace of its own if asked for, and tells how the child ended.
fn in_child(namespaced: bool, what: impl FnOnce() -> i32) -> String {
    if namespaced {
        // SAFETY: plain numbers; children live in a new namespace from now on.
        let result = unsafe { libc::unshare(libc::CLONE_NEWPID) };
        assert_eq!(result, 0, "unshare: {}", Error::last_os_error());
    }
    let child = fork(|| {
        let status = what();
        // SAFETY: ends this process and nothing else.
        unsafe { libc::_exit(status) };
    });
    wait_for(child)
}

fn wait_for(child: i32) -> String {
    let mut status = 0;
    // SAFETY: the kernel writes the status.
    let got = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(got, child);
    if libc::WIFSIGNALED(status) {
        format!("signal {}", libc::WTERMSIG(status))
    } else {
        format!("exit {}", libc::WEXITSTATUS(status))
    }
}

fn fork(child: impl FnOnce()) -> i32 {
    // SAFETY: the child uses memory and descriptors, and locks that no other thread of this program holds: they all wait.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", Error::last_os_error());
    if pid == 0 {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("death signal");
        child();
    }
    pid
}

/// Children that say their ids and wait until they are killed; each reads a page first. Then says how many were right.
fn linger(area: &Area, count: usize) {
    let mut children = Vec::new();
    for page in 0..count {
        children.push(fork(|| {
            say(&format!(
                "{} {}",
                std::process::id(),
                name_of(load(area.address() + offset(page)), page)
            ));
            loop {
                nix::unistd::pause();
            }
        }));
    }
    say("all forked");
    for child in children {
        assert_eq!(wait_for(child), "signal 9");
    }
    say("all ended");
}

/// A child that goes on when this process has ended: its survey goes to the test, when it says so.
/// A child that outlives its parent, standing still; it looks at all memory when it is continued.
fn sleeper(area: &Area) {
    // SAFETY: see `fork`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        nix::unistd::alarm::set(60);
        say(&std::process::id().to_string());
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).expect("stop");
        say(&survey(area));
        // SAFETY: ends this process and nothing else.
        unsafe { libc::_exit(0) };
    }
    if hear().is_some() {
        end();
    }
}

fn orphan(area: &Area) {
    let parent = nix::unistd::getpid();
    // SAFETY: see `fork`.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        nix::unistd::alarm::set(60);
        while nix::unistd::getppid() == parent {
            std::thread::yield_now();
        }
        say(&survey(area));
        // SAFETY: ends this process and nothing else.
        unsafe { libc::_exit(0) };
    }
    end();
}

/// Opens files until there is no room.
fn fill_descriptors() {
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 64, 64)
        .expect("limit");
    while let Ok(file) = std::fs::File::open("/dev/null") {
        std::mem::forget(file);
    }
}

/// Memory whose pages come from a file wherever nothing was written: no fault tells of them.
fn private_memfd(pages: usize) -> Area {
    let file =
        nix::sys::memfd::memfd_create(c"eager", nix::sys::memfd::MFdFlags::empty()).expect("memfd");
    nix::unistd::ftruncate(&file, i64::try_from(pages * PAGE).expect("a length")).expect("length");
    let file = std::os::fd::AsFd::as_fd(&file);
    Area::map(pages, libc::MAP_PRIVATE, Some(file), 0)
}

/// From now on this process may not kill those of other users.
pub(crate) fn give_up_cap_kill() {
    // Version 3, this thread; effective, permitted and inheritable, twice 32 bits.
    let header = [0x2008_0522_u32, 0];
    let mut sets = [0_u32; 6];
    // SAFETY: the kernel writes the six words.
    let got = unsafe { libc::syscall(libc::SYS_capget, &raw const header, &raw mut sets) };
    assert_eq!(got, 0);
    for set in &mut sets[..2] {
        *set &= !(1 << 5);
    }
    // SAFETY: the kernel reads the six words.
    let set = unsafe { libc::syscall(libc::SYS_capset, &raw const header, &raw const sets) };
    assert_eq!(set, 0, "capset: {}", Error::last_os_error());
}

/// Leaves a child that has ended and says its id.
fn zombie() {
    // SAFETY: ends the child and nothing else.
    let child = fork(|| unsafe { libc::_exit(0) });
    super::support::wait_until("the child's end", || super::support::state(child) == 'Z');
    say(&child.to_string());
}

/// A userfaultfd of our own that has the area: 1 for missing pages, 2 for write protection. It stays open.
fn register(area: &Area, mode: u64) {
    // SAFETY: plain numbers.
    let uffd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let uffd = i32::try_from(uffd).expect("a descriptor");
    control(uffd, 0xc018_aa3f, &mut [0xaa, 0, 0]);
    let len = (area.pages * PAGE) as u64;
    control(uffd, 0xc020_aa00, &mut [area.address(), len, mode, 0]);
}

fn control(uffd: i32, request: libc::Ioctl, argument: &mut [u64]) {
    // SAFETY: the callers pass as many words as the request's structure has, which the kernel reads and writes.
    let result = unsafe { libc::ioctl(uffd, request, argument.as_mut_ptr()) };
    assert_eq!(result, 0, "{request:#x}: {}", Error::last_os_error());
}
