//! What tests of the kernel's userfaultfd share: a scene of one userfaultfd and some memory, and threads to act in it.
//!
//! The memory is this very test process's own; threads take the part of the target. Tests of one program take turns,
//! because a fork of one would be an event for all.
#![expect(
    unsafe_code,
    reason = "poll, signals, and owning descriptors that the kernel made"
)]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use uffd_restore::addr::Addr;
use uffd_restore::uffd::{
    Event, Fault, Features, Message, Outcome, Registered, Stop, Userfaultfd, abi::UffdMsg,
    new_for_this_process,
};

use super::plot::{PAGE, Plot, call, word};
use super::{PATIENCE, state, wait_until};

/// A new userfaultfd on this process that tells everything.
pub fn telling() -> Userfaultfd {
    agreed(Features::EVENTS.and(Features::THREAD_ID))
}

/// A new userfaultfd on this process with features.
pub fn agreed(features: Features) -> Userfaultfd {
    let uffd = new_for_this_process().expect("root may have a userfaultfd");
    uffd.agree(features).expect("features");
    uffd
}

/// A test's turn: nobody else's fork disturbs it, and it ends in time or with the whole program.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held")] MutexGuard<'static, ()>);

impl Turn {
    pub fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        nix::unistd::alarm::set(u32::try_from(PATIENCE.as_secs()).expect("small") + 5);
        Self(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        nix::unistd::alarm::cancel();
    }
}

/// One userfaultfd and memory for it. Closing it, first of all, lets every thread go that waits.
#[derive(Debug)]
pub struct Scene {
    pub uffd: Userfaultfd,
    pub plot: Plot,
    _turn: Turn,
}

impl Scene {
    /// With nothing mapped.
    pub fn empty() -> Self {
        let turn = Turn::take();
        Self {
            uffd: telling(),
            plot: Plot::new(),
            _turn: turn,
        }
    }

    /// With that many registered pages of private memory, all missing.
    pub fn with(pages: u64) -> Self {
        let scene = Self::empty();
        scene.plot.private(0, pages);
        scene.register(0, pages);
        scene
    }

    /// Pages from 0 on are registered, and have the numbers from 100 on in them.
    pub fn filled(pages: u64) -> Self {
        let scene = Self::with(pages);
        for page in 0..pages {
            scene.fill(page, 100 + page);
        }
        scene
    }

    pub fn register(&self, page: u64, pages: u64) -> Registered {
        let range = self.plot.range(page, pages);
        self.uffd.register(range).expect("register")
    }

    /// Installs a page with a number in it.
    pub fn fill(&self, page: u64, number: u64) {
        assert_eq!(self.copy(page, &[number]), pages(1));
    }

    /// Installs pages with numbers in them.
    pub fn copy(&self, page: u64, numbers: &[u64]) -> Outcome {
        self.uffd.copy(self.plot.at(page), &content(numbers))
    }

    pub fn zero(&self, page: u64) {
        assert_eq!(self.uffd.zero(self.plot.range(page, 1)), pages(1));
    }

    pub fn probe(&self, page: u64) -> Option<Stop> {
        self.uffd.probe(self.plot.at(page), PAGE)
    }

    /// A thread reads a page, and by now waits for it.
    pub fn reader(&self, page: u64) -> Worker<u64> {
        self.toucher(move |plot| plot.read(page))
    }

    /// A thread does something that needs a missing page, and by now waits for it.
    pub fn toucher<T: Send + 'static>(
        &self,
        act: impl FnOnce(Plot) -> T + Send + 'static,
    ) -> Worker<T> {
        let plot = self.plot;
        let before = queue(&self.uffd).total;
        let worker = Worker::start(move || act(plot));
        wait_until("a fault", || queue(&self.uffd).total > before);
        worker
    }

    /// A thread makes a call that changes the address space, and by now waits until that is read.
    pub fn caller<T: Send + 'static>(
        &self,
        act: impl FnOnce(Plot) -> T + Send + 'static,
    ) -> Worker<T> {
        let plot = self.plot;
        let worker = Worker::start(move || act(plot));
        worker.stands_still();
        worker
    }
}

/// That many pages were installed.
pub fn pages(count: u64) -> Outcome {
    Outcome::complete(count * PAGE)
}

/// Pages with these numbers in their first words.
pub fn content(numbers: &[u64]) -> Vec<u8> {
    let page = |number: &u64| {
        let mut page = vec![0xa5; 4096];
        page[..8].copy_from_slice(&number.to_ne_bytes());
        page
    };
    numbers.iter().flat_map(page).collect()
}

/// What poll(2) says at once, or after a while.
pub fn poll(descriptor: impl AsFd, milliseconds: i32) -> i16 {
    let mut one = libc::pollfd {
        fd: descriptor.as_fd().as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one pollfd, exclusively borrowed.
    let result = unsafe { libc::poll(&raw mut one, 1, milliseconds) };
    Errno::result(result).expect("poll");
    one.revents
}

/// What waits now.
pub fn waiting(uffd: &Userfaultfd) -> Vec<Message> {
    let mut messages = Vec::new();
    uffd.read(&mut messages).expect("read");
    messages
}

/// What comes next, all of it.
pub fn batch(uffd: &Userfaultfd) -> Vec<Message> {
    let patience = i32::try_from(PATIENCE.as_millis()).expect("small");
    assert_eq!(poll(uffd, patience), libc::POLLIN, "no message came");
    waiting(uffd)
}

/// The message that comes next, and no other: a thread that is told by reading it may have more to say at once.
pub fn next(uffd: &Userfaultfd) -> Message {
    let patience = i32::try_from(PATIENCE.as_millis()).expect("small");
    let mut message = UffdMsg::default();
    let place = std::ptr::from_mut(&mut message).expose_provenance() as u64;
    loop {
        assert_eq!(poll(uffd, patience), libc::POLLIN, "no message came");
        match call(libc::SYS_read, &[number(uffd), place, 32]) {
            Ok(bytes) => assert_eq!(bytes, 32),
            // The thread went on before its message could be read.
            Err(Errno::EAGAIN) => continue,
            Err(errno) => panic!("read: {errno}"),
        }
        return Message::from(message);
    }
}

/// The message that comes next, which must be an event.
pub fn event(uffd: &Userfaultfd) -> Event {
    match next(uffd) {
        Message::Event(event) => event,
        other => panic!("not an event: {other:?}"),
    }
}

/// The message that comes next, which must be a fault.
pub fn fault(uffd: &Userfaultfd) -> Fault {
    match next(uffd) {
        Message::Fault(fault) => fault,
        other => panic!("not a fault: {other:?}"),
    }
}

/// What comes next must be a FORK.
pub fn forked(uffd: &Userfaultfd) -> Userfaultfd {
    adopt(event(uffd))
}

/// The child's userfaultfd, from a FORK.
pub fn adopt(event: Event) -> Userfaultfd {
    let Event::Fork { descriptor } = event else {
        panic!("not a FORK: {event:?}")
    };
    own(descriptor)
}

/// A userfaultfd that the kernel just opened for this process.
pub fn own(descriptor: i32) -> Userfaultfd {
    // SAFETY: whoever reads the message or made the call owns the descriptor, and that was here.
    let owned = unsafe { OwnedFd::from_raw_fd(descriptor) };
    Userfaultfd::from(owned)
}

/// A userfaultfd that another process has open.
pub fn taken_from(pid: i32, descriptor: u64) -> Userfaultfd {
    Userfaultfd::from(fetched(pid, descriptor))
}

/// What another process has open.
pub fn fetched(pid: i32, descriptor: u64) -> OwnedFd {
    let id = u64::from(pid.unsigned_abs());
    let process = call(libc::SYS_pidfd_open, &[id, 0]).expect("pidfd_open");
    let taken = call(libc::SYS_pidfd_getfd, &[process, descriptor, 0]).expect("pidfd_getfd");
    call(libc::SYS_close, &[process]).expect("close");
    let taken = i32::try_from(taken).expect("a descriptor");
    // SAFETY: the kernel just opened it for this process.
    unsafe { OwnedFd::from_raw_fd(taken) }
}

/// The descriptor as an argument of [`call`].
pub fn number(descriptor: impl AsFd) -> u64 {
    word(descriptor.as_fd().as_raw_fd())
}

/// Flags of the open file, and of the descriptor.
pub fn flags(descriptor: impl AsFd) -> (OFlag, i32) {
    let descriptor = descriptor.as_fd();
    let file = fcntl(descriptor, FcntlArg::F_GETFL).expect("flags");
    let own = fcntl(descriptor, FcntlArg::F_GETFD).expect("flags");
    (OFlag::from_bits_retain(file), own)
}

/// `pending`, `total` and `API` of `/proc/self/fdinfo`: messages of faults nobody has read, threads that wait for pages,
/// and version and features.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub unread: u64,
    pub total: u64,
    pub api: String,
}

pub fn queue(uffd: &Userfaultfd) -> Queue {
    let file = format!("/proc/self/fdinfo/{}", uffd.as_fd().as_raw_fd());
    let text = std::fs::read_to_string(file).expect("fdinfo");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.expect("a field").trim().to_owned()
    };
    Queue {
        unread: field("pending:").parse().expect("a number"),
        total: field("total:").parse().expect("a number"),
        api: field("API:"),
    }
}

/// A thread that acts as the target. Left alone when dropped: it goes on when the userfaultfd is closed.
#[derive(Debug)]
pub struct Worker<T> {
    pub tid: i32,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Worker<T> {
    pub fn start(work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(nix::unistd::gettid().as_raw()).expect("told");
            work()
        });
        let tid = told.recv().expect("a thread");
        Self { tid, thread }
    }

    /// Waits until the thread waits for a reader of the userfaultfd, in a way that no signal but SIGKILL ends.
    ///
    /// Not every wait of that kind is for that: a thread may have to wait for the lock of the address space before.
    pub fn stands_still(&self) {
        wait_until("a thread to stand still", || {
            let place = std::fs::read_to_string(format!("/proc/self/task/{}/wchan", self.tid));
            state(self.tid) == 'D' && place.is_ok_and(|place| place.contains("userfault"))
        });
        assert!(!self.thread.is_finished());
    }

    pub fn thread_id(&self) -> u32 {
        self.tid.unsigned_abs()
    }

    /// Sends the thread a signal that is caught and does nothing.
    pub fn nudge(&self) {
        extern "C" fn nothing(_: i32) {}
        let handler = nix::sys::signal::SigHandler::Handler(nothing);
        // SAFETY: the handler does nothing.
        unsafe { nix::sys::signal::signal(nix::sys::signal::Signal::SIGUSR1, handler) }
            .expect("signal");
        let process = u64::from(std::process::id());
        let arguments = [process, word(self.tid), word(libc::SIGUSR1)];
        call(libc::SYS_tgkill, &arguments).expect("tgkill");
    }

    /// What the thread's work gave; waits for its end.
    pub fn result(self) -> T {
        self.thread.join().expect("the thread's work")
    }
}

/// What the kernel moves from `from` to `to`.
pub fn moved(plot: Plot, from: u64, to: u64, count: u64) -> Event {
    Event::Remap {
        from: plot.at(from),
        to: plot.at(to),
        len: count * PAGE,
    }
}

pub fn unmapped(plot: Plot, page: u64, count: u64) -> Event {
    Event::Unmap(plot.range(page, count))
}

pub fn removed(plot: Plot, page: u64, count: u64) -> Event {
    Event::Remove(plot.range(page, count))
}

/// An address that is never mapped.
pub const NOWHERE: Addr = Addr(0x1_0000);
