//! `uffd-restore --listen`, and VMMs that hand their memory over as Firecracker does.
//!
//! | file           | what happens                                                             |
//! |----------------|--------------------------------------------------------------------------|
//! | `lab.rs`       | (a memory file, and a snapshot of it)                                     |
//! | `daemon.rs`    | (the daemon, started and watched)                                         |
//! | `versions.rs`  | what each version of Firecracker says; messages in pieces, descriptors    |
//! | `refused.rs`   | hand-overs that cannot be served                                          |
//! | `removes.rs`   | balloons, virtio-mem                                                      |
//! | `resumed.rs`   | all of the daemon is killed, and another one goes on                      |
//! | `sets.rs`, `set_troubles.rs` | what the last VM touched is there for the next one          |
//! | `shapes.rs`    | several mappings, holes, faults of the kernel's, snapshots and raw files  |
//! | `huge.rs`      | huge pages                                                                |
//! | `clones.rs`    | many VMs at once                                                          |
//! | `hostile.rs`   | peers that disturb others                                                 |
//! | `sockets.rs`   | who may connect, and where                                                |
//! | `inherited.rs` | sockets that somebody else opened                                         |
//! | `ending.rs`    | the daemon is asked to end, is killed                                     |
//! | `killed.rs`    | the process that serves is killed, again and again                        |
//! | `crowded.rs`   | more VMs than there are descriptors for                                   |
//! | `complete.rs`  | everything is in place, and the VMM goes on without the daemon            |
//! | `confined.rs`  | what the daemon can do no more                                            |
//! | `bad_pages.rs` | pages that cannot be served                                               |
//! | `review.rs`    | what a review found: red until it is repaired                            |
//! | `itself.rs`    | (the peer notices what is wrong)                                          |
//!
//! The VMM is `tests/support/peer`: it checks each byte that it sees.

#[path = "../support/peer/mod.rs"]
mod peer;
#[path = "../support/mod.rs"]
mod support;

mod bad_pages;
mod clones;
mod complete;
mod confined;
mod crowded;
mod daemon;
mod ending;
mod hostile;
mod huge;
mod inherited;
mod itself;
mod killed;
mod lab;
mod refused;
mod removes;
mod resumed;
mod review;
mod set_troubles;
mod sets;
mod shapes;
mod sockets;
mod versions;

#[test]
fn role() {
    support::play_role(&[("peer", peer::play)]);
}
