//! The uffd-restore snapshot file: compressed, checksummed, opened in constant time.
//!
//! `SPEC.md` beside this crate is the only description of the bytes. This crate writes them ([`Writer`]), reads them
//! ([`Snapshot`], [`Cursor`]) and checks them ([`verify`]), and does the same for the [`working_set`] beside a snapshot. It knows nothing of processes, userfaultfd or the command
//! line, does no `unsafe`, and treats every file as hostile: any bytes give a value or an [`Error`] that names the place.
//!
//! ```
//! use std::{io::Cursor as Bytes, sync::Arc};
//! use snapshot_format::{Cursor, PageNo, Region, Snapshot, SnapshotId, Metadata, Writer, WriterOptions};
//!
//! let mut writer = Writer::new(Bytes::new(Vec::new()), WriterOptions::default())?;
//! writer.begin_region(Region::raw(0, 8192))?;
//! writer.space()?[..4096].fill(7);
//! writer.commit(1)?;
//! writer.zeros(1)?;
//! let (file, _) = writer.finish(SnapshotId([1; 16]), &Metadata::default())?;
//!
//! let snapshot = Arc::new(Snapshot::open(file.into_inner())?);
//! let mut page = [0; 4096];
//! Cursor::new(snapshot).read_page(PageNo(0), &mut page)?;
//! assert_eq!(page, [7; 4096]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod bulk;
mod codec;
mod cursor;
mod entry;
mod error;
mod fields;
mod header;
mod index;
mod met;
mod metadata;
mod ordered;
pub mod page;
mod processes;
mod region;
mod region_map;
mod section;
mod snapshot;
mod spans;
mod storage;
pub mod verify;
pub mod working_set;
mod writer;

pub use codec::{Codec, Compression};
pub use cursor::Cursor;
pub use entry::{Content, FrameRef};
pub use error::{Error, Place, WriteError};
pub use header::{MAGIC, SnapshotId, VERSION};
pub use metadata::{Compressed, Metadata, Source};
pub use page::{PAGE_BYTES, PAGE_SIZE, PageNo};
pub use processes::{MAX_PROCESSES, ProcessRegions, Processes};
pub use region::{PageSize, Protection, Region, RegionKind};
pub use region_map::{MAX_NAME, PlacedRegion, RegionMap};
pub use section::{ParentLayer, SectionKind};
pub use snapshot::Snapshot;
pub use storage::ReadAt;
pub use writer::{Summary, Writer, WriterOptions};

/// Parsers reached directly, for fuzzing; not part of the interface.
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::entry::Limits;
    pub use crate::entry::{decode_inner, decode_leaf};
    pub use crate::header::Header;
}
