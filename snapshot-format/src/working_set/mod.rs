//! The working set of a snapshot: the pages that restores of it touched, when, and their content, in a file beside it.
//!
//! `SPEC.md`, "The working set file", is the only description of the bytes. A [`History`] says what is known of the pages,
//! [`write()`] makes a file of it and of the snapshot's content, a [`WorkingSet`] is such a file, and [`Frames`] reads what
//! is in it. As everywhere in this crate a file is hostile: any bytes give a value or an [`Error`](crate::Error).
//!
//! ```
//! use std::{io::Cursor as Bytes, sync::Arc};
//! use snapshot_format::{Cursor, Metadata, PageNo, Region, Snapshot, SnapshotId, Writer, WriterOptions};
//! use snapshot_format::working_set::{self, Frames, History, Options, WorkingSet};
//!
//! let mut writer = Writer::new(Bytes::new(Vec::new()), WriterOptions::default())?;
//! writer.begin_region(Region::raw(0, 8192))?;
//! writer.space()?[..8192].fill(7);
//! writer.commit(2)?;
//! let (file, _) = writer.finish(SnapshotId([1; 16]), &Metadata::default())?;
//! let mut cursor = Cursor::new(Arc::new(Snapshot::open(file.into_inner())?));
//!
//! // Page 1 was touched first, 20 µs after serving began.
//! let history = History::of_recording([(PageNo(1), 20)]);
//! let (file, _) = working_set::write(&history, &mut cursor, Bytes::new(Vec::new()), &Options::default())?;
//!
//! let set = Arc::new(WorkingSet::open(file.into_inner())?);
//! assert_eq!(set.snapshot(), SnapshotId([1; 16]));
//! let (mut runs, mut content) = (Vec::new(), Vec::new());
//! set.runs(0, &mut runs)?;
//! assert_eq!(runs[0].pages, 1..2);
//! Frames::new(set).read(0, &mut content)?;
//! assert_eq!(content, [7; 4096]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod frames;
mod header;
mod history;
mod opening;
mod reader;
mod tables;
mod writer;

pub use frames::Frames;
pub use header::MAGIC;
pub(crate) use header::VERSION;
pub use history::{History, MAX_RECORDINGS, Touched};
pub use reader::WorkingSet;
pub use tables::Run;
pub use writer::{Options, Summary, write};

/// Most pages of a set, faded ones included: 64 GiB of memory. Bounds what a history takes in memory.
pub const MAX_SET_PAGES: u64 = 1 << 24;
