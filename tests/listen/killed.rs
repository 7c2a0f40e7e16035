//! The process that serves is killed again and again, and no VM notices.

use std::time::{Duration, Instant};

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::peer::Peer;
use crate::support::killing::{how_long, killing};
use crate::support::wait_until;

const VMS: u64 = 4;

#[test]
fn several_vms_do_not_notice() {
    let lab = Lab::new(2048);
    let until = Instant::now() + how_long(Duration::ZERO);
    for seed in 7.. {
        several_vms(&lab, &[], seed);
        several_vms(&lab, &["--prefill", "all"], seed);
        if Instant::now() >= until {
            break;
        }
    }
}

fn several_vms(lab: &Lab, words: &[&str], seed: u64) {
    let daemon = Daemon::listening(lab, words);
    let mut peers: Vec<Peer> = (0..VMS).map(|_| daemon.serve(lab)).collect();
    let pids: Vec<i32> = peers.iter().map(Peer::pid).collect();
    let ((), killed) = killing(daemon.pid(), &pids, seed, || {
        for (number, peer) in (0..).zip(&mut peers) {
            peer.target.tell(&format!("race {} 3", seed * VMS + number));
        }
        for peer in &mut peers {
            assert_eq!(peer.target.hear(), "right");
            peer.check_all();
        }
    });
    eprintln!("{killed:?}");
    assert!(killed.kills > 5, "{killed:?}");
    // All has been touched. What was put in place just before a kill is known to be there, and nothing is owed any more.
    for peer in &mut peers {
        wait_until("it is let go of", || !peer.is_registered());
        peer.check_all();
    }
    daemon.terminate();
}
