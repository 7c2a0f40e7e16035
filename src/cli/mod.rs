//! What may be typed. No I/O.

pub mod snapshot;
pub mod restore;
