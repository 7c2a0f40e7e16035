//! A process that is confined, and then does something.
#![expect(unsafe_code, reason = "system calls as an intruder would make them")]

use std::fs::{File, OpenOptions};
use std::process::ExitStatus;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use uffd_restore::service::{Allowed, Confinement, Plan};
use uffd_restore::uffd::{Features, new_for_this_process};

use crate::support::{Target, end, hear, say};

/// What the process may do, as the daemon says it.
pub(crate) fn plan(name: &str) -> Plan {
    let mut plan = Plan::default();
    match name {
        // --pid
        "process" => {}
        // --pid --on-failure kill
        "looking" => plan.looks_into_processes = true,
        // --pid --record-working-set
        "recording" => plan.allowed.files = true,
        "listening" => {
            plan.allowed.connections = true;
            plan.looks_into_processes = true;
        }
        // lazy-pages
        "criu" => {
            plan.allowed = Allowed {
                shelf: false,
                connections: true,
                agreements: true,
                files: false,
            };
            plan.looks_into_processes = true;
        }
        other => panic!("{other}?"),
    }
    plan
}

/// The role: `PLAN [open] [user=N] DEED [NUMBER]`. It is confined, does it, and says what the kernel said.
pub(crate) fn confined(words: &[&str]) {
    let mut words = words.iter().copied();
    let mut plan = plan(words.next().expect("a plan"));
    let mut deed = words.next().expect("a deed");
    // Not looked at, for what is about capabilities alone.
    if deed == "open" {
        plan.open = true;
        deed = words.next().expect("a deed");
    }
    if let Some(user) = deed.strip_prefix("user=") {
        let user: u32 = user.parse().expect("a uid");
        nix::unistd::setuid(user.into()).expect("setuid");
        // That has hidden it already, as exec would not have.
        nix::sys::prctl::set_dumpable(true).expect("prctl");
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("death signal");
        deed = words.next().expect("a deed");
    }
    let number = words
        .next()
        .map_or(0, |word| word.parse().expect("a number"));
    let confinement = Confinement::prepare(&plan).expect("prepared");
    confinement.begin().expect("confined");
    say("confined");
    hear();
    let answer = match act(deed, number) {
        Ok(()) => "done".to_owned(),
        Err(errno) => format!("{errno:?}"),
    };
    say(&answer);
    end();
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was killed for it.
    Killed,
    /// What the kernel said: "done", or an error.
    Answered(String),
}

/// Has a process do something; see [`confined`].
#[track_caller]
pub(crate) fn attempt(words: &str) -> Fate {
    let mut target = Target::start("confined", words);
    assert_eq!(target.hear(), "confined", "{words}");
    target.tell("now");
    let said = target.rest();
    let said = said.lines().next().unwrap_or_default().to_owned();
    let status: ExitStatus = target.end();
    let signal = std::os::unix::process::ExitStatusExt::signal(&status);
    match signal {
        Some(libc::SIGSYS) => {
            assert_eq!(said, "", "{words}: it went on");
            Fate::Killed
        }
        None => Fate::Answered(said),
        other => panic!("{words}: signal {other:?}, {said}"),
    }
}

fn call(number: libc::c_long, arguments: [u64; 6]) -> Result<(), Errno> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: none of the calls that are made so changes memory or descriptors that this process goes on with.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result).map(drop)
}

fn address_of(text: &std::ffi::CStr) -> u64 {
    text.as_ptr().addr() as u64
}

fn bits(number: libc::c_int) -> u64 {
    u64::from(number.cast_unsigned())
}

fn io(result: std::io::Result<File>) -> Result<(), Errno> {
    result.map(drop).map_err(|error| {
        let number = error.raw_os_error().expect("of the kernel");
        Errno::from_raw(number)
    })
}

/// Does it. `number`: a process, where there is one in it.
fn act(deed: &str, number: u64) -> Result<(), Errno> {
    let zeros = [0; 6];
    let pid = number;
    match deed {
        "nothing" => Ok(()),
        "execve" => call(libc::SYS_execve, [address_of(c"/bin/true"), 0, 0, 0, 0, 0]),
        "create" => io(File::create("/tmp/uffd-restore-must-not-be-there")),
        "append" => io(OpenOptions::new().append(true).open("/etc/passwd")),
        "write-memory" => io(OpenOptions::new().write(true).open("/proc/self/mem")),
        "openat2" => call(libc::SYS_openat2, zeros),
        "creat" => call(CREAT, [address_of(c"/tmp/x"), 0, 0, 0, 0, 0]),
        "internet" => call(libc::SYS_socket, [bits(libc::AF_INET), 1, 0, 0, 0, 0]),
        "unix-socket" => call(libc::SYS_socket, [bits(libc::AF_UNIX), 1, 0, 0, 0, 0]),
        "netlink" => call(libc::SYS_socket, [bits(libc::AF_NETLINK), 3, 0, 0, 0, 0]),
        "connect" => call(libc::SYS_connect, zeros),
        "bind" => call(libc::SYS_bind, zeros),
        "accept" => call(libc::SYS_accept4, [u64::MAX, 0, 0, 0, 0, 0]),
        // PTRACE_SEIZE
        "ptrace" => call(libc::SYS_ptrace, [0x4206, pid, 0, 0, 0, 0]),
        "process-vm-readv" => call(libc::SYS_process_vm_readv, [pid, 0, 0, 0, 0, 0]),
        "process-vm-writev" => call(libc::SYS_process_vm_writev, [pid, 0, 0, 0, 0, 0]),
        "pidfd-getfd" => call(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0, 0]),
        "kill" => call(libc::SYS_kill, [pid, 0, 0, 0, 0, 0]),
        "terminate" => signal(pid, Signal::SIGTERM),
        "end" => signal(pid, Signal::SIGKILL),
        "fork" => call(libc::SYS_clone, [bits(libc::SIGCHLD), 0, 0, 0, 0, 0]),
        "clone3" => call(libc::SYS_clone3, zeros),
        "unshare" => call(
            libc::SYS_unshare,
            [bits(libc::CLONE_NEWUSER), 0, 0, 0, 0, 0],
        ),
        "setns" => call(libc::SYS_setns, zeros),
        "executable" => map(libc::PROT_READ | libc::PROT_EXEC),
        "make-executable" => call(libc::SYS_mprotect, [0, 0, 4, 0, 0, 0]),
        // TIOCSTI: typing for who sits at the terminal.
        "type" => call(libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0]),
        // USERFAULTFD_IOC_NEW
        "new-userfaultfd" => call(libc::SYS_ioctl, [0, 0xaa00, 0, 0, 0, 0]),
        "userfaultfd" => call(libc::SYS_userfaultfd, zeros),
        "agree" => call(libc::SYS_ioctl, [0, 0xc018_aa3f, 0, 0, 0, 0]),
        "register" => call(libc::SYS_ioctl, [0, 0xc020_aa00, 0, 0, 0, 0]),
        "agree-on-forks" => {
            let fresh = new_for_this_process().expect("a userfaultfd");
            fresh.agree(Features::EVENTS).map(drop)
        }
        "capset" => {
            let (header, all) = ([0x2008_0522_u32, 0], [u32::MAX; 6]);
            let at = |address: usize| address as u64;
            let arguments = [
                at(header.as_ptr().addr()),
                at(all.as_ptr().addr()),
                0,
                0,
                0,
                0,
            ];
            call(libc::SYS_capset, arguments)
        }
        "setuid" => call(libc::SYS_setuid, zeros),
        "show-myself" => call(
            libc::SYS_prctl,
            [bits(libc::PR_SET_DUMPABLE), 1, 0, 0, 0, 0],
        ),
        "another-filter" => call(libc::SYS_seccomp, zeros),
        "raise-limit" => call(libc::SYS_prlimit64, [0, 7, 1, 0, 0, 0]),
        "others-limit" => call(libc::SYS_prlimit64, [pid, 7, 0, 0, 0, 0]),
        "others-priority" => call(libc::SYS_setpriority, [0, pid, 0, 0, 0, 0]),
        "others-cores" => call(libc::SYS_sched_setaffinity, [pid, 0, 0, 0, 0, 0]),
        "mount" => call(libc::SYS_mount, zeros),
        "chroot" => call(libc::SYS_chroot, zeros),
        "bpf" => call(libc::SYS_bpf, zeros),
        "perf" => call(libc::SYS_perf_event_open, zeros),
        "io-uring" => call(libc::SYS_io_uring_setup, zeros),
        "keys" => call(libc::SYS_keyctl, zeros),
        "module" => call(libc::SYS_init_module, zeros),
        "reboot" => call(libc::SYS_reboot, zeros),
        "rename" => call(libc::SYS_renameat2, zeros),
        "chmod" => call(libc::SYS_fchmodat, zeros),
        "handler" => call(libc::SYS_rt_sigaction, [bits(libc::SIGSYS), 0, 0, 8, 0, 0]),
        "other-architecture" => call(0x4000_0000 | libc::SYS_getpid, zeros),
        "read" => io(File::open("/proc/self/status")),
        "thread" => {
            let thread = std::thread::Builder::new().name("another".into());
            let thread = thread
                .spawn(|| vec![1_u8; 1 << 20].len())
                .expect("a thread");
            assert_eq!(thread.join().expect("no panic"), 1 << 20);
            Ok(())
        }
        "abort" => std::process::abort(),
        "smaps" => {
            let smaps = std::fs::read(format!("/proc/{pid}/smaps"));
            smaps
                .map(drop)
                .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))
        }
        "secret" => io(File::open("/tmp/uffd-restore-confinement-secret")),
        "idle-and-back" => idle_and_back(),
        "run" => {
            let status = std::fs::read_to_string("/proc/thread-self/status").expect("proc");
            assert!(status.contains("NoNewPrivs:\t1"));
            let mine = capabilities_in(&status);
            let ran = std::process::Command::new("cat")
                .arg("/proc/self/status")
                .output();
            let of_cat = String::from_utf8(ran.expect("it runs").stdout);
            let of_cat = capabilities_in(&of_cat.expect("text"));
            assert!(mine & !(1 << 5 | 1 << 23) == 0, "{mine:x}");
            assert!(of_cat & !mine == 0, "{of_cat:x} of {mine:x}");
            Ok(())
        }
        other => panic!("{other}?"),
    }
}

#[cfg(target_arch = "x86_64")]
const CREAT: libc::c_long = libc::SYS_creat;
/// There is no such call.
#[cfg(not(target_arch = "x86_64"))]
const CREAT: libc::c_long = libc::SYS_openat2;

fn map(rights: libc::c_int) -> Result<(), Errno> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    call(
        libc::SYS_mmap,
        [0, 4096, bits(rights), bits(flags), u64::MAX, 0],
    )
}

fn signal(pid: u64, signal: Signal) -> Result<(), Errno> {
    // SAFETY: plain numbers; the descriptor that it makes is closed with the process.
    let pidfd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let pidfd = Errno::result(pidfd)?;
    let arguments = [
        u64::try_from(pidfd).expect("a descriptor"),
        bits(signal as libc::c_int),
        0,
        0,
        0,
        0,
    ];
    call(libc::SYS_pidfd_send_signal, arguments)
}

fn capabilities_in(status: &str) -> u64 {
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("CapPrm:"));
    u64::from_str_radix(mask.expect("a line").trim(), 16).expect("a mask")
}

fn idle_and_back() -> Result<(), Errno> {
    let priority = libc::sched_param { sched_priority: 0 };
    for policy in [libc::SCHED_IDLE, libc::SCHED_OTHER] {
        // SAFETY: the kernel reads the structure, which lives until it returns.
        let set = unsafe { libc::sched_setscheduler(0, policy, &raw const priority) };
        Errno::result(set)?;
    }
    Ok(())
}

/// A process of another user, which waits.
pub(crate) struct Other(std::process::Child);

impl Other {
    pub(crate) fn start() -> Self {
        let mut command = std::process::Command::new("sleep");
        std::os::unix::process::CommandExt::uid(&mut command, 65534);
        Self(command.arg("600").spawn().expect("sleep runs"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child")
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
