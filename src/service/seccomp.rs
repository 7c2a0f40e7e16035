//! The system calls of serving, and no others: whoever gets this program to do what it was not made for, by a snapshot or a message
//! that nobody has foreseen, ends it.
//!
//! What is not listed kills the process (SIGSYS), which is a crash like any other: targets wait, are taken over, or are killed, and
//! never read zeros. Two filters: in the first, clone3(2) does not exist, because its flags are in memory where no filter sees them;
//! the C library then uses clone(2), whose flags the second one looks at.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};

use crate::uffd::abi;

use super::calls::{ALWAYS, CONNECTIONS, WRITES};

/// What a filter has to allow beside serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Connections are taken, and what comes is received.
    pub connections: bool,
    /// Userfaultfds come that are not agreed on yet.
    pub agreements: bool,
    /// Files are written: working sets, numbers.
    pub files: bool,
    /// Descriptors are taken back from a socket that keeps them.
    pub shelf: bool,
}

/// A filter that cannot be made or set.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot limit the system calls of this program: {0}: use a kernel with CONFIG_SECCOMP_FILTER, or --no-seccomp"
)]
pub struct FilterError(#[from] seccompiler::Error);

/// Filters, compiled.
#[derive(Debug)]
pub struct Filter {
    programs: [BpfProgram; 2],
}

/// What an argument must be.
#[derive(Debug, Clone, Copy)]
enum Must {
    Be(u64),
    /// Only these bits are looked at.
    HaveOf {
        mask: u64,
        bits: u64,
    },
}

/// Number of the argument, and what it must be.
type Condition = (u8, Must);

impl Filter {
    /// For this process, which is the one that is going to use it.
    ///
    /// # Errors
    /// [`FilterError`] for a processor that it cannot be made for.
    pub fn new(allowed: Allowed) -> Result<Self, FilterError> {
        let no_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
        let not_there = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
        Ok(Self {
            programs: [
                compile(no_clone3, SeccompAction::Allow, not_there)?,
                compile(
                    rules(allowed)?,
                    SeccompAction::KillProcess,
                    SeccompAction::Allow,
                )?,
            ],
        })
    }

    /// From now on it is for all threads of this process, and for those that they start.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn apply(&self) -> Result<(), FilterError> {
        for program in &self.programs {
            apply_filter_all_threads(program)?;
        }
        Ok(())
    }
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    action: SeccompAction,
) -> Result<BpfProgram, seccompiler::Error> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, otherwise, action, architecture)?;
    Ok(filter.try_into()?)
}

fn rules(allowed: Allowed) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    let mut with = |call: libc::c_long, any: Vec<Vec<Condition>>| {
        let any = any.into_iter().map(rule).collect::<Result<Vec<_>, _>>();
        any.map(|any| rules.entry(call).or_default().extend(any))
    };
    for (call, any) in looked_at(allowed) {
        with(call, any)?;
    }
    let groups = [
        (true, ALWAYS),
        (allowed.connections, CONNECTIONS),
        (allowed.files, WRITES),
        (allowed.shelf, &[libc::SYS_recvmsg]),
    ];
    for call in groups
        .iter()
        .filter(|(wanted, _)| *wanted)
        .flat_map(|(_, calls)| *calls)
    {
        // Whatever the arguments are.
        rules.insert(*call, Vec::new());
    }
    Ok(rules)
}

/// Calls that are allowed with certain arguments only; with one of several lists of conditions.
fn looked_at(allowed: Allowed) -> Vec<(libc::c_long, Vec<Vec<Condition>>)> {
    let own = u64::from(std::process::id());
    let number = |number: libc::c_int| u64::from(number.cast_unsigned());
    let one_of = |argument: u8, values: &[u64]| {
        let conditions = values
            .iter()
            .map(|&value| vec![(argument, Must::Be(value))]);
        conditions.collect::<Vec<_>>()
    };
    let none_of = |argument: u8, mask: libc::c_int| {
        let mask = number(mask);
        vec![vec![(argument, Must::HaveOf { mask, bits: 0 })]]
    };
    let mut requests = REQUESTS.to_vec();
    if allowed.agreements {
        requests.push(abi::UFFDIO_API);
    }
    let kinds = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    let of_a_thread = libc::CLONE_VM | libc::CLONE_THREAD | libc::CLONE_SIGHAND | libc::CLONE_FILES;
    let threads = Must::HaveOf {
        mask: number(of_a_thread | NAMESPACES),
        bits: number(of_a_thread),
    };
    vec![
        (libc::SYS_ioctl, one_of(1, &requests)),
        (libc::SYS_fcntl, one_of(1, &kinds.map(number))),
        // Nothing that is written can be executed.
        (libc::SYS_mmap, none_of(2, libc::PROT_EXEC)),
        (libc::SYS_mprotect, none_of(2, libc::PROT_EXEC)),
        (libc::SYS_openat, none_of(2, WRITING)),
        (libc::SYS_clone, vec![vec![(0, threads)]]),
        (libc::SYS_prctl, one_of(0, &[number(libc::PR_SET_NAME)])),
        // Nothing but the end of a process.
        (
            libc::SYS_pidfd_send_signal,
            one_of(1, &[number(libc::SIGKILL)]),
        ),
        // Its own end: abort(3).
        (
            libc::SYS_tgkill,
            vec![vec![
                (0, Must::Be(own)),
                (2, Must::Be(number(libc::SIGABRT))),
            ]],
        ),
        // And that of who touches memory that is not there: the standard library looks at it first, and lets it go its way.
        (
            libc::SYS_rt_sigaction,
            one_of(0, &[libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS].map(number)),
        ),
        // Where and how its own threads run.
        (libc::SYS_sched_setaffinity, one_of(0, &[0])),
        (libc::SYS_sched_setscheduler, one_of(0, &[0])),
        (
            libc::SYS_setpriority,
            vec![vec![
                (0, Must::Be(u64::from(libc::PRIO_PROCESS))),
                (1, Must::Be(0)),
            ]],
        ),
        // Its own limits, to be read.
        (
            libc::SYS_prlimit64,
            vec![vec![(0, Must::Be(0)), (2, Must::Be(0))]],
        ),
    ]
}

/// `NS_GET_PARENT` of `<linux/nsfs.h>`: whether a process is in a namespace of the target's.
const NS_GET_PARENT: u64 = 0xb702;

/// Requests of ioctl(2): those that are made most come first.
const REQUESTS: &[u64] = &[
    abi::UFFDIO_COPY,
    abi::UFFDIO_ZEROPAGE,
    abi::UFFDIO_WAKE,
    abi::UFFDIO_POISON,
    abi::UFFDIO_UNREGISTER,
    NS_GET_PARENT,
    // Whether there is a terminal, and its size.
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::FIONBIO,
    libc::FIOCLEX,
];

/// Flags of open(2) that only a writer needs.
const WRITING: libc::c_int =
    libc::O_WRONLY | libc::O_RDWR | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND | TMPFILE;

/// `__O_TMPFILE`; `O_TMPFILE` has `O_DIRECTORY` in it, which a reader may need.
const TMPFILE: libc::c_int = libc::O_TMPFILE & !libc::O_DIRECTORY;

const NAMESPACES: libc::c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

fn rule(conditions: Vec<Condition>) -> Result<SeccompRule, seccompiler::Error> {
    let conditions: Result<Vec<_>, _> = conditions
        .into_iter()
        .map(|(argument, must)| {
            let (operator, value) = match must {
                Must::Be(value) => (SeccompCmpOp::Eq, value),
                Must::HaveOf { mask, bits } => (SeccompCmpOp::MaskedEq(mask), bits),
            };
            // All of them are of 32 bits, and the kernel looks at no more of them.
            SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
        })
        .collect();
    Ok(SeccompRule::new(conditions?)?)
}
