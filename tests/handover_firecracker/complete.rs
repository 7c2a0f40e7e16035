//! Everything came.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::fcntl::OFlag;
use uffd_restore::handover::receive::features;
use uffd_restore::uffd::Features;

use crate::lab::{Lab, MESSAGE, null, numbers, regions, send, userfaultfd};
use crate::support;
use crate::support::uffd::{flags, next};

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
    let received = lab.receive().expect("received").userfaultfd;
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
fn closed_at_once_as_versions_before_1_12_do() {
    let mut lab = Lab::new();
    let sent = userfaultfd();
    lab.send(MESSAGE.as_bytes(), &numbers(&[&sent]));
    drop(sent);
    lab.close();
    assert_eq!(lab.receive().expect("received").message, regions());
    assert_eq!(lab.more(), 0);
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
