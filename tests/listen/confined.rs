//! A daemon that listens has no more rights than that takes, in any of its threads.

use crate::daemon::Daemon;
use crate::lab::Lab;
use crate::support::confined::{CAP_KILL, CAP_SYS_PTRACE, assert_confined};

#[test]
fn with_nobody_there_and_with_somebody() {
    let lab = Lab::new(64);
    let daemon = Daemon::listening(&lab, &[]);
    let pid = crate::support::service::worker_of(daemon.pid()).expect("it listens");
    // It says that it listens a moment before it is ready to.
    crate::support::wait_until("its filters", || {
        let threads = crate::support::confined::threads(pid);
        threads.iter().all(|thread| thread.seccomp == 2)
    });
    assert_confined(pid, CAP_KILL | CAP_SYS_PTRACE);
    let mut peer = daemon.serve(&lab);
    assert_confined(pid, CAP_KILL | CAP_SYS_PTRACE);
    peer.check_all();
    daemon.complete(&peer);
}
