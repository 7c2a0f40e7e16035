//! Everything that can go wrong around `uffd-restore`, and what then holds: the exit status, a text that names the object and
//! the next step, and above all that no page that was owed ever reads as zero.

mod actor;
mod bad_pages;
mod check;
mod clocks;
mod crowded;
mod daemon;
mod deadly;
mod disks;
mod ending;
mod killed_daemon;
mod killing;
mod lab;
mod library;
mod memory;
mod occupied;
mod outputs;
mod permissions;
mod placement;
mod roles;
mod snapshots;
mod stopped;
mod targets;
mod usage;

#[path = "../support/mod.rs"]
mod support;

#[test]
fn role() {
    support::play_role(&[
        ("memory", roles::memory),
        ("attacher", library::attacher),
        ("deadly", deadly::keeper),
    ]);
}
