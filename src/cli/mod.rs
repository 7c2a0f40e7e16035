//! What may be typed. No I/O.

pub mod criu;
pub mod lazy_pages;
pub mod restore;
pub mod snapshot;
pub mod working_set;
