//! What is allocated: bounded for the writer, nothing per read, never more for a hostile file than it justifies.
#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on fails where it stands"
)]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "the tests of the format use the rest")]
mod common;
mod counting;

mod hostile;
mod reader;
mod sets;
mod writer;
