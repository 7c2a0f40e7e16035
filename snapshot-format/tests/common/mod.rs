//! What the tests of the format share: inputs and a model of them, reading everything, and forging files.

pub(crate) mod forge;
pub(crate) mod plan;
pub(crate) mod reading;
pub(crate) mod rng;
pub(crate) mod set;
pub(crate) mod small;

use snapshot_format::{Codec, Compression, Snapshot, WriterOptions};
use std::sync::Arc;

/// Options of one codec and frame size, whatever the defaults are.
pub(crate) fn options(codec: Codec, frame_pages: u16) -> WriterOptions {
    WriterOptions {
        compression: Compression {
            codec,
            level: 1,
            frame_pages,
        },
        ..WriterOptions::default()
    }
}

/// Every codec.
pub(crate) const CODECS: [Codec; 3] = [Codec::Stored, Codec::Lz4, Codec::Zstd];

/// Open bytes that must be good.
pub(crate) fn open(bytes: Vec<u8>) -> Arc<Snapshot<Vec<u8>>> {
    Arc::new(Snapshot::open(bytes).expect("the file is good"))
}
