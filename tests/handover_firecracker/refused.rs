//! Not everything came, or too much, or nonsense.

use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use uffd_restore::handover::firecracker::receive;
use uffd_restore::handover::receive::{HandshakeError, MAX_MESSAGE};

use crate::lab::{Lab, MESSAGE, numbers, regions, send, userfaultfd};
use crate::support::PATIENCE;

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
