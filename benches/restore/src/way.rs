//! The ways to fill memory lazily, and a thread that serves faults in one of them.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use snapshot_format::PAGE_SIZE;
use uffd_restore::addr::Addr;
use uffd_restore::uffd::abi::{UFFDIO_REGISTER_MODE_MINOR, UFFDIO_REGISTER_MODE_MISSING};
use uffd_restore::uffd::{Fault, Message, Userfaultfd};

use crate::area::Area;
use crate::target::{Mode, Order, Target, Walk, Walked, stamp};

/// Pages of a piece of a bulk fill: what the daemon's prefill installs at once.
pub(crate) const BULK: usize = 64;

/// How content gets into the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// `UFFDIO_COPY` into private memory: the limit that the others are compared with.
    Private,
    /// MISSING, `UFFDIO_COPY` into the memfd's mapping.
    Copy,
    /// MISSING and MINOR, `UFFDIO_COPY`; `UFFDIO_CONTINUE` only for what somebody else brought.
    CopyMinor,
    /// MISSING and MINOR, written through a mapping of the daemon's own, `UFFDIO_CONTINUE`.
    Continue,
    /// MISSING and MINOR, pwrite(2) to the memfd, `UFFDIO_CONTINUE`.
    WriteContinue,
    /// MISSING, pwrite(2) to the memfd, `UFFDIO_WAKE`.
    WriteWake,
}

impl Way {
    /// Those for shared memory.
    pub(crate) const SHARED: [Self; 5] = [
        Self::Copy,
        Self::CopyMinor,
        Self::Continue,
        Self::WriteContinue,
        Self::WriteWake,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Private => "private memory, COPY",
            Self::Copy => "MISSING, COPY",
            Self::CopyMinor => "MISSING+MINOR, COPY",
            Self::Continue => "MISSING+MINOR, own mapping, CONTINUE",
            Self::WriteContinue => "MISSING+MINOR, pwrite, CONTINUE",
            Self::WriteWake => "MISSING, pwrite, WAKE",
        }
    }

    pub(crate) fn mode(self) -> Mode {
        Some(match self {
            Self::Private | Self::Copy | Self::WriteWake => UFFDIO_REGISTER_MODE_MISSING,
            Self::CopyMinor | Self::Continue | Self::WriteContinue => {
                UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR
            }
        })
    }

    pub(crate) fn is_shared(self) -> bool {
        self != Self::Private
    }
}

/// What came first.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The target waits for a page.
    Fault(Fault),
    /// The target has done what it was told.
    Reply,
}

/// Serves a target in one thread, as the daemon does: poll, read, decide, install.
pub(crate) struct Server<'a> {
    pub(crate) target: Target<'a>,
    pub(crate) userfaultfd: Userfaultfd,
    way: Way,
    area: &'a Area,
    file: Option<&'a File>,
    content: Vec<u8>,
    pub(crate) messages: Vec<Message>,
}

impl<'a> Server<'a> {
    /// A target of its own, which maps `area` as this process does.
    pub(crate) fn start(way: Way, area: &'a Area, file: Option<&'a File>, times: &'a Area) -> Self {
        let (target, userfaultfd) = Target::start(area, times, way.mode());
        let mut content = vec![0; BULK * PAGE_SIZE];
        for (at, byte) in content.iter_mut().enumerate() {
            *byte = at.to_le_bytes()[0];
        }
        Self {
            target,
            userfaultfd: userfaultfd.expect("every way has a mode"),
            way,
            area,
            file,
            content,
            messages: Vec::new(),
        }
    }

    /// What the snapshot has for these pages: the same bytes, but for the stamp. In the processor's cache, as what was just
    /// decoded is.
    pub(crate) fn content(&mut self, page: usize, pages: usize) -> &[u8] {
        let content = &mut self.content[..pages * PAGE_SIZE];
        for (offset, bytes) in content.chunks_exact_mut(PAGE_SIZE).enumerate() {
            bytes[..8].copy_from_slice(&stamp(page + offset).to_le_bytes());
        }
        content
    }

    /// Installs pages of which none is there, and wakes whoever waits for them.
    pub(crate) fn install(&mut self, page: usize, pages: usize) {
        let range = self.area.range_of(page, pages);
        let (way, area, file) = (self.way, self.area, self.file);
        let offset = (page * PAGE_SIZE) as u64;
        self.content(page, pages);
        let content = &self.content[..pages * PAGE_SIZE];
        let write = || {
            let file = file.expect("shared memory has a file");
            file.write_all_at(content, offset).expect("pwrite");
        };
        let outcome = match way {
            Way::Private | Way::Copy | Way::CopyMinor => {
                self.userfaultfd.copy(range.start, content)
            }
            Way::Continue => {
                area.fill(page, content);
                self.userfaultfd.map_cached(range)
            }
            Way::WriteContinue => {
                write();
                self.userfaultfd.map_cached(range)
            }
            Way::WriteWake => {
                write();
                self.userfaultfd.wake(range).expect("to wake");
                return;
            }
        };
        assert_eq!(outcome.stop, None, "{way:?} at page {page}");
    }

    /// The page that an address lies in.
    pub(crate) fn page_of(&self, address: Addr) -> usize {
        self.area.page_of(address)
    }

    /// Waits for a fault or the target's reply, which stays to be taken.
    pub(crate) fn next(&mut self) -> Seen {
        loop {
            if let Some(Message::Fault(fault)) = self.messages.pop() {
                return Seen::Fault(fault);
            }
            let mut ready = [
                PollFd::new(self.userfaultfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.target.as_fd(), PollFlags::POLLIN),
            ];
            poll(&mut ready, PollTimeout::NONE).expect("poll");
            let [asked, replied] = ready.map(|ready| ready.any() == Some(true));
            if asked {
                self.userfaultfd
                    .read(&mut self.messages)
                    .expect("to read messages");
            } else if replied {
                return Seen::Reply;
            }
        }
    }

    /// Lets the target touch pages, and serves each fault by all of its block in one go.
    pub(crate) fn serve(&mut self, walk: Walk) -> Walked {
        self.target.order(Order::Touch(walk));
        while let Seen::Fault(fault) = self.next() {
            let page = self.area.page_of(fault.address);
            self.install(page / walk.around * walk.around, walk.around);
        }
        self.target.walked()
    }

    /// Installs everything without being asked.
    pub(crate) fn fill(&mut self) -> Duration {
        let begun = Instant::now();
        for page in (0..self.area.pages).step_by(BULK) {
            self.install(page, BULK);
        }
        begun.elapsed()
    }
}
