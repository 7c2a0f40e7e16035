//! What a daemon that serves cannot do any more: the same functions that it calls are called here, and then it is tried.
//!
//! | file          | what is tried                                            |
//! |---------------|----------------------------------------------------------|
//! | `deeds.rs`    | (what is done, by whom)                                  |
//! | `forbidden.rs` | system calls that end the process                       |
//! | `powerless.rs` | what takes capabilities                                 |
//!
//! That the threads of a real daemon are so is in `tests/restore/confined.rs` and `tests/listen/confined.rs`; that it can do all that
//! it has to is in all other tests of it, which run as users run it.

#[path = "../support/mod.rs"]
mod support;

mod deeds;
mod forbidden;
mod powerless;

#[test]
fn role() {
    support::play_role(&[("confined", deeds::confined)]);
}
