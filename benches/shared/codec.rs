//! The codecs alone: the plain crates, called as their documentation says for many small pieces. The limit that everything is
//! compared with.

#![allow(dead_code, reason = "each benchmark uses a part of it")]

use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};
use snapshot_format::{Codec, Compression};
use zstd::bulk::{Compressor, Decompressor};

/// A codec that the snapshots are made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// zstd, level 3.
    Zstd,
    /// LZ4.
    Lz4,
}

/// Both.
pub(crate) const KINDS: [Kind; 2] = [Kind::Zstd, Kind::Lz4];

impl Kind {
    /// For the tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd 3",
            Self::Lz4 => "LZ4",
        }
    }

    /// What a writer needs to know.
    pub(crate) fn compression(self, frame_pages: u16) -> Compression {
        Compression {
            codec: match self {
                Self::Zstd => Codec::Zstd,
                Self::Lz4 => Codec::Lz4,
            },
            level: 3,
            frame_pages,
        }
    }
}

/// A thread's own compressor.
pub(crate) enum Encoder {
    /// The C library's context.
    Zstd(Compressor<'static>),
    /// A hash table, which is cleared and not allocated for every frame.
    Lz4(Box<CompressTable>),
}

impl Encoder {
    /// For frames of up to `len` bytes.
    pub(crate) fn new(kind: Kind, len: usize) -> Self {
        match kind {
            Kind::Zstd => Self::Zstd(Compressor::new(3).expect("a compressor")),
            Kind::Lz4 if len < 65535 => Self::Lz4(Box::new(CompressTable::small())),
            Kind::Lz4 => Self::Lz4(Box::new(CompressTable::large())),
        }
    }

    /// Compress to the start of `out`, which has room for the worst case.
    pub(crate) fn encode(&mut self, content: &[u8], out: &mut [u8]) -> usize {
        match self {
            Self::Zstd(zstd) => zstd.compress_to_buffer(content, out).expect("zstd"),
            Self::Lz4(table) => compress_into_with_table(content, out, table).expect("LZ4"),
        }
    }
}

/// A thread's own decompressor, for every codec of a file.
pub(crate) struct Decoder(Decompressor<'static>);

impl Decoder {
    /// A new one.
    pub(crate) fn new() -> Self {
        Self(Decompressor::new().expect("a decompressor"))
    }

    /// Fill `out`, exactly.
    pub(crate) fn decode(&mut self, codec: Codec, payload: &[u8], out: &mut [u8]) {
        let len = match codec {
            Codec::Stored => {
                out.copy_from_slice(payload);
                payload.len()
            }
            Codec::Lz4 => decompress_into(payload, out).expect("LZ4"),
            Codec::Zstd => self.0.decompress_to_buffer(payload, out).expect("zstd"),
        };
        assert_eq!(len, out.len());
    }
}
