//! The codecs under test, behind one enum so that every one is called the same way.

use lz4::block::CompressionMode;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, DParameter, FrameFormat};

#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Zstd(i32),
    /// Without the four magic bytes; without the content size as well.
    ZstdBare(i32),
    /// The C library.
    Lz4C,
    Lz4Hc(i32),
    /// The Rust crate; which decoder is a matter of the build.
    Lz4Flex,
}

impl Kind {
    pub fn name(self) -> String {
        match self {
            Kind::Zstd(level) => format!("zstd {level}"),
            Kind::ZstdBare(level) => format!("zstd {level} bare"),
            Kind::Lz4C => "LZ4 (C)".into(),
            Kind::Lz4Hc(level) => format!("LZ4 HC {level} (C)"),
            Kind::Lz4Flex if cfg!(feature = "safe-decode") => "LZ4 (lz4_flex safe)".into(),
            Kind::Lz4Flex => "LZ4 (lz4_flex)".into(),
        }
    }

    pub fn open(self) -> Codec {
        self.open_with(&[])
    }

    pub fn open_with(self, dictionary: &[u8]) -> Codec {
        match self {
            Kind::Zstd(level) | Kind::ZstdBare(level) => {
                let mut compressor =
                    Compressor::with_dictionary(level, dictionary).expect("compressor");
                let mut decompressor =
                    Decompressor::with_dictionary(dictionary).expect("decompressor");
                if matches!(self, Kind::ZstdBare(_)) {
                    let format = CParameter::Format(FrameFormat::Magicless);
                    compressor.set_parameter(format).expect("format");
                    compressor
                        .set_parameter(CParameter::ContentSizeFlag(false))
                        .expect("content size");
                    let format = DParameter::Format(FrameFormat::Magicless);
                    decompressor.set_parameter(format).expect("format");
                }
                if !dictionary.is_empty() {
                    compressor
                        .set_parameter(CParameter::DictIdFlag(false))
                        .expect("dictionary id");
                    // zstd would choose the match finder's parameters for the size of frame and
                    // dictionary together, which finds less: those for up to 16 KiB.
                    if (1..=3).contains(&level) {
                        for parameter in [
                            CParameter::MinMatch(if level == 1 { 5 } else { 4 }),
                            CParameter::HashLog(15),
                            CParameter::ChainLog(14),
                        ] {
                            compressor.set_parameter(parameter).expect("parameter");
                        }
                    }
                }
                Codec::Zstd(compressor, decompressor)
            }
            Kind::Lz4C => Codec::Lz4C(CompressionMode::DEFAULT),
            Kind::Lz4Hc(level) => Codec::Lz4C(CompressionMode::HIGHCOMPRESSION(level)),
            Kind::Lz4Flex => Codec::Lz4Flex,
        }
    }
}

pub enum Codec {
    Zstd(Compressor<'static>, Decompressor<'static>),
    Lz4C(CompressionMode),
    Lz4Flex,
}

impl Codec {
    /// Compresses to the start of `out`, which has room for the worst case; the length.
    pub fn compress(&mut self, content: &[u8], out: &mut [u8]) -> usize {
        match self {
            Codec::Zstd(compressor, _) => compressor
                .compress_to_buffer(content, out)
                .expect("zstd compresses"),
            Codec::Lz4C(mode) => lz4::block::compress_to_buffer(content, Some(*mode), false, out)
                .expect("LZ4 compresses"),
            Codec::Lz4Flex => {
                lz4_flex::block::compress_into(content, out).expect("lz4_flex compresses")
            }
        }
    }

    pub fn decompress(&mut self, frame: &[u8], content: &mut [u8]) {
        let len = match self {
            Codec::Zstd(_, decompressor) => decompressor
                .decompress_to_buffer(frame, content)
                .expect("zstd decodes"),
            Codec::Lz4C(_) => {
                let len = i32::try_from(content.len()).expect("a frame is small");
                lz4::block::decompress_to_buffer(frame, Some(len), content).expect("LZ4 decodes")
            }
            Codec::Lz4Flex => {
                lz4_flex::block::decompress_into(frame, content).expect("lz4_flex decodes")
            }
        };
        assert_eq!(len, content.len());
    }
}
