//! The peer itself, and a handler of a few lines in the place of the daemon: what it says is what Firecracker says, and it
//! notices each byte that is wrong.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use serde_json::Value;
use uffd_restore::addr::{Addr, AddrRange};
use uffd_restore::uffd::{Event, Message, Userfaultfd};

use crate::peer::content::Content;
use crate::peer::{PAGE, Peer, Survey};
use crate::support::huge::HugePages;
use crate::support::uffd::{own, poll, waiting};

const PAGES: usize = 64;
/// The page that something is wrong with.
const BAD: usize = 17;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flaw {
    None,
    /// The bad page is zero.
    Zero,
    /// The bad page is another one.
    Other,
    /// One byte of it is wrong.
    Byte,
    Poison,
    /// What is removed is not zero.
    Stale,
}

/// One recvmsg(2) that has everything.
fn receive(listener: &UnixListener) -> (Value, Userfaultfd) {
    let (socket, _) = listener.accept().expect("accept");
    let mut space = nix::cmsg_space!([RawFd; 4]);
    let mut bytes = [0; 4096];
    let mut parts = [std::io::IoSliceMut::new(&mut bytes)];
    let number = socket.as_raw_fd();
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let got = recvmsg::<()>(number, &mut parts, Some(&mut space), flags).expect("recvmsg");
    let mut descriptors = Vec::new();
    for message in got.cmsgs().expect("control messages") {
        if let ControlMessageOwned::ScmRights(some) = message {
            descriptors.extend(some);
        }
    }
    assert_eq!(descriptors.len(), 1, "one descriptor");
    let len = got.bytes;
    let text = serde_json::from_slice(&bytes[..len]).expect("JSON, all of it");
    (text, own(descriptors[0]))
}

/// Serves until it is told that this is enough.
fn serve(uffd: &Userfaultfd, regions: &[(u64, u64)], grain: u64, flaw: Flaw, enough: &AtomicBool) {
    let mut removed: HashSet<u64> = HashSet::new();
    while !enough.load(Ordering::SeqCst) {
        if poll(uffd, 20) == 0 {
            continue;
        }
        let mut faults = Vec::new();
        for message in waiting(uffd) {
            match message {
                Message::Event(Event::Remove(range)) if flaw != Flaw::Stale => {
                    removed.extend((range.start.0..range.end.0).step_by(PAGE));
                }
                Message::Fault(fault) => faults.push(fault.address.0 & !(grain - 1)),
                _ => {}
            }
        }
        for address in faults {
            let (base, offset) = *regions
                .iter()
                .rfind(|(base, _)| *base <= address)
                .expect("a region");
            let page = usize::try_from(address - base + offset).expect("small") / PAGE;
            let range = AddrRange::at(Addr(address), grain);
            let pages = page..page + usize::try_from(grain).expect("small") / PAGE;
            let mut bytes: Vec<u8> = pages
                .flat_map(|page| Content::of_file(page).bytes())
                .collect();
            if removed.contains(&address) {
                bytes.fill(0);
            } else if page == BAD {
                match flaw {
                    Flaw::Zero => bytes.fill(0),
                    Flaw::Other => bytes = Content::of_file(page - 1).bytes(),
                    Flaw::Byte => bytes[4000] ^= 1,
                    Flaw::Poison => {
                        uffd.poison(range);
                        continue;
                    }
                    Flaw::None | Flaw::Stale => {}
                }
            }
            uffd.copy(range.start, &bytes);
            uffd.wake(range).expect("wake");
        }
    }
}

struct Handler {
    enough: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Handler {
    /// A peer with two regions, served by a handler with this flaw.
    fn with(flaw: Flaw) -> (Self, Peer) {
        Self::of("16,48", "", flaw)
    }

    /// The same with a peer of this kind.
    fn of(regions: &str, words: &str, flaw: Flaw) -> (Self, Peer) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("bind");
        let mut peer = Peer::start(regions, words);
        peer.hand_over(&path, "");
        let (text, uffd) = receive(&listener);
        let regions: Vec<(u64, u64)> = text
            .as_array()
            .expect("regions")
            .iter()
            .map(|region| {
                let number = |name: &str| region[name].as_u64().expect("a number");
                (number("base_host_virt_addr"), number("offset"))
            })
            .collect();
        let grain = text[0]["page_size"].as_u64().expect("a number");
        let mut sorted = regions;
        sorted.sort_unstable();
        let enough = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&enough);
        let thread = std::thread::spawn(move || serve(&uffd, &sorted, grain, flaw, &told));
        let this = Self {
            enough,
            thread: Some(thread),
        };
        (this, peer)
    }
}

impl Drop for Handler {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let joined = thread.join();
            assert!(joined.is_ok() || std::thread::panicking());
        }
    }
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let (_handler, mut peer) = Handler::with(Flaw::None);
    assert!(peer.is_registered());
    assert_eq!(peer.ask("read 17"), "right");
    peer.must("remove 40 3");
    peer.must("poke 20");
    peer.must("pipe 16 20");
    peer.must("replace 50 2");
    peer.must("write 30 3");
    peer.check_all();
    let survey = Survey {
        right: PAGES,
        ..Survey::default()
    };
    assert_eq!(peer.survey(), survey);
    peer.finish();
}

#[test]
fn a_balloon_at_work_is_followed() {
    let (_handler, mut peer) = Handler::with(Flaw::None);
    peer.must("flood 30");
    peer.must("sweep");
    assert!(peer.ask("calm").parse::<u64>().expect("a number") > 0);
    peer.check_all();
    let (_handler, mut peer) = Handler::with(Flaw::None);
    peer.must("race 1 2");
    peer.check_all();
}

/// The kernel frees huge pages, and no parts of them.
#[test]
fn huge_pages_and_slots() {
    let _reserved = HugePages::reserve(5);
    let (_handler, mut peer) = Handler::of("512,2048", "huge slots=4", Flaw::None);
    peer.must("remove 0 100");
    peer.must("remove 512 511");
    let inside = peer.ask("remove 515 4");
    assert!(inside.contains("EINVAL"), "{inside}");
    peer.check_all();
    peer.must("plug 1024 512");
    peer.must("unplug 512 512");
    peer.must("plug-zero 512 512");
    peer.must("pipe 512 1024");
    peer.must("poke 600");
    peer.check_all();
    // Still unplugged, and left alone.
    let survey = peer.survey();
    assert_eq!(survey.right, 4 * 512, "{survey:?}");
    peer.finish();
}

#[test]
fn each_flaw_is_found() {
    for flaw in [Flaw::Zero, Flaw::Other, Flaw::Byte] {
        let (_handler, mut peer) = Handler::with(flaw);
        for question in ["check 0 64 2", "pipe 16 48"] {
            let answer = peer.ask(question);
            assert_ne!(answer, "right", "{flaw:?}");
        }
        let survey = peer.survey();
        let (zero, wrong) = if flaw == Flaw::Zero { (1, 0) } else { (0, 1) };
        assert_eq!((survey.zero, survey.wrong), (zero, wrong), "{flaw:?}");
    }
}

#[test]
fn poison_is_found() {
    let (_handler, mut peer) = Handler::with(Flaw::Poison);
    let survey = peer.survey();
    assert_eq!((survey.right, survey.poisoned), (63, 1), "{survey:?}");
    peer.target.tell("read 17");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(peer.end().signal(), Some(libc::SIGBUS));
}

#[test]
fn stale_pages_are_found() {
    let (_handler, mut peer) = Handler::with(Flaw::Stale);
    peer.must("remove 17 1");
    let answer = peer.ask("check 0 64 1");
    assert!(answer.contains("page 17 should be Zero"), "{answer}");
    let (_handler, mut peer) = Handler::with(Flaw::Stale);
    let answer = peer.ask("race 1 2");
    assert!(answer.contains("removed"), "{answer}");
}

/// As it was captured from Firecracker 1.16.1, for memory of this size and at this address.
#[test]
fn it_says_what_firecracker_says() {
    let folder = tempfile::tempdir().expect("a folder");
    for (version, more) in [
        (1, Value::Null),
        (7, serde_json::json!({"page_size_kib": 4096})),
        (
            16,
            serde_json::json!({"page_size": 4096, "page_size_kib": 4096}),
        ),
    ] {
        let path = folder.path().join(version.to_string());
        let listener = UnixListener::bind(&path).expect("bind");
        let mut peer = Peer::start("32,16", "");
        peer.hand_over(&path, &format!("version={version}"));
        let (said, _uffd) = receive(&listener);
        let mut wanted = serde_json::json!([
            {"base_host_virt_addr": peer.regions[0].0, "size": 131_072, "offset": 0},
            {"base_host_virt_addr": peer.regions[1].0, "size": 65_536, "offset": 131_072},
        ]);
        for region in wanted.as_array_mut().expect("a list") {
            let region = region.as_object_mut().expect("an object");
            region.extend(more.as_object().cloned().unwrap_or_default());
        }
        assert_eq!(said, wanted);
    }
}
