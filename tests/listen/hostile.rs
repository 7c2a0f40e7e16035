//! Peers that disturb others, or try to. Those are served in time.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::wait_until;

/// Far more than all of it takes.
const IN_TIME: Duration = Duration::from_secs(8);

#[track_caller]
fn served_in_time(lab: &Lab, daemon: &Daemon) {
    let began = Instant::now();
    let mut peer = daemon.serve(lab);
    peer.check_all();
    daemon.complete(&peer);
    let time = began.elapsed();
    assert!(time < IN_TIME, "{time:?}");
}

/// Waits for the other side to close.
#[track_caller]
fn is_closed(mut socket: UnixStream) {
    let mut said = Vec::new();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("a socket");
    match socket.read_to_end(&mut said) {
        Ok(_) => assert_eq!(said, b"", "it never says anything"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

#[test]
fn silence() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &["--handshake-timeout", "2s"]);
    let silent: Vec<UnixStream> = (0..50)
        .map(|_| UnixStream::connect(lab.socket()).expect("connect"))
        .collect();
    let began = Instant::now();
    served_in_time(&lab, &daemon);
    // Half a message, a byte at a time, does not prolong it.
    let mut slow = UnixStream::connect(lab.socket()).expect("connect");
    let text = br#"[{"base_host_virt_addr":1407375,"size":4096,"#.repeat(100);
    let mut sent = 0;
    while slow.write_all(&text[sent..=sent]).is_ok() {
        sent = (sent + 1) % text.len();
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "it still listens"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    for socket in silent {
        is_closed(socket);
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
    let refused = daemon.event("refused");
    assert_eq!(refused["pid"], std::process::id());
    served_in_time(&lab, &daemon);
    daemon.terminate();
}

#[test]
fn garbage() {
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &["--handshake-timeout", "5s"]);
    let noise: Vec<u8> = (0..1_u32 << 22)
        .map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let spaces = vec![b' '; 1 << 22];
    let nested = vec![b'['; 1 << 22];
    let all: [&[u8]; 7] = [
        b"",
        b"\0",
        b"hello\n",
        b"[{\"base_host_virt_addr\":1,\"size\":4096,\"offset\":0}]",
        &noise,
        &spaces,
        &nested,
    ];
    for garbage in all {
        let mut socket = UnixStream::connect(lab.socket()).expect("connect");
        // It need not take all of it.
        drop(socket.write_all(garbage));
        drop(socket.shutdown(std::net::Shutdown::Write));
        is_closed(socket);
        served_in_time(&lab, &daemon);
    }
    daemon.terminate();
}

/// Memory of the daemon does not grow with what a peer sends and sends.
#[test]
fn a_message_without_end() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--handshake-timeout", "30s"]);
    let mut socket = UnixStream::connect(lab.socket()).expect("connect");
    let piece = vec![b' '; 1 << 20];
    let began = Instant::now();
    let sent = (0..256)
        .take_while(|_| socket.write_all(&piece).is_ok())
        .count();
    assert!(sent < 64, "it took {sent} MiB");
    assert!(began.elapsed() < Duration::from_secs(20));
    is_closed(socket);
    served_in_time(&lab, &daemon);
}

#[test]
fn a_flood_of_removals() {
    let lab = Lab::new(512);
    let daemon = Daemon::listening(&lab, &[]);
    let mut flooding: Vec<Peer> = (0..2).map(|_| daemon.serve(&lab)).collect();
    for peer in &mut flooding {
        peer.must("flood 100");
    }
    for _ in 0..5 {
        served_in_time(&lab, &daemon);
    }
    for peer in &mut flooding {
        let rounds: u64 = peer.ask("calm").parse().expect("a number");
        assert!(rounds > 100, "no flood: {rounds}");
        peer.check_all();
        let done = daemon.complete(peer);
        assert!(done.removes() > 100, "{done:?}");
    }
    daemon.terminate();
}

/// One that is stopped and takes nothing.
#[test]
fn a_vm_that_stands_still() {
    use nix::sys::signal::{Signal, kill};
    let lab = Lab::new(256);
    let daemon = Daemon::listening(&lab, &["--prefill", "all"]);
    let mut peer = Peer::start(&lab.whole(), "");
    peer.hand_over(&lab.socket(), "");
    let pid = nix::unistd::Pid::from_raw(peer.pid());
    kill(pid, Signal::SIGSTOP).expect("it runs");
    served_in_time(&lab, &daemon);
    kill(pid, Signal::SIGCONT).expect("it stands still");
    peer.check_all();
    daemon.complete(&peer);
}

/// There is no room for a third; there is when one of them has ended. It does not read zeros meanwhile.
#[test]
fn more_than_there_may_be() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &["--max-sessions", "2"]);
    let mut one = daemon.serve(&lab);
    let two = daemon.serve(&lab);
    let mut others: Vec<Peer> = (0..3)
        .map(|_| {
            let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
            // All of it: whoever is served first ends by itself.
            peer.target.tell("check 0 64 1");
            peer
        })
        .collect();
    for peer in &others {
        wait_until("all others to wait", || peer.waits());
    }
    one.must("check 0 40 2");
    assert_eq!((daemon.count("serving"), daemon.count("done")), (2, 0));
    one.check_all();
    drop(two);
    for peer in &mut others {
        assert_eq!(peer.target.hear(), "right");
        peer.check_all();
        daemon.complete(peer);
    }
    assert_eq!(daemon.terminate().number("sessions"), 5);
}

/// Who has handed nothing over takes nobody's place.
#[test]
fn silence_when_there_is_room_for_one() {
    let lab = Lab::new(64);
    let words = ["--max-sessions", "1", "--handshake-timeout", "10s"];
    let daemon = Daemon::listening(&lab, &words);
    let silent: Vec<UnixStream> = (0..2)
        .map(|_| UnixStream::connect(lab.socket()).expect("connect"))
        .collect();
    served_in_time(&lab, &daemon);
    end_in_order(daemon, silent);
}

/// This process has connected: a daemon that is killed takes it along.
fn end_in_order(daemon: Daemon, connections: Vec<UnixStream>) {
    drop(connections);
    daemon.terminate();
}

/// More of them than there is room for: the slowest have to go.
#[test]
fn silence_of_more_than_there_is_room_for() {
    let lab = Lab::new(64);
    let words = ["--max-sessions", "1", "--handshake-timeout", "60s"];
    let daemon = Daemon::listening(&lab, &words);
    let silent: Vec<UnixStream> = (0..70)
        .map(|_| UnixStream::connect(lab.socket()).expect("connect"))
        .collect();
    wait_until("some to be sent away", || daemon.count("refused") >= 5);
    served_in_time(&lab, &daemon);
    end_in_order(daemon, silent);
}
