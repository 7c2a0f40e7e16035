//! Getting hold of a target.

pub mod placement;
