//! What a VMM says to a page-fault handler, as each version of Firecracker says it.

use std::fmt::Write as _;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::memory::Guest;
use super::{PAGE, SMALL_IN_HUGE};
use crate::support::plot::{call, word};
use crate::support::wait_until;

/// How a VMM hands over.
#[derive(Debug, Clone)]
pub struct Manner {
    /// 1, 7, 12 or 16: the version is 1.N. 99 says more than any version does.
    version: u32,
    /// The message comes in so many pieces.
    pieces: usize,
    /// The piece that the descriptor comes with.
    on: usize,
    /// So many descriptors more come with it.
    surplus: usize,
    /// Each piece behind it brings one more.
    stray: bool,
    /// The last region is longer than the memory file knows, by so many pages.
    longer: i64,
    /// And its offset is another one.
    shifted: i64,
    /// No userfaultfd, one of something else, the same twice, or one on which `UFFDIO_API` has not been called.
    descriptor: &'static str,
    /// Says this instead of regions.
    text: Option<&'static str>,
    /// Says that pages have so many bytes.
    page_size: Option<u64>,
}

impl Manner {
    pub fn from(words: &[&str]) -> Self {
        let find = |name: &str| {
            words
                .iter()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
        };
        let number = |name: &str| find(name).map(|word| word.parse::<i64>().expect("a number"));
        let count = |name: &str, or: usize| {
            number(name).map_or(or, |it| usize::try_from(it).expect("a count"))
        };
        Self {
            version: u32::try_from(count("version", 16)).expect("a version"),
            pieces: count("pieces", 1),
            on: count("on", 0),
            surplus: count("surplus", 0),
            stray: words.contains(&"stray"),
            longer: number("longer").unwrap_or(0),
            shifted: number("shifted").unwrap_or(0),
            descriptor: match find("descriptor") {
                None => "uffd",
                Some("none") => "none",
                Some("null") => "null",
                Some("two") => "two",
                Some("raw") => "raw",
                Some(other) => panic!("{other}?"),
            },
            text: find("text").map(|name| match name {
                "object" => r#"{"regions":[]}"#,
                "empty" => "[]",
                "half" => r#"[{"base_host_virt_addr":140130690007040,"si"#,
                "garbage" => "GET / HTTP/1.1\r\n\r\n",
                "negative" => r#"[{"base_host_virt_addr":-1,"size":4096,"offset":0}]"#,
                "strings" => r#"[{"base_host_virt_addr":"1","size":4096,"offset":0}]"#,
                "overflow" => {
                    r#"[{"base_host_virt_addr":18446744073709547520,"size":18446744073709547520,"offset":18446744073709547520}]"#
                }
                other => panic!("{other}?"),
            }),
            page_size: number("page-size").map(i64::cast_unsigned),
        }
    }

    /// Versions before 1.12 close the socket at once.
    pub fn keeps_socket(&self) -> bool {
        self.version >= 12
    }

    fn json(&self, guest: &Guest) -> String {
        if let Some(text) = self.text {
            return text.to_owned();
        }
        let page_size = self.page_size.unwrap_or((guest.grain * PAGE) as u64);
        let last = guest.regions.len() - 1;
        let regions: Vec<String> = guest
            .regions
            .iter()
            .enumerate()
            .map(|(index, region)| {
                let more = |pages: i64| if index == last { pages } else { 0 } * 4096;
                let size = (region.pages * PAGE) as u64;
                let offset = (region.first * PAGE) as u64;
                let mut text = format!(
                    r#"{{"base_host_virt_addr":{},"size":{},"offset":{}"#,
                    region.address,
                    size.checked_add_signed(more(self.longer)).expect("a size"),
                    offset.checked_add_signed(more(self.shifted)).expect("an offset"),
                );
                if self.version >= 12 {
                    write!(text, r#","page_size":{page_size}"#).expect("a string");
                }
                if (7..99).contains(&self.version) {
                    write!(text, r#","page_size_kib":{page_size}"#).expect("a string");
                }
                if self.version == 99 {
                    text += r#","gpa_start":4294967296,"is_guest_memfd":false,"later":{"a":[1,"}]",null]}"#;
                }
                text + "}"
            })
            .collect();
        format!("[{}]", regions.join(","))
    }

    /// Sends everything. True when the receiver has closed all surplus descriptors.
    pub fn hand_over(
        &self,
        socket: &UnixStream,
        guest: &Guest,
        uffd: &OwnedFd,
    ) -> io::Result<bool> {
        let text = self.json(guest);
        let null = std::fs::File::open("/dev/null")?;
        let raw = (self.descriptor == "raw").then(unready);
        let (watched, surplus) = nix::unistd::pipe()?;
        let mut rest = text.as_bytes();
        for piece in 0..self.pieces {
            let len = rest.len().div_ceil(self.pieces - piece);
            let (now, later) = rest.split_at(len);
            rest = later;
            let mut descriptors: Vec<RawFd> = Vec::new();
            if piece == self.on {
                match self.descriptor {
                    "uffd" => descriptors.push(uffd.as_raw_fd()),
                    "two" => descriptors.extend([uffd.as_raw_fd(); 2]),
                    "null" => descriptors.push(null.as_raw_fd()),
                    "raw" => descriptors.extend(raw.as_ref().map(AsRawFd::as_raw_fd)),
                    _ => {}
                }
                descriptors.extend((0..self.surplus).map(|_| surplus.as_raw_fd()));
            } else if self.stray && piece > self.on {
                descriptors.push(surplus.as_raw_fd());
            }
            send(socket, now, &descriptors)?;
            if piece + 1 < self.pieces {
                // The next piece is one of its own only if this one has been taken.
                wait_until("a piece to be received", || unread(socket) == 0);
            }
        }
        drop(surplus);
        if self.surplus == 0 && !self.stray {
            return Ok(true);
        }
        Ok(is_closed(&watched))
    }
}

/// One sendmsg(2), as Firecracker does it.
fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<()> {
    let control = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &control[..]
    };
    let sent = sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(bytes)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    assert_eq!(sent, bytes.len(), "a short sendmsg");
    Ok(())
}

/// Bytes that the other side has not received.
fn unread(socket: &UnixStream) -> u32 {
    let mut bytes = 0_u32;
    let place = std::ptr::from_mut(&mut bytes).expose_provenance() as u64;
    // TIOCOUTQ
    call(libc::SYS_ioctl, &[word(socket.as_raw_fd()), 0x5411, place]).map_or(0, |_| bytes)
}

/// Nobody has the other end of a pipe any more, or will not soon.
fn is_closed(pipe: &OwnedFd) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    poll(&mut polled, PollTimeout::from(20_000_u16)).expect("poll") == 1
}

const EVENT_REMOVE: u64 = 1 << 3;
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const USERFAULTFD_IOC_NEW: u64 = 0xaa00;

fn control(descriptor: u64, request: u64, argument: &mut [u64]) {
    let place = argument.as_mut_ptr().expose_provenance() as u64;
    call(libc::SYS_ioctl, &[descriptor, request, place])
        .unwrap_or_else(|errno| panic!("ioctl {request:#x}: {errno}"));
}

/// A userfaultfd on which nothing has been agreed.
fn unready() -> OwnedFd {
    let device = std::fs::File::open("/dev/userfaultfd").expect("root may open it");
    let flags = word(libc::O_CLOEXEC | libc::O_NONBLOCK);
    let number = call(
        libc::SYS_ioctl,
        &[word(device.as_raw_fd()), USERFAULTFD_IOC_NEW, flags],
    )
    .expect("a userfaultfd");
    own(i32::try_from(number).expect("a descriptor"))
}

/// A userfaultfd as Firecracker makes it, with every region registered for missing pages as one range.
pub fn userfaultfd(guest: &Guest) -> OwnedFd {
    let made = unready();
    let number = word(made.as_raw_fd());
    control(number, UFFDIO_API, &mut [0xaa, EVENT_REMOVE, 0]);
    for region in &guest.regions {
        let len = (region.pages * PAGE) as u64;
        control(number, UFFDIO_REGISTER, &mut [region.address, len, 1, 0]);
    }
    made
}

#[expect(unsafe_code, reason = "the kernel just opened it for us")]
fn own(number: RawFd) -> OwnedFd {
    // SAFETY: the call above opened it, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

const _: () = assert!(SMALL_IN_HUGE * PAGE == 2 << 20);
