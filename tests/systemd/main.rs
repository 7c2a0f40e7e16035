//! The units that are shipped, installed as users install them, under a real systemd.
//!
//! | file         | holds                                                                      |
//! |--------------|----------------------------------------------------------------------------|
//! | `machine.rs` | (a systemd of its own: pids, mounts, cgroups; `boot.sh`)                     |
//! | `holder.rs`  | (a process that is restored)                                               |
//! | `process.rs` | `uffd-restore@.service`                                                    |
//! | `listen.rs`  | `uffd-restore-listen@.socket`, `uffd-restore-listen@.service`              |
//! | `store.rs`   | its descriptor store                                                       |
//! | `restarted.rs` | the whole service killed, and restarted with another build                |
//! | `forked.rs`  | the same in the moment between reading of a fork and acting on it          |
//! | `watchdog.rs` | a daemon that does not go on                                              |
//! | `exposure.rs` | what systemd says of the units                                            |
//! | `installed.rs` | `scripts/install`                                                        |
//!
//! Needs the distribution's systemd; without it the tests fail.

#[path = "../support/peer/mod.rs"]
mod peer;
#[path = "../support/mod.rs"]
mod support;

mod exposure;
mod forked;
mod holder;
mod installed;
mod listen;
mod machine;
mod process;
mod restarted;
mod store;
mod watchdog;

#[test]
fn role() {
    support::play_role(&[
        ("holder", holder::hold),
        ("peer", peer::play),
        ("store", store::store),
    ]);
}
