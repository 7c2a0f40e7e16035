//! A hand-over as it comes over a real socket, with real userfaultfds: whole, in pieces, late, broken and with too much.
//! Whatever comes, no descriptor is left open but the userfaultfds that are handed on.

mod support;

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use support::uffd::{agreed, flags, next};
use support::{PATIENCE, Target, play_role, say};
use uffd_restore::addr::Addr;
use uffd_restore::handover::firecracker::{Region, receive};
use uffd_restore::handover::peer::{Credentials, PeerError};
use uffd_restore::handover::receive::{HandshakeError, MAX_MESSAGE, Received, Refused, features};
use uffd_restore::uffd::{Features, Userfaultfd};

#[test]
fn role() {
    play_role(&[("peer", peer)]);
}

const MESSAGE: &str = r#"[{"base_host_virt_addr":140130690007040,"size":134217728,"offset":0,"page_size":4096,"page_size_kib":4096}]"#;

fn regions() -> Vec<Region> {
    vec![Region {
        base: Addr(140_130_690_007_040),
        size: 128 << 20,
        offset: 0,
        page_bytes: 4096,
    }]
}

/// Tests take turns: they count the descriptors of the process.
struct Lab {
    near: Option<UnixStream>,
    far: UnixStream,
    before: usize,
    _turn: MutexGuard<'static, ()>,
}

fn open_descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("proc").count()
}

impl Lab {
    fn new() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = open_descriptors();
        let (near, far) = UnixStream::pair().expect("sockets");
        Self {
            near: Some(near),
            far,
            before,
            _turn: turn,
        }
    }

    fn send(&self, bytes: &[u8], descriptors: &[RawFd]) {
        let near = self.near.as_ref().expect("open");
        send(near, bytes, descriptors);
    }

    fn close(&mut self) {
        self.near = None;
    }

    fn receive(&self) -> Result<Received<Vec<Region>>, Refused> {
        self.receive_within(PATIENCE)
    }

    fn receive_within(&self, time: Duration) -> Result<Received<Vec<Region>>, Refused> {
        receive(&self.far, Instant::now() + time)
    }

    /// Descriptors of this process that are neither the lab's nor were there before.
    fn more(&self) -> usize {
        open_descriptors() - self.before - 1 - usize::from(self.near.is_some())
    }

    fn refused(&self, time: Duration) -> Refused {
        let refused = self.receive_within(time).expect_err("refused");
        assert!(!refused.to_string().is_empty());
        refused
    }
}

fn send(socket: &UnixStream, bytes: &[u8], descriptors: &[RawFd]) {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let control = if descriptors.is_empty() {
        &[][..]
    } else {
        &rights
    };
    let bytes = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(socket.as_raw_fd(), &bytes, control, flags, None).expect("sendmsg");
}

fn numbers(descriptors: &[impl AsFd]) -> Vec<RawFd> {
    let number = |descriptor: &_| AsFd::as_fd(descriptor).as_raw_fd();
    descriptors.iter().map(number).collect()
}

/// What Firecracker agrees on.
fn userfaultfd() -> Userfaultfd {
    agreed(Features::from_bits(8))
}

fn null() -> OwnedFd {
    File::open("/dev/null").expect("/dev/null").into()
}

#[test]
fn a_hand_over_as_firecracker_sends_it() {
    let lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    let received = lab.receive().expect("received");
    drop(sent);
    assert_eq!(received.message, regions());
    assert_eq!(lab.more(), 1);
    let (file, own) = flags(&received.userfaultfd);
    assert!(file.contains(OFlag::O_NONBLOCK));
    assert_eq!(own, libc::FD_CLOEXEC);
    let told = features(&received.userfaultfd).expect("fdinfo");
    assert_eq!(told, Features::from_bits(8));
    assert_eq!(told.names().collect::<Vec<_>>(), ["EVENT_REMOVE"]);
    drop(received);
    assert_eq!(lab.more(), 0);
}

#[test]
fn what_was_received_is_what_was_sent() {
    let lab = Lab::new();
    let scene = support::uffd::Scene::with(2);
    lab.send(MESSAGE.as_bytes(), &numbers(&[&scene.uffd]));
    let received = lab.receive().expect("received");
    let received = Userfaultfd::from(received.userfaultfd);
    let reader = scene.reader(1);
    next(&received);
    let content = support::uffd::content(&[7]);
    assert_eq!(
        received.copy(scene.plot.at(1), &content),
        support::uffd::pages(1)
    );
    assert_eq!(reader.result(), 7);
}

#[test]
fn features_of_something_else() {
    let _lab = Lab::new();
    assert_eq!(features(&null()), None);
}

#[test]
fn byte_by_byte_and_the_descriptor_with_any_of_them() {
    let lab = Lab::new();
    let sent = userfaultfd();
    for with in 0..MESSAGE.len() {
        for (at, byte) in MESSAGE.bytes().enumerate() {
            let gift = if at == with {
                numbers(&[&sent])
            } else {
                vec![]
            };
            lab.send(&[byte], &gift);
        }
        let received = lab.receive().expect("received");
        assert_eq!(received.message, regions());
        drop(received);
        assert_eq!(lab.more(), 1, "what was sent");
    }
}

#[test]
fn slowly_in_two_pieces_and_the_descriptor_last_of_all() {
    for with in 0..3 {
        let mut lab = Lab::new();
        let near = lab.near.take().expect("open");
        let sender = thread::spawn(move || {
            let sent = userfaultfd();
            let pieces = [&MESSAGE.as_bytes()[..50], &MESSAGE.as_bytes()[50..], b"\n"];
            for (at, piece) in pieces.into_iter().enumerate() {
                let gift = if at == with {
                    numbers(&[&sent])
                } else {
                    vec![]
                };
                thread::sleep(Duration::from_millis(20));
                // The third piece comes when it is needed, or finds nobody.
                if at < 2 || with == 2 {
                    send(&near, piece, &gift);
                }
            }
        });
        let received = lab.receive().expect("received");
        assert_eq!(received.message, regions());
        sender.join().expect("sent");
    }
}

#[test]
fn other_descriptors_are_closed() {
    let lab = Lab::new();
    let sent = userfaultfd();
    for before in [0, 1, 15] {
        let others: Vec<OwnedFd> = (0..15).map(|_| null()).collect();
        let mut gift = numbers(&others);
        gift.insert(before, sent.as_fd().as_raw_fd());
        lab.send(MESSAGE.as_bytes(), &gift);
        drop(others);
        let received = lab.receive().expect("received");
        assert_eq!(lab.more(), 2, "what was sent and what was received");
        assert!(features(&received.userfaultfd).is_some());
    }
    // Some with one piece, some with another.
    lab.send(b"[", &numbers(&[null()]));
    lab.send(&MESSAGE.as_bytes()[1..60], &numbers(&[&sent]));
    lab.send(&MESSAGE.as_bytes()[60..], &numbers(&[null(), null()]));
    let received = lab.receive().expect("received");
    assert_eq!(lab.more(), 2);
    drop(received);
}

#[test]
fn more_descriptors_than_there_is_room_for() {
    let lab = Lab::new();
    let sent = userfaultfd();
    let mut gift = numbers(&[&sent]);
    gift.extend([lab.far.as_raw_fd(); 16]);
    lab.send(MESSAGE.as_bytes(), &gift);
    let refused = lab.refused(PATIENCE);
    assert!(
        matches!(refused.error, HandshakeError::DescriptorsLost),
        "{refused}"
    );
    assert_eq!(
        refused.descriptors.len(),
        1,
        "the userfaultfd is carried on"
    );
    assert_eq!(lab.more(), 2);
    drop(refused);
    assert_eq!(lab.more(), 1);
}

#[test]
fn more_descriptors_than_this_program_may_have() {
    let lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("limit");
    setrlimit(Resource::RLIMIT_NOFILE, 3, hard).expect("limit");
    let result = lab.receive();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).expect("limit");
    let refused = result.expect_err("no room");
    assert!(
        matches!(refused.error, HandshakeError::DescriptorsLost),
        "{refused}"
    );
    assert!(refused.to_string().contains("ulimit -n"));
    assert_eq!(lab.more(), 1);
}

#[test]
fn two_userfaultfds_are_too_many_and_both_are_carried_on() {
    let lab = Lab::new();
    let sent = [userfaultfd(), userfaultfd()];
    lab.send(MESSAGE.as_bytes(), &numbers(&sent));
    let refused = lab.refused(PATIENCE);
    assert!(
        matches!(refused.error, HandshakeError::Several(2)),
        "{refused}"
    );
    assert_eq!((refused.descriptors.len(), lab.more()), (2, 4));
    drop(refused);
    // One by one.
    lab.send(b"[", &numbers(&sent[..1]));
    lab.send(b"{", &numbers(&sent[1..]));
    let refused = lab.refused(PATIENCE);
    assert!(
        matches!(refused.error, HandshakeError::Several(2)),
        "{refused}"
    );
    drop(refused);
    assert_eq!(lab.more(), 2);
}

/// What a peer has sent when its time is over, or when it closes: bytes, with a userfaultfd or without; and what is said.
const PARTS: [(&str, bool, &str); 5] = [
    ("", false, "0 bytes"),
    ("[{", false, "2 bytes"),
    ("[{", true, "no complete message, and a userfaultfd"),
    (MESSAGE, false, "a complete message, but no userfaultfd"),
    ("\n", true, "1 bytes"),
];

#[test]
fn time_is_for_all_of_it() {
    for (bytes, with, text) in PARTS {
        let lab = Lab::new();
        let sent = with.then(userfaultfd);
        if !bytes.is_empty() {
            lab.send(bytes.as_bytes(), &numbers(&sent.iter().collect::<Vec<_>>()));
        }
        drop(sent);
        let begun = Instant::now();
        let refused = lab.refused(Duration::from_millis(50));
        assert!(begun.elapsed() >= Duration::from_millis(50));
        assert!(
            matches!(refused.error, HandshakeError::TimedOut { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains(text), "{refused}");
        assert_eq!(refused.descriptors.len(), usize::from(with));
        assert_eq!(lab.more(), usize::from(with));
    }
}

#[test]
fn a_peer_that_goes_on_for_ever_is_not_waited_for() {
    let mut lab = Lab::new();
    let near = lab.near.take().expect("open");
    let sender = thread::spawn(move || {
        // Space is no message, and no mistake either.
        while nix::unistd::write(&near, b" ").is_ok() {
            thread::sleep(Duration::from_millis(5));
        }
    });
    let begun = Instant::now();
    let refused = lab.refused(Duration::from_millis(200));
    assert!(begun.elapsed() < PATIENCE / 2);
    assert!(
        matches!(refused.error, HandshakeError::TimedOut { bytes: 1.., .. }),
        "{refused}"
    );
    let Lab { far, .. } = lab;
    drop(far);
    sender.join().expect("ended by EPIPE");
}

#[test]
fn a_deadline_in_the_past_is_over() {
    let lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    let past = Instant::now()
        .checked_sub(Duration::from_millis(1))
        .expect("running");
    let refused = receive(&lab.far, past).expect_err("too late");
    assert!(matches!(
        refused.error,
        HandshakeError::TimedOut { bytes: 0, .. }
    ));
}

#[test]
fn closed_too_early() {
    for (bytes, with, text) in PARTS {
        let mut lab = Lab::new();
        let sent = with.then(userfaultfd);
        if !bytes.is_empty() {
            lab.send(bytes.as_bytes(), &numbers(&sent.iter().collect::<Vec<_>>()));
        }
        drop(sent);
        lab.close();
        let refused = lab.refused(PATIENCE);
        assert!(
            matches!(refused.error, HandshakeError::Closed { .. }),
            "{refused}"
        );
        assert!(refused.to_string().contains(text), "{refused}");
        assert_eq!(lab.more(), usize::from(with));
        drop(refused);
        assert_eq!(lab.more(), 0);
    }
}

#[test]
fn closed_at_once_as_versions_before_1_12_do() {
    let mut lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    drop(sent);
    lab.close();
    assert_eq!(lab.receive().expect("received").message, regions());
    assert_eq!(lab.more(), 0);
}

#[test]
fn a_reset_connection_is_a_closed_one() {
    let mut lab = Lab::new();
    // Left unread, this makes the close a reset.
    send(&lab.far, b"hello", &[]);
    lab.close();
    let refused = lab.refused(PATIENCE);
    assert!(
        matches!(refused.error, HandshakeError::Closed { .. }),
        "{refused}"
    );
}

#[test]
fn nonsense_is_refused_and_the_userfaultfd_carried_on() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "[]",
        &format!("{MESSAGE}x"),
        &MESSAGE.replace("134217728", "1"),
    ] {
        let lab = Lab::new();
        let sent = userfaultfd();
        lab.send(text.as_bytes(), &numbers(&[&sent]));
        drop(sent);
        let refused = lab.refused(PATIENCE);
        assert!(
            matches!(refused.error, HandshakeError::Message(_)),
            "{refused}"
        );
        assert_eq!((refused.descriptors.len(), lab.more()), (1, 1));
        drop(refused);
        assert_eq!(lab.more(), 0);
    }
}

#[test]
fn what_follows_a_message_that_lacks_its_descriptor_is_looked_at() {
    let lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &[]);
    lab.send(b"x", &numbers(&[&sent]));
    let refused = lab.refused(PATIENCE);
    assert!(
        matches!(refused.error, HandshakeError::Message(_)),
        "{refused}"
    );
}

#[test]
fn a_message_has_an_end() {
    let room = MAX_MESSAGE - MESSAGE.len();
    for (more, fits) in [(room, true), (room + 1, false)] {
        let mut lab = Lab::new();
        let near = lab.near.take().expect("open");
        let sender = thread::spawn(move || {
            let sent = userfaultfd();
            let text = format!("{}{MESSAGE}", " ".repeat(more));
            for (at, piece) in text.as_bytes().chunks(1000).enumerate() {
                let gift = if at == 0 { numbers(&[&sent]) } else { vec![] };
                let rights = [ControlMessage::ScmRights(&gift)];
                let rights = if gift.is_empty() { &[][..] } else { &rights };
                let bytes = [IoSlice::new(piece)];
                let flags = MsgFlags::MSG_NOSIGNAL;
                // The other end closes when it has had enough.
                let _ = sendmsg::<()>(near.as_raw_fd(), &bytes, rights, flags, None);
            }
        });
        match lab.receive() {
            Ok(received) => assert!(fits && received.message == regions()),
            Err(refused) => {
                assert!(
                    !fits && matches!(refused.error, HandshakeError::TooLong { .. }),
                    "{refused}"
                );
                assert_eq!(refused.descriptors.len(), 1);
            }
        }
        sender.join().expect("sent");
    }
}

/// A blocking one would stop the whole daemon in read(2).
#[test]
fn a_blocking_userfaultfd_is_made_non_blocking() {
    let lab = Lab::new();
    let sent = userfaultfd();
    let arguments = [
        support::uffd::number(&sent),
        support::plot::word(libc::F_SETFL),
        0,
    ];
    support::plot::call(libc::SYS_fcntl, &arguments).expect("fcntl");
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    let received = lab.receive().expect("received");
    assert!(flags(&received.userfaultfd).0.contains(OFlag::O_NONBLOCK));
}

/// Connects, says so, and waits to be ended.
fn peer(words: &[&str]) {
    let _socket = UnixStream::connect(words[0]).expect("connect");
    say("connected");
    while support::hear().is_some() {}
}

#[test]
fn who_connected() {
    let _lab = Lab::new();
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("socket");
    let listener = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let mut process = Target::start("peer", path.to_str().expect("text"));
    let (socket, _) = listener.accept().expect("accept");
    assert_eq!(process.hear(), "connected");
    let peer = Credentials::of(&socket).expect("credentials");
    assert_eq!(
        (peer.pid, peer.uid),
        (process.pid(), nix::unistd::getuid().as_raw())
    );
    assert_eq!(peer.allowed(&[]), Ok(()));
    let target = peer.target(&socket).expect("a target");
    assert_eq!(target.pid, process.pid());
    let name = fs::read_to_string(format!("/proc/{}/comm", peer.pid)).expect("comm");
    assert_eq!(target.name, name.trim_end());
    // The descriptor is of that process: it ends it.
    target.kill().expect("kill");
    process.end();
    let error = peer.target(&socket).expect_err("ended");
    assert_eq!(error, PeerError::Ended { pid: peer.pid });
    // The descriptor says so as well.
    let mut ended = [nix::poll::PollFd::new(
        target.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    assert_eq!(nix::poll::poll(&mut ended, 0_u8), Ok(1));
}
