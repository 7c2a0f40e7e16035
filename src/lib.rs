//! Lazy restore of virtual machines and processes from compressed snapshots, through Linux userfaultfd.
//!
//! Dependencies point one way: `cli` says what was typed, [`daemon`] and [`tool`] do it. The daemon gets hold of a target
//! ([`handover`]) and serves it ([`serve`]) by the rules of [`session`] over the model of [`space`]; the tool uses [`capture`].
//! Both use [`tracee`], and know the file only through the crate `snapshot_format`. ARCHITECTURE.md has the whole picture.

pub mod addr;
pub mod capture;
pub mod cli;
pub mod criu;
pub mod daemon;
pub mod failure;
pub mod handover;
mod origin;
pub mod output;
mod pidfd;
mod priority;
mod processes;
pub mod progress;
mod readable;
pub mod serve;
pub mod service;
pub mod session;
pub mod shared_memory;
pub mod source;
pub mod space;
pub mod takeover;
pub mod terminal;
pub mod tool;
pub mod tracee;
pub mod uffd;
