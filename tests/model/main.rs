//! The rules of `space` and `session` against a simulated kernel, under schedules at random.
//!
//! | file          | holds                                                                              |
//! |---------------|------------------------------------------------------------------------------------|
//! | `memory.rs`   | page tables, small enough to be looked at                                            |
//! | `world.rs`    | the state of the simulated kernel, with what each page must be found to hold       |
//! | `threads.rs`  | the target's threads, step by step                                                 |
//! | `calls.rs`    | what they do; `moves.rs` has mremap(2)                                             |
//! | `limits.rs`   | what nobody can know                                                                |
//! | `kernel.rs`   | the userfaultfd: the rules' `Installer`                                             |
//! | `image.rs`    | the snapshot                                                                       |
//! | `daemon.rs`   | whoever calls the rules                                                             |
//! | `oracle.rs`   | what must be true in the end                                                        |
//! | `run.rs`      | one schedule, and many                                                               |
//! | `directed.rs` | what schedules at random meet too seldom                                            |
//! | `coverage.rs` | that the hard cases were there                                                      |
//!
//! `MODEL_SEED=N cargo test --test model one_schedule -- --nocapture` shows what happens in a schedule, `MODEL_SCHEDULES=N`
//! runs another number of them.

mod calls;
mod coverage;
mod daemon;
mod directed;
mod image;
mod kernel;
mod limits;
mod memory;
mod moves;
mod oracle;
mod rng;
mod run;
mod threads;
mod world;
