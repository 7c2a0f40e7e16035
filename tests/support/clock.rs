//! Programs for which the time of day jumps: years forth and back, each time that they look. Nobody else's clock is touched.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// In front of the C library's. It has no clock_gettime of its own to call but the kernel's.
const SOURCE: &str = r"
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long jump(void) {
    static int times;
    return (__atomic_fetch_add(&times, 1, __ATOMIC_RELAXED) & 1) ? 315360000L : -315360000L;
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, id, now);
    if (result == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += jump();
    return result;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec got;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &got);
    now->tv_sec = got.tv_sec;
    now->tv_usec = got.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *where) {
    struct timespec got;
    clock_gettime(CLOCK_REALTIME, &got);
    if (where)
        *where = got.tv_sec;
    return got.tv_sec;
}
";

/// The library that makes it jump, in a folder.
pub fn library(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).expect("space");
    let mut compiler = Command::new("cc");
    compiler.args(["-O1", "-Wall", "-Werror", "-shared", "-fPIC", "-o"]);
    let made = compiler.arg(&library).arg(&source).status();
    assert!(made.expect("cc runs").success());
    library
}

/// The command with that library, and killed if it has the kernel wait for a time of day, which is a jump away.
#[expect(unsafe_code, reason = "a filter between fork and exec")]
pub fn jumping(command: &mut Command, library: &Path) {
    command.env("LD_PRELOAD", library);
    let filter = nothing_by_the_time_of_day();
    // SAFETY: two system calls, with memory that is there.
    unsafe {
        command.pre_exec(move || apply_filter(&filter).map_err(std::io::Error::other));
    }
}

fn nothing_by_the_time_of_day() -> BpfProgram {
    const REALTIME: u64 = libc::CLOCK_REALTIME as u64;
    let is = |argument, mask, bits| {
        let operator = SeccompCmpOp::MaskedEq(mask);
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, bits)
            .expect("a condition")
    };
    let some_time = SeccompCondition::new(3, SeccompCmpArgLen::Qword, SeccompCmpOp::Ne, 0);
    let some_time = some_time.expect("a condition");
    let rule = |conditions| vec![SeccompRule::new(conditions).expect("a rule")];
    let all = u64::from(u32::MAX);
    let by_futex = libc::FUTEX_CLOCK_REALTIME as u64;
    let absolute = libc::TIMER_ABSTIME as u64;
    let rules = BTreeMap::from([
        // Whoever waits for a thread's end names that clock, and no time.
        (
            libc::SYS_futex,
            rule(vec![is(1, by_futex, by_futex), some_time]),
        ),
        (libc::SYS_timerfd_create, rule(vec![is(0, all, REALTIME)])),
        (libc::SYS_timer_create, rule(vec![is(0, all, REALTIME)])),
        (
            libc::SYS_clock_nanosleep,
            rule(vec![is(0, all, REALTIME), is(1, absolute, absolute)]),
        ),
    ]);
    let (otherwise, action) = (SeccompAction::Allow, SeccompAction::KillProcess);
    let architecture = std::env::consts::ARCH.try_into().expect("a known one");
    let filter = SeccompFilter::new(rules, otherwise, action, architecture);
    filter.and_then(TryInto::try_into).expect("a filter")
}
