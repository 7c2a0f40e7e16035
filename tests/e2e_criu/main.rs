//! Real CRIU, stock and untouched, dumps real processes and restores them lazily; `uffd-restore lazy-pages` serves them, from
//! the image folder and from a snapshot that its pages were moved to. What is right afterwards, the processes say themselves.
//!
//! Events that come when nothing is owed any more test nothing, and with a background fill that begins at once there is little
//! else. So everything is done with a fill that begins late and without one as well, and there the tests look at how many
//! events the daemon saw.
#![cfg(target_arch = "x86_64")]

mod board;
mod case;
mod daemon;
mod memory;
mod stage;
#[path = "../support/mod.rs"]
mod support;

mod again;
mod corrupt;
mod discard;
mod drop_in;
mod ending;
mod failing;
mod family;
mod killed;
mod moves;
mod redis;
mod taken_over;
mod threads;
mod touched;

#[test]
fn role() {
    support::play_role(&[("init", stage::init)]);
    board::play_target(&[
        ("again", again::target),
        ("corrupt", corrupt::target),
        ("discard", discard::target),
        ("family", family::target),
        ("moves", moves::target),
        ("orphan", killed::target),
        ("threads", threads::target),
        ("touched", touched::target),
    ]);
}
