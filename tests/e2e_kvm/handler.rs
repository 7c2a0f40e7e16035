//! A page-fault handler of our own, as small as can be, that can be told to make mistakes: it proves the guest, not the daemon.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::uffd::{Event, Fault, Message, Stop, Userfaultfd};

use super::support::area::PAGE;

/// What the handler does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mistake {
    Nothing,
    /// One bit of this page is another.
    Flip(usize),
    /// This page is zeros.
    Zero(usize),
    /// Pages that were dropped come back.
    Forget,
    /// Content that was chosen before an event was read is installed after it.
    Insist,
    /// This page is poisoned: no mistake, but the end of the guest.
    Poison(usize),
}

/// What the handler did.
#[derive(Debug, Default)]
pub(crate) struct Handled {
    pub(crate) faults: u64,
    pub(crate) removes: u64,
    pub(crate) installed: usize,
    /// Installs that came while memory was being dropped.
    pub(crate) overtaken: u64,
}

/// Serves one VMM until its socket is closed.
pub(crate) fn serve(socket: &Path, image: Vec<u8>, mistake: Mistake) -> JoinHandle<Handled> {
    let listener = UnixListener::bind(socket).expect("a socket");
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a VMM");
        let (uffd, base, page_size) = handshake(&stream);
        let mut handler = Handler {
            removed: vec![false; image.len() / page_size],
            uffd,
            base,
            page_size,
            image,
            mistake,
            handled: Handled::default(),
        };
        while handler.wait(&stream) {
            handler.answer();
        }
        handler.handled
    })
}

fn handshake(stream: &UnixStream) -> (Userfaultfd, u64, usize) {
    let mut text = [0; 4096];
    let mut control = nix::cmsg_space!([i32; 4]);
    let mut places = [IoSliceMut::new(&mut text)];
    let got = recvmsg::<()>(
        stream.as_raw_fd(),
        &mut places,
        Some(&mut control),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )
    .expect("a message");
    let descriptors: Vec<i32> = got
        .cmsgs()
        .expect("all of it")
        .flat_map(|part| match part {
            ControlMessageOwned::ScmRights(descriptors) => descriptors,
            other => panic!("not descriptors: {other:?}"),
        })
        .collect();
    let len = got.bytes;
    let value: serde_json::Value = serde_json::from_slice(&text[..len]).expect("JSON");
    let number = |name: &str| value[0][name].as_u64().expect("a number");
    let page_size = usize::try_from(number("page_size")).expect("a size");
    (
        own(descriptors[0]),
        number("base_host_virt_addr"),
        page_size,
    )
}

#[expect(unsafe_code, reason = "a descriptor that was received")]
fn own(descriptor: i32) -> Userfaultfd {
    // SAFETY: the kernel just opened this descriptor for us and nobody else knows it.
    Userfaultfd::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

struct Handler {
    uffd: Userfaultfd,
    base: u64,
    page_size: usize,
    image: Vec<u8>,
    removed: Vec<bool>,
    mistake: Mistake,
    handled: Handled,
}

impl Handler {
    /// Waits for messages; false when the VMM is gone.
    fn wait(&self, stream: &UnixStream) -> bool {
        let mut both = [
            PollFd::new(self.uffd.as_fd(), PollFlags::POLLIN),
            PollFd::new(stream.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut both, PollTimeout::NONE).expect("poll");
        both[1].any() == Some(false)
    }

    /// All events that wait, and then all faults.
    fn answer(&mut self) {
        let mut messages = Vec::new();
        while self.uffd.read(&mut messages).expect("read") > 0 {}
        let mut faults = Vec::new();
        for message in messages {
            match message {
                Message::Fault(fault) => faults.push(fault),
                Message::Event(Event::Remove(range)) => self.remove(range),
                other => panic!("not asked for: {other:?}"),
            }
        }
        for Fault { address, .. } in faults {
            self.handled.faults += 1;
            self.install(address.page(self.page_size as u64));
        }
    }

    fn index(&self, at: Addr) -> usize {
        usize::try_from(at.since(Addr(self.base))).expect("small") / self.page_size
    }

    fn remove(&mut self, range: AddrRange) {
        self.handled.removes += 1;
        if self.mistake != Mistake::Forget {
            let pages = self.index(range.start)..self.index(range.end);
            self.removed[pages].fill(true);
        }
    }

    fn install(&mut self, at: Addr) {
        let index = self.index(at);
        let range = AddrRange::at(at, self.page_size as u64);
        let first = index * self.page_size;
        let mut content = self.image[first..first + self.page_size].to_vec();
        let holds = |page: usize| page * PAGE / self.page_size == index;
        match self.mistake {
            Mistake::Flip(page) if holds(page) => content[(page * PAGE - first) + 0x600] ^= 0x10,
            Mistake::Zero(page) if holds(page) => content[page * PAGE - first..][..PAGE].fill(0),
            _ => {}
        }
        let outcome = match self.mistake {
            Mistake::Poison(page) if holds(page) => self.uffd.poison(range),
            // As hugetlbfs has no zero pages.
            _ if self.removed[index] => self.uffd.copy(at, &vec![0; self.page_size]),
            _ => self.uffd.copy(at, &content),
        };
        match outcome.stop {
            None => self.handled.installed += 1,
            // Who waits is to find the page.
            Some(Stop::Present) => self.wake(range),
            Some(Stop::Changing) if self.mistake == Mistake::Insist => {
                self.handled.overtaken += 1;
                self.insist(at, &content);
            }
            // Who waits is to ask again.
            Some(Stop::Changing) => {
                self.handled.overtaken += 1;
                self.wake(range);
            }
            // It is being killed.
            Some(Stop::Gone | Stop::Unmapped) => {}
            Some(other) => panic!("install at {at}: {other:?}"),
        }
    }

    fn wake(&self, range: AddrRange) {
        self.uffd.wake(range).expect("wake");
    }

    /// Installs it, whatever happens meanwhile.
    fn insist(&mut self, at: Addr, content: &[u8]) {
        while self.uffd.copy(at, content).stop == Some(Stop::Changing) {
            let mut messages = Vec::new();
            self.uffd.read(&mut messages).expect("read");
            for message in messages {
                match message {
                    Message::Event(Event::Remove(range)) => self.remove(range),
                    // It is to ask again.
                    Message::Fault(fault) => {
                        let page = fault.address.page(self.page_size as u64);
                        self.wake(AddrRange::at(page, self.page_size as u64));
                    }
                    other => panic!("not asked for: {other:?}"),
                }
            }
        }
        self.wake(AddrRange::at(at, self.page_size as u64));
    }
}
