//! Tests of the format as its users see it: what is written is read back, and nothing else is ever read.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

#[path = "../common/mod.rs"]
mod common;

mod flips;
mod foreign;
mod forged_header;
mod forged_index;
mod forged_random;
mod forged_regions;
mod golden;
mod identical;
mod messages;
mod processes;
mod properties;
mod repeated;
mod round_trips;
mod set_damage;
mod set_golden;
mod set_round_trips;
mod shared_nodes;
mod sparse;
mod stream;
mod threads;
mod truncation;
mod writer_errors;
mod writer_output;
