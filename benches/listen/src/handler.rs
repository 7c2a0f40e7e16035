//! Handlers of a raw memory file, to be compared with: what Firecracker's examples do, with pieces of any size.
#![expect(unsafe_code, reason = "takes descriptors that were received")]

use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use snapshot_format::PAGE_SIZE;
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::uffd::{Message, Stop, Userfaultfd};

use crate::mapping::Mapping;
use crate::server::number;

/// Pages of a COPY where everything is installed at the first fault: it wakes whoever waits in it when it is done.
const LARGE: usize = 256;

/// Serves whoever connects, each in a thread: `handler SOCKET FILE PAGES`, where PAGES is how many a fault brings, or 0
/// for all.
pub(crate) fn run(arguments: &[String]) -> Option<()> {
    let [socket, file, at_once] = arguments else {
        return None;
    };
    let at_once: usize = at_once.parse().ok()?;
    let listener = UnixListener::bind(Path::new(socket)).expect("the socket");
    let file = File::open(file).expect("the memory file");
    let len = usize::try_from(file.metadata().expect("its length").len()).expect("64 bits");
    let memory = Mapping::new(len / PAGE_SIZE, Some(&file));
    println!("listening");
    for connection in listener.incoming() {
        let connection = connection.expect("a connection");
        std::thread::spawn(move || {
            Session::receive(&connection, memory).serve(&connection, at_once)
        });
    }
    Some(())
}

struct Session {
    userfaultfd: Userfaultfd,
    base: Addr,
    memory: Mapping,
}

impl Session {
    fn receive(connection: &UnixStream, memory: Mapping) -> Self {
        let mut text = [0; 1024];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let mut into = [IoSliceMut::new(&mut text)];
        let socket = connection.as_raw_fd();
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<()>(socket, &mut into, Some(&mut space), flags).expect("a message");
        let rights = message.cmsgs().expect("a whole message").next();
        let Some(ControlMessageOwned::ScmRights(descriptors)) = rights else {
            panic!("no descriptor came");
        };
        // SAFETY: the kernel opened this descriptor for us and nobody else knows it.
        let userfaultfd = unsafe { OwnedFd::from_raw_fd(descriptors[0]) };
        let len = message.bytes;
        let line = String::from_utf8_lossy(&text[..len]);
        let value = |name| number(&line, name).expect("a field") as u64;
        assert_eq!(value("size"), memory.range().len());
        Self {
            userfaultfd: Userfaultfd::from(userfaultfd),
            base: Addr(value("base_host_virt_addr")),
            memory,
        }
    }

    fn serve(&self, connection: &UnixStream, at_once: usize) {
        let mut messages = Vec::new();
        let mut filled = false;
        loop {
            let mut ready = [
                PollFd::new(self.userfaultfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(connection.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, PollTimeout::NONE).expect("poll");
            let [asked, ended] = ready.map(|ready| ready.any() == Some(true));
            if ended {
                return;
            }
            if asked {
                self.userfaultfd.read(&mut messages).expect("messages");
            }
            for message in messages.drain(..) {
                if let Message::Fault(fault) = message {
                    self.answer(fault.address, at_once, filled);
                    filled = at_once == 0;
                }
            }
        }
    }

    fn answer(&self, address: Addr, at_once: usize, filled: bool) {
        if filled {
            let at = AddrRange::at(address.page(PAGE_SIZE as u64), PAGE_SIZE as u64);
            self.userfaultfd.wake(at).expect("to wake");
            return;
        }
        let page = usize::try_from(address.since(self.base)).expect("64 bits") / PAGE_SIZE;
        if let Some(block) = page.checked_div(at_once) {
            let start = block * at_once;
            self.install(start, at_once.min(self.memory.pages() - start));
            return;
        }
        // What somebody waits for comes first.
        let start = page / LARGE * LARGE;
        for page in (start..self.memory.pages()).chain(0..start).step_by(LARGE) {
            self.install(page, LARGE.min(self.memory.pages() - page));
        }
    }

    fn install(&self, start: usize, pages: usize) {
        let end = start + pages;
        let mut page = start;
        while page < end {
            let at = self.base.plus((page * PAGE_SIZE) as u64);
            let outcome = self
                .userfaultfd
                .copy(at, self.memory.bytes(page, end - page));
            page += usize::try_from(outcome.done).expect("64 bits") / PAGE_SIZE;
            match outcome.stop {
                None | Some(Stop::Partial | Stop::Changing) => {}
                Some(Stop::Present) => {
                    let at = AddrRange::at(at, PAGE_SIZE as u64);
                    self.userfaultfd.wake(at).expect("to wake");
                    page += 1;
                }
                Some(Stop::Gone) => return,
                Some(other) => panic!("page {page}: {other:?}"),
            }
        }
    }
}
