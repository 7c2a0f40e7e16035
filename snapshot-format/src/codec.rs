//! Codecs and the content checksum: bytes of one frame in, bytes of one frame out.

use crate::error::WriteError;
use crate::page::PAGE_SIZE;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into};
use std::fmt;

/// How the payload of a frame is coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// The content itself.
    Stored,
    /// One LZ4 block.
    Lz4,
    /// One zstd frame.
    Zstd,
}

impl Codec {
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        match number {
            0 => Some(Self::Stored),
            1 => Some(Self::Lz4),
            2 => Some(Self::Zstd),
            _ => None,
        }
    }

    pub(crate) fn number(self) -> u64 {
        match self {
            Self::Stored => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stored => "stored",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        })
    }
}

/// How a writer compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compression {
    /// The codec of every frame that it makes smaller; the others are stored.
    pub codec: Codec,
    /// The codec's own level; zstd only, LZ4 has one.
    pub level: i32,
    /// Pages in a frame, 1 to 512.
    pub frame_pages: u16,
}

impl Default for Compression {
    /// Decided by the measurements in `benches/CODECS.md`.
    fn default() -> Self {
        Self {
            codec: Codec::Zstd,
            level: 3,
            frame_pages: 4,
        }
    }
}

/// XXH3-64 with seed 0, the checksum of everything in the file.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// Compresses frames; one per thread, nothing is allocated per frame.
///
/// The same content gives the same bytes whatever was encoded before: that is why LZ4 has a table per size class
/// instead of one that grows.
pub(crate) struct Encoder {
    codec: Codec,
    zstd: Option<zstd::bulk::Compressor<'static>>,
    lz4_small: CompressTable,
    lz4_large: CompressTable,
}

/// The first bytes of a zstd frame (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// From this content length on LZ4 needs the table with 32-bit entries.
const LZ4_LARGE: usize = 65535;

impl Encoder {
    pub(crate) fn new(compression: Compression) -> Result<Self, WriteError> {
        let zstd = match compression.codec {
            Codec::Zstd => Some(
                zstd::bulk::Compressor::new(compression.level)
                    .map_err(|error| WriteError::Compress(error.to_string()))?,
            ),
            Codec::Lz4 | Codec::Stored => None,
        };
        Ok(Self {
            codec: compression.codec,
            zstd,
            lz4_small: CompressTable::small(),
            lz4_large: CompressTable::large(),
        })
    }

    /// Room in `out` that is enough for any frame of `content_len` bytes.
    pub(crate) fn bound(content_len: usize) -> usize {
        zstd::zstd_safe::compress_bound(content_len)
            .max(lz4_flex::block::get_maximum_output_size(content_len))
    }

    /// Compress `content` to the start of `out`, which has [`Encoder::bound`] bytes. The codec is
    /// [`Codec::Stored`] when compression would not make the frame smaller.
    pub(crate) fn encode(
        &mut self,
        content: &[u8],
        out: &mut [u8],
    ) -> Result<(Codec, usize), WriteError> {
        let failed = |error: String| WriteError::Compress(error);
        let len = match (self.codec, &mut self.zstd) {
            (Codec::Zstd, Some(zstd)) => zstd
                .compress_to_buffer(content, out)
                .map_err(|error| failed(error.to_string()))?,
            (Codec::Lz4, _) => {
                let table = if content.len() < LZ4_LARGE {
                    &mut self.lz4_small
                } else {
                    &mut self.lz4_large
                };
                compress_into_with_table(content, out, table)
                    .map_err(|error| failed(error.to_string()))?
            }
            _ => content.len(),
        };
        if len < content.len() {
            return Ok((self.codec, len));
        }
        out.get_mut(..content.len())
            .ok_or_else(|| failed("the output buffer is too small".into()))?
            .copy_from_slice(content);
        Ok((Codec::Stored, content.len()))
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("codec", &self.codec)
            .finish_non_exhaustive()
    }
}

/// Decompresses frames; one per thread, nothing is allocated per frame.
pub(crate) struct Decoder {
    zstd: zstd::bulk::Decompressor<'static>,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self {
            zstd: zstd::bulk::Decompressor::default(),
        }
    }

    /// Fill `out`, exactly, from `payload`. On error `out` holds garbage.
    pub(crate) fn decode(
        &mut self,
        codec: Codec,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), &'static str> {
        debug_assert_eq!(out.len() % PAGE_SIZE, 0);
        let expected = out.len();
        let len = match codec {
            Codec::Stored if payload.len() == expected => {
                out.copy_from_slice(payload);
                expected
            }
            Codec::Stored => return Err("the stored length is not the content's"),
            Codec::Lz4 => {
                decompress_into(payload, out).map_err(|_| "the LZ4 payload does not decode")?
            }
            Codec::Zstd => {
                // The library would also take several frames one after the other, and ones to skip.
                let one_frame = payload.starts_with(&ZSTD_MAGIC)
                    && zstd::zstd_safe::find_frame_compressed_size(payload) == Ok(payload.len());
                if !one_frame {
                    return Err("the payload is not one zstd frame");
                }
                self.zstd
                    .decompress_to_buffer(payload, out)
                    .map_err(|_| "the zstd payload does not decode")?
            }
        };
        if len == expected {
            Ok(())
        } else {
            Err("the payload decodes to fewer bytes than the frame has")
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_the_one_of_the_specification() {
        assert_eq!(checksum(b""), 0x2d06_8005_38d3_94c2);
    }

    #[test]
    fn a_zstd_payload_is_exactly_one_frame() {
        let content = vec![b'x'; PAGE_SIZE];
        let half = zstd::bulk::compress(&content[..PAGE_SIZE / 2], 1).expect("a frame");
        let whole = zstd::bulk::compress(&content, 1).expect("a frame");
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7];
        let mut out = vec![0; PAGE_SIZE];
        let mut decode = |payload: &[u8]| Decoder::new().decode(Codec::Zstd, payload, &mut out);
        assert_eq!(decode(&whole), Ok(()));
        for payload in [
            [half.clone(), half].concat(),
            [skippable.to_vec(), whole.clone()].concat(),
            [whole.clone(), skippable.to_vec()].concat(),
            [whole, vec![0]].concat(),
        ] {
            assert_eq!(decode(&payload), Err("the payload is not one zstd frame"));
        }
    }
}
