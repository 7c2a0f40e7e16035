//! Doing without what serving does not need: capabilities, and new ones by exec.
//!
//! What needs which (`tests/confinement` shows each):
//!
//! | capability        | for                                                                        | afterwards          |
//! |-------------------|----------------------------------------------------------------------------|---------------------|
//! | CAP_SYS_PTRACE    | ptrace(2), pidfd_getfd(2), `/proc/PID/mem` of another user's target         | given up            |
//! |                   | UFFDIO_API with the FORK event: by the task that calls it, and then only    | given up; `criu restore`'s come later |
//! |                   | `/proc/PID/smaps`, `/proc/PID/ns` of another user: which child waits for a bad page, whose memory a VMM hands over | kept where that is asked |
//! | CAP_KILL          | pidfd_send_signal(2) to another user's target that cannot be served         | kept                |
//! | CAP_DAC_OVERRIDE  | `/dev/userfaultfd`, files of others: snapshots, sockets, process id files   | kept if something is to be written or removed there |
//! | CAP_CHOWN, CAP_FOWNER | `--socket-owner`                                                        | given up            |
//! | CAP_SYS_RESOURCE  | raising the limit on descriptors                                           | given up            |
//! | CAP_SYS_NICE      | leaving SCHED_IDLE again                                                   | given up if the limits can be raised instead (`LimitNICE=`, CAP_SYS_RESOURCE) |
//! | CAP_SYS_ADMIN     | injecting into a target under a seccomp filter                             | given up            |
//!
//! Reading messages (a FORK brings a descriptor), installing, poisoning and waking need none. Capabilities are a thread's own: who calls
//! this gives up its own, and those of the threads that it starts afterwards.
#![expect(
    unsafe_code,
    reason = "capget(2), capset(2) and prctl(2), which nix does not have"
)]

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// A capability of `<linux/capability.h>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Capability {
    /// Whatever the rights of a file are.
    DacOverride = 1,
    /// The same for reading.
    DacReadSearch = 2,
    /// Changing files of others.
    Fowner = 3,
    /// Signals to processes of others.
    Kill = 5,
    /// Looking into processes of others, and changing them.
    SysPtrace = 19,
    /// Being preferred to others, and becoming ordinary after having given way.
    SysNice = 23,
}

/// `_LINUX_CAPABILITY_VERSION_3`
const VERSION: u32 = 0x2008_0522;
/// `RLIMIT_NICE` that allows a nice value of zero, of which no thread here has less.
const ORDINARY: u64 = 20;

#[repr(C)]
struct Header {
    version: u32,
    /// Zero for the thread that calls.
    pid: i32,
}

/// Half of each set; the lower half comes first.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The thread that calls, and what it starts from now on, keeps these capabilities of those that it has, and cannot get others any
/// more: not by exec either.
///
/// # Errors
/// What the kernel says. What could be given up has been.
pub fn keep_only(keep: &[Capability]) -> Result<(), Errno> {
    forget_bounds(keep);
    // There may be no such set: Linux 4.3.
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL);
    set(permitted()? & mask_of(keep))?;
    nix::sys::prctl::set_no_new_privs()
}

/// Has `start` start threads, which are born with no capabilities but these, and keeps its own for the thread that calls. Returns what
/// it returns.
///
/// Threads share their memory: what one may do, whoever has taken over another one may do as well. So none may have more than serving needs.
///
/// # Errors
/// No thread can be started; or what the kernel says.
pub fn born_with<T: Send>(
    keep: &[Capability],
    start: impl FnOnce() -> T + Send,
) -> Result<T, std::io::Error> {
    std::thread::scope(|scope| {
        let starter = std::thread::Builder::new().name("starter".into());
        let starter = starter.spawn_scoped(scope, || {
            set(permitted()? & mask_of(keep))?;
            Ok(start())
        })?;
        match starter.join() {
            Ok(started) => started.map_err(|errno: Errno| errno.into()),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The same, while the thread that calls goes on. What is started is known when [`Starting::wait`] returns.
///
/// # Errors
/// No thread can be started.
pub fn being_born_with<T: Send + 'static>(
    keep: &'static [Capability],
    start: impl FnOnce() -> T + Send + 'static,
) -> Result<Starting<T>, std::io::Error> {
    let starter = std::thread::Builder::new().name("starter".into());
    let starter = starter.spawn(move || {
        set(permitted()? & mask_of(keep))?;
        Ok(start())
    })?;
    Ok(Starting(starter))
}

/// Threads that are being started.
#[derive(Debug)]
#[must_use]
pub struct Starting<T>(std::thread::JoinHandle<Result<T, Errno>>);

impl<T> Starting<T> {
    /// Waits until they are, and returns what starting them returned.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(self) -> Result<T, std::io::Error> {
        match self.0.join() {
            Ok(started) => started.map_err(Into::into),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn mask_of(capabilities: &[Capability]) -> u64 {
    capabilities
        .iter()
        .fold(0, |mask, &capability| mask | 1 << capability as u8)
}

/// Nobody of the same user may look into this process, and it leaves no core behind: it has the memory of others.
///
/// # Errors
/// None is expected.
pub fn hide() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// The capabilities that the thread that calls may use, one bit for each.
///
/// # Errors
/// None is expected.
pub fn permitted() -> Result<u64, Errno> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let mut halves = [Half::default(); 2];
    // SAFETY: version 3 has two halves, which the kernel fills in; both live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, halves.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(u64::from(halves[0].permitted) | u64::from(halves[1].permitted) << 32)
}

fn set(capabilities: u64) -> Result<(), Errno> {
    let mut header = Header {
        version: VERSION,
        pid: 0,
    };
    let [low, high, ..] = halves_of(capabilities);
    let halves = [low, high].map(|bits| Half {
        effective: bits,
        permitted: bits,
        inheritable: 0,
    });
    // SAFETY: version 3 has two halves, which the kernel reads; both live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, halves.as_ptr()) };
    Errno::result(result).map(drop)
}

fn halves_of(bits: u64) -> [u32; 2] {
    let bytes = bits.to_le_bytes();
    let half = |from: usize| {
        let mut half = [0; 4];
        half.copy_from_slice(&bytes[from..from + 4]);
        u32::from_le_bytes(half)
    };
    [half(0), half(4)]
}

/// Whether threads of this process that give way (SCHED_IDLE) may become ordinary ones again without [`Capability::SysNice`]: from now
/// on, if its limits can be raised.
#[must_use]
pub(super) fn may_become_ordinary() -> bool {
    let allows = |limit| limit >= ORDINARY;
    match getrlimit(Resource::RLIMIT_NICE) {
        Ok((soft, _)) if allows(soft) => true,
        Ok((_, hard)) => setrlimit(Resource::RLIMIT_NICE, ORDINARY, hard.max(ORDINARY)).is_ok(),
        Err(_) => false,
    }
}

/// No program that might be executed gets others. It fails without CAP_SETPCAP: then `no_new_privs` sees to that alone.
fn forget_bounds(keep: &[Capability]) {
    for number in 0..64 {
        let kept = keep
            .iter()
            .any(|&capability| i32::from(capability as u8) == number);
        if !kept && prctl(libc::PR_CAPBSET_DROP, number).is_err() {
            // Beyond the last one that the kernel knows, or not permitted.
            return;
        }
    }
}

fn prctl(what: libc::c_int, value: libc::c_int) -> Result<(), Errno> {
    // SAFETY: with these operations all arguments are numbers.
    let result = unsafe { libc::prctl(what, value, 0, 0, 0) };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_born_with_what_they_are_given() {
        let all = permitted().expect("capget");
        for (keep, mask) in [(&[][..], 0), (&[Capability::Kill], 1 << 5)] {
            let child = born_with(keep, || std::thread::spawn(permitted));
            let child = child.expect("started").join().expect("no panic");
            assert_eq!(child, Ok(mask & all));
        }
        assert_eq!(permitted(), Ok(all), "who started them has kept its own");
    }

    #[test]
    fn halves() {
        assert_eq!(halves_of(0x1_0000_0002), [2, 1]);
    }
}
