//! More VMs than the daemon has descriptors for.

use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::daemon::{Daemon, command};
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::service::worker_of;
use crate::support::wait_until;

/// What the daemon lets in with so few descriptors.
const DESCRIPTORS: u32 = 128;
const SERVED: usize = 4;

fn with_few_descriptors(lab: &Lab) -> Daemon {
    let mut inner = command(&lab.snapshot(), &["--json", "--listen"]);
    inner.arg(lab.socket());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh"])
        .arg(inner.get_program())
        .args(inner.get_args());
    let daemon = Daemon::spawn(shell, lab);
    daemon.event("listening");
    daemon
}

/// They wait in the socket's queue until somebody has all of his memory, also when who serves is killed meanwhile.
#[test]
fn vms_that_there_are_no_descriptors_for_wait_for_their_turn() {
    let lab = Lab::new(64);
    let daemon = with_few_descriptors(&lab);
    let mut served: Vec<Peer> = (0..SERVED).map(|_| daemon.serve(&lab)).collect();
    for peer in &mut served {
        peer.must("check 0 8 1");
    }
    let others = (0..6).map(|_| {
        let mut peer = Peer::served(&lab.whole(), "", &lab.socket());
        peer.target.tell("check 0 64 1");
        peer
    });
    let mut others: Vec<Peer> = others.collect();
    for killed in [false, true] {
        if killed {
            let worker = worker_of(daemon.pid()).expect("it serves");
            kill(Pid::from_raw(worker), Signal::SIGKILL).expect("it lives");
        }
        for peer in &others {
            wait_until("all others to wait", || peer.waits());
        }
        for peer in &mut served {
            peer.must(if killed {
                "check 16 8 1"
            } else {
                "check 8 8 1"
            });
        }
        assert_eq!(daemon.count("serving"), SERVED);
    }
    for peer in served.iter_mut().chain(&mut others) {
        if peer.waits() {
            assert_eq!(peer.target.hear(), "right");
        }
        peer.check_all();
    }
    daemon.terminate();
}
