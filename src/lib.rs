//! Lazy restore of virtual machines and processes from compressed snapshots, through Linux userfaultfd.
//!
//! Dependencies point one way: the command line (`cli`) uses [`capture`], `capture` uses [`tracee`], and both know the
//! file only through the crate `snapshot_format`.

pub mod capture;
pub mod tracee;
