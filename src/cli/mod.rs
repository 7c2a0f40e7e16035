//! What may be typed. No I/O.

pub mod restore;
pub mod snapshot;
pub mod working_set;
