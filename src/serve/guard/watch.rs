//! The guard's life.
#![expect(unsafe_code, reason = "descriptors whose owner is dead")]

use std::fmt;
use std::fs::File;
use std::mem::ManuallyDrop;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{dup2_stderr, dup2_stdin, dup2_stdout};
use snapshot_format::PAGE_BYTES;

use super::{BEGINS, KEPT, Next, SERVING, Shared, Slot};
use crate::addr::{Addr, AddrRange};
use crate::pidfd::is_pidfd;
use crate::processes::Parents;
use crate::serve::{END_OF_A_PROCESS, Target};
use crate::service::{Capability, keep_only};
use crate::takeover::{StateFile, descriptors, link_of};
use crate::terminal::mention;
use crate::uffd::{Message, Stop, Userfaultfd};

/// Ending processes of others, looking which of them waits for a page; removing files in a folder of somebody else.
const NEEDED: [Capability; 3] = [
    Capability::Kill,
    Capability::SysPtrace,
    Capability::DacOverride,
];

/// How often it is looked whether anybody is left whose descriptors are held.
const LOOK_AT_HELD: Duration = Duration::from_millis(500);

/// How long a process may take that has been started until it says which one it is.
const BEGINNING: Duration = Duration::from_secs(5);

/// Who else must not outlive this program, which had not watched over them when it was killed. Asked by the guard, in its own copy.
pub trait Unwatched: fmt::Debug + Send {
    /// A descriptor that this program had, and that is neither a userfaultfd nor names a process. Closed if it is of no use.
    fn offer(&mut self, descriptor: OwnedFd);
    /// Those that have come by now.
    fn come(&mut self) -> Vec<Target>;
    /// Whether others may come.
    fn more(&self) -> bool;
}

/// Nobody can be handed over but by [`super::Guard::watch`].
impl Unwatched for () {
    fn offer(&mut self, _: OwnedFd) {}

    fn come(&mut self) -> Vec<Target> {
        Vec::new()
    }

    fn more(&self) -> bool {
        false
    }
}

/// The guard's whole life.
pub(super) fn keep_watch(
    served_by: BorrowedFd<'_>,
    shared: &Shared,
    next: &Next,
    unwatched: &mut dyn Unwatched,
) {
    let _ = nix::sys::prctl::set_name(c"uffd-guard");
    // Who it is has been copied, with all that the first process may do.
    let _ = keep_only(&NEEDED);
    let mut waited = [PollFd::new(served_by, PollFlags::POLLIN)];
    while !matches!(poll(&mut waited, PollTimeout::NONE), Ok(1..)) {}
    wait_for_worker(shared);
    let shelf = match next {
        Next::Resumes(_, shelf) => Some(*shelf),
        Next::Nobody | Next::Started => None,
    };
    close_others(unwatched, shelf);
    let served = |slot: &&Slot| slot.state.load(Ordering::SeqCst) == SERVING;
    let targets: Vec<_> = shared
        .slots
        .iter()
        .filter(served)
        .map(Slot::target)
        .collect();
    match next {
        Next::Nobody => {}
        Next::Started => return kill_beside_kept(&targets),
        Next::Resumes(state, shelf) => {
            kill_beside_kept(&targets);
            return hold(shared, state, *shelf);
        }
    }
    let strays = unwatched.come();
    if !targets.is_empty() || !strays.is_empty() {
        announce(targets.iter().map(|target| &**target).chain(&strays));
    }
    for target in &targets {
        kill_family(target);
    }
    for stray in &strays {
        kill_family(stray);
    }
    // Where nothing is missing any more there is no userfaultfd.
    while kill_who_touches(&targets) || unwatched.more() {
        std::thread::sleep(Duration::from_millis(20));
        for stray in unwatched.come() {
            kill_family(&stray);
        }
    }
}

/// The next run of this program goes on with some of them: what those have to say is not to be read. The others are ended as long as
/// their descriptors are open.
fn kill_beside_kept(targets: &[ManuallyDrop<Target>]) {
    if !targets.is_empty() {
        announce(targets.iter().map(|target| &**target));
    }
    for target in targets {
        kill_family(target);
    }
    for target in targets {
        let _ = target.ends_within(END_OF_A_PROCESS);
    }
}

/// Keeps everything open until somebody has fetched it, who then ends this process, or until nobody is left that needs it. What they have
/// to say is not read: whoever goes on has to.
fn hold(shared: &Shared, state: &StateFile, shelf: RawFd) {
    let kept = |slot: &&Slot| slot.state.load(Ordering::SeqCst) == KEPT;
    let targets: Vec<_> = shared.slots.iter().filter(kept).map(Slot::target).collect();
    // One that goes on has a guard of its own; and one that has not got so far leaves what there is to the one before.
    if targets.is_empty() || !state.is_to_be_held(shelf) {
        return;
    }
    let pids = numbers(targets.iter().map(|target| &**target));
    let path = state.path();
    mention(&format!(
        "uffd-restore: the process that served {pids} was killed; {pids} and what was forked from it wait for their memory: \
         uffd-restore --resume {path:?} goes on"
    ));
    let_go_of_terminal();
    // Descendants may outlive those that were handed over.
    let miss_pages = || {
        userfaultfds()
            .into_iter()
            .any(|number| of_somebody(&borrowed(number)))
    };
    while state.is_held() {
        if !miss_pages() && targets.iter().all(|target| target.has_ended()) {
            state.remove();
            return;
        }
        std::thread::sleep(LOOK_AT_HELD);
    }
}

/// Whoever reads what this program says until its end must not wait for as long as somebody else may take.
fn let_go_of_terminal() {
    if let Ok(null) = File::options().read(true).write(true).open("/dev/null") {
        let _ = dup2_stdin(&null);
        let _ = dup2_stdout(&null);
        let _ = dup2_stderr(&null);
    }
}

/// Without waiting for whoever reads it: killing comes first.
fn announce<'a>(killed: impl Iterator<Item = &'a Target>) {
    let pids = numbers(killed);
    mention(&format!(
        "uffd-restore: the process that served {pids} was killed; {pids} and what was forked from it are being killed, for \
         memory is missing that must not read as zeros"
    ));
}

fn numbers<'a>(targets: impl Iterator<Item = &'a Target>) -> String {
    let mut pids: Vec<i32> = targets.map(|target| target.pid).collect();
    pids.dedup();
    let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
    pids.join(", ")
}

/// As long as there is one that serves all is well. Nobody will start another one; but one may have been started just now.
fn wait_for_worker(shared: &Shared) {
    let until = Instant::now() + BEGINNING;
    let found = loop {
        match shared.worker.load(Ordering::SeqCst) {
            BEGINS if Instant::now() < until => std::thread::sleep(Duration::from_millis(1)),
            found => break found,
        }
    };
    let Some(number @ 0..) = found.checked_sub(1) else {
        return;
    };
    // SAFETY: it is not closed before another one serves.
    let worker = unsafe { BorrowedFd::borrow_raw(number) };
    let mut waited = [PollFd::new(worker, PollFlags::POLLIN)];
    while !matches!(poll(&mut waited, PollTimeout::NONE), Ok(1..)) {}
}

/// Closes what is neither a userfaultfd nor names a process: above all a socket on which nobody takes connections any more.
fn close_others(unwatched: &mut dyn Unwatched, kept_open: Option<RawFd>) {
    for (descriptor, link) in descriptors() {
        let kept = link.starts_with(Userfaultfd::LINK) || is_pidfd(&link);
        // It may be the one by which the table was read, and something else by now.
        let is_open = link_of(descriptor).as_ref() == Some(&link);
        if descriptor > 2 && is_open && kept_open != Some(descriptor) && !kept {
            // SAFETY: it is open, and nobody else uses this table any more.
            unwatched.offer(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
}

/// Kills a process and its descendants, the youngest first: an orphan would not be known as one of them any more.
pub(crate) fn kill_family(root: &Target) {
    const LONG_ENOUGH: u32 = 1000;
    let me = nix::unistd::getpid().as_raw();
    for _ in 0..LONG_ENOUGH {
        // Once it has ended, its number may mean somebody else.
        if root.has_ended() {
            return;
        }
        // Whoever adopts orphans may have adopted this one.
        let descendants = Parents::now().without(me).descendants(root.pid);
        if descendants.is_empty() {
            break;
        }
        for descendant in descendants {
            if let Ok(descendant) = Target::open(descendant, String::new()) {
                let _ = descendant.kill();
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = root.kill();
}

/// Kills whoever waits for a missing page: orphans, whom nothing else tells to be of the family. Where the kernel does not say who it
/// is, the page is poisoned. True as long as one of the userfaultfds in the table belongs to an address space that exists.
fn kill_who_touches(targets: &[ManuallyDrop<Target>]) -> bool {
    let mut alive = false;
    for descriptor in userfaultfds() {
        let userfaultfd = borrowed(descriptor);
        if !of_somebody(&userfaultfd) {
            continue;
        }
        alive = true;
        // What the other one had read is told again.
        let _ = userfaultfd.wake(AddrRange::EVERYWHERE);
        let mut messages = Vec::new();
        while matches!(userfaultfd.read(&mut messages), Ok(1..)) {}
        for message in messages {
            let Message::Fault(fault) = message else {
                continue;
            };
            let mut touching = targets
                .iter()
                .filter_map(|target| target.process_of(fault.thread, fault.address));
            match touching.next() {
                Some(process) => drop(process.kill()),
                None => {
                    let page = AddrRange::at(fault.address.page(PAGE_BYTES), PAGE_BYTES);
                    userfaultfd.poison(page);
                }
            }
        }
    }
    alive
}

/// True if it is of an address space that exists. One that was never made ready is of no use to anybody.
fn of_somebody(userfaultfd: &Userfaultfd) -> bool {
    let stop = userfaultfd.probe(Addr::NOWHERE, PAGE_BYTES);
    !matches!(stop, Some(Stop::Gone | Stop::Other(_)))
}

fn borrowed(number: RawFd) -> ManuallyDrop<Userfaultfd> {
    // SAFETY: it was open a moment ago, and nobody else uses this table any more; it is not closed here.
    let owned = unsafe { OwnedFd::from_raw_fd(number) };
    ManuallyDrop::new(Userfaultfd::from(owned))
}

fn userfaultfds() -> Vec<RawFd> {
    let mut found = descriptors();
    found.retain(|(_, link)| link == Userfaultfd::LINK);
    found
        .into_iter()
        .map(|(descriptor, _)| descriptor)
        .collect()
}
