//! The program `uffd-restore` and real targets: processes that do everything to their memory that a process can do,
//! while it arrives.
//!
//! | file         | what the targets do                                                        |
//! |--------------|----------------------------------------------------------------------------|
//! | `memory.rs`  | (pages that say whose they are, and calls about them)                      |
//! | `scene.rs`   | (the usual course of a test: capture, spoil, roll back)                    |
//! | `family.rs`  | (children of targets)                                                      |
//! | `threads.rs` | many threads at the same pages                                             |
//! | `kernel.rs`  | faults of the kernel's, in system calls                                    |
//! | `signals.rs` | signals, stops                                                             |
//! | `protect.rs` | mprotect                                                                   |
//! | `moves.rs`   | mremap                                                                     |
//! | `races.rs`   | mremap against mremap                                                      |
//! | `forks.rs`   | fork                                                                       |
//! | `advice.rs`  | madvise                                                                    |
//! | `growth.rs`  | brk, stacks that grow                                                      |
//! | `ending.rs`  | exec, exit, SIGKILL in the middle                                          |
//! | `shared.rs`  | memory of files                                                            |
//! | `huge.rs`    | huge pages                                                                 |
//! | `rights.rs`  | targets that may not do much, and targets in namespaces                    |
//! | `ahead.rs`   | prefill while memory changes; large sparse mappings                        |
//! | `sets.rs`    | touch what was touched last time                                           |
//! | `set_troubles.rs` | the same, when something goes wrong                                   |
//! | `killed.rs`  | the process that serves is killed, again and again                         |
//! | `last_install.rs` | the same, in the middle of installing the last page                   |
//! | `resumed.rs` | all of the daemon is killed, and another one goes on                       |
//! | `abandoned.rs` | what a review of that broke                                               |
//! | `hostile.rs` | targets that do harm with what is left in them                            |
//! | `going_on.rs` | (killing all of a daemon, and going on)                                  |
//! | `torture.rs` | everything at once, at random                                              |
//!
//! Every target checks each page that it sees against what must be there, and says `right` or dies. Every test also asks
//! the daemon what has happened, so that none passes because nothing did.

#[path = "../support/mod.rs"]
mod support;

mod abandoned;
mod advice;
mod ahead;
mod confined;
mod ending;
mod family;
mod forks;
mod frozen;
mod going_on;
mod growth;
mod hostile;
mod huge;
mod kernel;
mod killed;
mod last_install;
mod memory;
mod moves;
mod protect;
mod races;
mod resumed;
mod rights;
mod scene;
mod set_troubles;
mod sets;
mod shared;
mod signals;
mod threads;
mod torture;

use support::Role;

#[test]
fn role() {
    let roles: Vec<(&str, Role)> = [
        abandoned::ROLES,
        advice::ROLES,
        ahead::ROLES,
        ending::ROLES,
        forks::ROLES,
        growth::ROLES,
        huge::ROLES,
        kernel::ROLES,
        last_install::ROLES,
        moves::ROLES,
        protect::ROLES,
        races::ROLES,
        resumed::ROLES,
        rights::ROLES,
        set_troubles::ROLES,
        sets::ROLES,
        shared::ROLES,
        signals::ROLES,
        threads::ROLES,
        torture::ROLES,
    ]
    .concat();
    support::play_role(&roles);
}
