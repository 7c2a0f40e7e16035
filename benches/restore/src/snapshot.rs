//! Snapshots to restore from, and content for them.

use std::fs::File;
use std::path::Path;

use snapshot_format::{
    Codec, Compression, Metadata, PAGE_SIZE, PageSize, Protection, Region, RegionKind, SnapshotId,
    Writer, WriterOptions,
};

use crate::area::Area;
use crate::measure::Random;
use crate::target::stamp;

/// A codec and how many pages it compresses together.
pub(crate) fn compression(codec: Codec, frame_pages: u16) -> Compression {
    Compression {
        codec,
        level: 3,
        frame_pages,
    }
}

/// Writes a snapshot of `area`, in which only every `step`th page has content. Returns the file's length.
pub(crate) fn write(
    path: &Path,
    area: &Area,
    shared: bool,
    step: usize,
    compression: Compression,
) -> u64 {
    let file = File::create(path).expect("a snapshot");
    let options = WriterOptions {
        compression,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(file, options).expect("a writer");
    let range = area.range();
    let (kind, name) = match shared {
        true => (RegionKind::Shared, "/memfd:bench (deleted)"),
        false => (RegionKind::Private, ""),
    };
    let region = Region {
        start: range.start.0,
        len: range.len(),
        offset: 0,
        protection: Protection {
            read: true,
            write: true,
            exec: false,
        },
        kind,
        shared,
        page_size: PageSize::Small,
        name: name.into(),
    };
    writer.begin_region(region).expect("a region");
    let mut random = Random::new(2);
    for page in (0..area.pages).step_by(step) {
        let room = writer.space().expect("room");
        content(page, &mut random, &mut room[..PAGE_SIZE]);
        writer.commit(1).expect("a page");
        let rest = step.min(area.pages - page) - 1;
        writer.zeros(rest as u64).expect("zeros");
    }
    let id = SnapshotId([9; 16]);
    let (file, _) = writer.finish(id, &Metadata::default()).expect("an end");
    file.metadata().expect("its length").len()
}

/// Something that compresses as heaps do: pointers, small numbers, words of a text, zeros.
fn content(page: usize, random: &mut Random, bytes: &mut [u8]) {
    const WORDS: [&[u8; 8]; 8] = [
        b"request ",
        b"session ",
        b"latency ",
        b"address ",
        b"memory. ",
        b"(string)",
        b"content=",
        b"null,\n\t ",
    ];
    for chunk in bytes.chunks_exact_mut(8) {
        let chance = random.next();
        let value = match chance % 8 {
            0 | 1 => 0x7f3a_0000_0000 | (chance >> 8) & 0xff_fff0,
            2 | 3 => chance >> 8 & 0x3ff,
            4 | 5 => u64::from_le_bytes(*WORDS[usize::from((chance >> 8).to_le_bytes()[0] % 8)]),
            _ => 0,
        };
        chunk.copy_from_slice(&value.to_le_bytes());
    }
    bytes[..8].copy_from_slice(&stamp(page).to_le_bytes());
}
