//! Everything is in place: the VM goes on without the daemon, and is not registered any more.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::support::wait_until;

#[test]
fn nobody_needs_the_daemon_any_more() {
    let lab = Lab::new(256);
    for words in [&[][..], &["--prefill", "all"]] {
        let daemon = Daemon::listening(&lab, words);
        let mut peer = daemon.serve(&lab);
        if words.is_empty() {
            assert!(peer.is_registered());
            peer.check_all();
        }
        daemon.complete(&peer);
        assert!(!peer.is_registered());
        // While the daemon is there, and afterwards.
        peer.must("remove 3 30");
        peer.check_all();
        let ended = daemon.terminate();
        assert_eq!(ended.number("sessions"), 1);
        peer.must("remove 0 128");
        peer.check_all();
        peer.must("write 10 100");
        peer.must("remove 20 5");
        peer.must("pipe 0 256");
        peer.must("unplug 0 64");
        peer.must("plug-zero 0 64");
        peer.check_all();
        peer.finish();
    }
}

/// It ends at the moment when the balloon is at work: nobody waits for a reader that has gone.
#[test]
fn removals_at_the_very_end() {
    let lab = Lab::new(128);
    let daemon = Daemon::listening(&lab, &[]);
    let mut removes = 0;
    for _ in 0..40 {
        let mut peer = daemon.serve(&lab);
        peer.must("sweep");
        peer.check_all();
        removes += daemon.complete(&peer).removes();
        assert!(!peer.is_registered());
        peer.finish();
    }
    assert!(removes > 40, "{removes}");
    daemon.terminate();
}

/// A flood does not end because everything is in place; it only needs nobody any more.
#[test]
fn a_flood_at_the_very_end() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    for _ in 0..20 {
        let mut peer = daemon.serve(&lab);
        peer.must("flood 30");
        peer.must("check 0 30 1");
        peer.must("check 31 33 2");
        daemon.complete(&peer);
        wait_until("everything to be unregistered", || !peer.is_registered());
        let rounds: u64 = peer.ask("calm").parse().expect("a number");
        assert!(rounds > 0);
        peer.check_all();
        peer.finish();
    }
    daemon.terminate();
}

/// The same when it is asked to end.
#[test]
fn a_flood_while_it_ends() {
    let lab = Lab::new(512);
    for _ in 0..10 {
        let daemon = Daemon::listening(&lab, &["--finish-within", "20s"]);
        let mut peer = daemon.serve(&lab);
        peer.must("flood 100");
        daemon.terminate();
        assert!(!peer.is_registered());
        peer.ask("calm");
        peer.check_all();
        peer.finish();
    }
}
