//! What the daemon is compared with: one thread that serves a page for each fault: poll, read, content, COPY.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use snapshot_format::PAGE_SIZE;
use uffd_restore::uffd::{Message, Userfaultfd};

use crate::area::Area;
use crate::target::Target;

/// Serves until the target has done what it was told.
pub(crate) fn serve(
    target: &Target<'_>,
    userfaultfd: &Userfaultfd,
    area: &Area,
    mut content: impl FnMut(usize, &mut [u8]),
) {
    let mut messages = Vec::new();
    let mut page = [0; PAGE_SIZE];
    loop {
        let mut ready = [
            PollFd::new(userfaultfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(target.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE).expect("poll");
        let [asked, replied] = ready.map(|ready| ready.any() == Some(true));
        if !asked && replied {
            return;
        }
        if asked {
            userfaultfd.read(&mut messages).expect("to read messages");
        }
        for message in messages.drain(..) {
            if let Message::Fault(fault) = message {
                let number = area.page_of(fault.address);
                content(number, &mut page);
                let outcome = userfaultfd.copy(area.range_of(number, 1).start, &page);
                assert_eq!(outcome.stop, None, "page {number}");
            }
        }
    }
}

/// Pages of a raw file.
pub(crate) fn from_file(raw: &Path) -> impl FnMut(usize, &mut [u8]) {
    let file = File::open(raw).expect("the raw file");
    move |page, room| {
        file.read_exact_at(room, (page * PAGE_SIZE) as u64)
            .expect("pread");
    }
}
