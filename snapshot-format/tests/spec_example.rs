//! The worked example of SPEC.md, read and written.

use snapshot_format::working_set::{self, Frames, History, Options, Run, WorkingSet};
use snapshot_format::{
    Codec, Compression, Content, Cursor, Error, Metadata, PageNo, Place, Snapshot, SnapshotId,
    Source, Writer, WriterOptions,
};
use std::io::Cursor as Bytes;
use std::sync::Arc;

const SPEC: &str = include_str!("../SPEC.md");
const LEN: usize = 10_000;
const SET_LEN: usize = 0x1083;

/// The memory of the example.
fn memory() -> Vec<u8> {
    let mut memory = vec![0; 4096];
    memory.extend(0x1122_3344_5566_7788_u64.to_le_bytes().repeat(512));
    memory.resize(LEN, b'A');
    memory
}

/// The file as the writer makes it.
fn written() -> Vec<u8> {
    let options = WriterOptions {
        compression: Compression {
            codec: Codec::Lz4,
            level: 0,
            frame_pages: 1,
        },
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Bytes::new(Vec::new()), options).expect("a writer");
    writer.begin_stream().expect("a stream");
    for page in memory().chunks(4096) {
        let space = writer.space().expect("space");
        space[..4096].fill(0);
        space[..page.len()].copy_from_slice(page);
        writer.commit(1).expect("a page");
    }
    writer.end_stream(LEN as u64).expect("the end");
    let id = SnapshotId(std::array::from_fn(|byte| {
        u8::try_from(byte).expect("below 16")
    }));
    let metadata = Metadata {
        source: Source::Raw { bytes: LEN as u64 },
        ..Metadata::default()
    };
    let (file, _) = writer.finish(id, &metadata).expect("a file");
    file.into_inner()
}

/// Lines of 16 bytes that are not all zero.
fn dump(file: &[u8]) -> String {
    let line = |(number, bytes): (usize, &[u8])| {
        let hex: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:05x}  {}\n", number * 16, hex.join(" "))
    };
    file.chunks(16)
        .enumerate()
        .filter(|(_, bytes)| bytes.iter().any(|&byte| byte != 0))
        .map(line)
        .collect()
}

/// The snapshot that the dump in SPEC.md shows.
fn documented() -> Vec<u8> {
    dumped(1, 0x5000)
}

/// The working set that the other dump shows.
fn documented_set() -> Vec<u8> {
    dumped(2, SET_LEN)
}

/// The file of the dump of this number, from 1, with so many bytes.
fn dumped(number: usize, len: usize) -> Vec<u8> {
    let from = SPEC.split("```hexdump\n").nth(number);
    let from = from.expect("a dump in SPEC.md");
    let (lines, _) = from.split_once("```").expect("the end of the dump");
    let mut file = vec![0; len];
    for line in lines.lines() {
        let (offset, bytes) = line.split_once("  ").expect("an offset and bytes");
        let offset = usize::from_str_radix(offset, 16).expect("an offset");
        for (at, byte) in bytes.split(' ').enumerate() {
            file[offset + at] = u8::from_str_radix(byte, 16).expect("a byte");
        }
    }
    file
}

#[test]
fn the_writer_writes_the_documented_bytes() {
    let (written, documented) = (written(), documented());
    assert_eq!(written.len(), documented.len());
    assert!(
        written == documented,
        "SPEC.md shows other bytes; the writer writes:\n{}",
        dump(&written)
    );
}

#[test]
fn the_reader_reads_the_documented_bytes() {
    let snapshot = Arc::new(Snapshot::open(documented()).expect("the example"));
    assert_eq!(snapshot.pages(), 3);
    let mut cursor = Cursor::new(snapshot);
    let content = |cursor: &mut Cursor<_>, page| cursor.content(PageNo(page)).expect("an entry");
    assert_eq!(content(&mut cursor, 0), Content::Zero);
    assert_eq!(
        content(&mut cursor, 1),
        Content::Fill(0x1122_3344_5566_7788)
    );
    let mut read = Vec::new();
    for page in 0..3 {
        let mut bytes = [0; 4096];
        cursor.read_page(PageNo(page), &mut bytes).expect("a page");
        read.extend(bytes);
    }
    assert!(read[LEN..].iter().all(|&byte| byte == 0));
    read.truncate(LEN);
    assert!(read == memory());
}

#[test]
fn the_numbers_of_the_explanation_are_those_of_the_dump() {
    let entry = &documented()[0x2020..0x2028];
    let first = u64::from_le_bytes(entry.try_into().expect("8 bytes"));
    assert!(
        SPEC.contains(&format!("{first:#x}, so class 3")),
        "{first:#x}"
    );
    let len = first >> 26 & 0x3f_ffff;
    assert!(SPEC.contains(&format!("\n{len} bytes of payload")), "{len}");
}

#[test]
fn a_flipped_bit_of_the_example_is_found_at_its_place() {
    let mut file = documented();
    file[0x1010] ^= 1;
    let snapshot = Arc::new(Snapshot::open(file).expect("the tables are whole"));
    let read = Cursor::new(snapshot).read_page(PageNo(2), &mut [0; 4096]);
    assert!(
        matches!(
            read,
            Err(Error::Corrupt {
                place: Place::Frame(0x1000),
                ..
            })
        ),
        "{read:?}"
    );
}

fn written_set() -> Vec<u8> {
    let mut cursor = Cursor::new(Arc::new(Snapshot::open(documented()).expect("the example")));
    let history = History::of_recording([(PageNo(2), 100), (PageNo(1), 250), (PageNo(0), 300)]);
    let out = Bytes::new(Vec::new());
    let written = working_set::write(&history, &mut cursor, out, &Options::default());
    written.expect("a set").0.into_inner()
}

#[test]
fn the_writer_writes_the_documented_set() {
    let written = written_set();
    assert!(
        written == documented_set(),
        "SPEC.md shows another set; the writer writes {:#x} bytes:\n{}",
        written.len(),
        dump(&written)
    );
}

#[test]
fn the_reader_reads_the_documented_set() {
    let set = Arc::new(WorkingSet::open(documented_set()).expect("the example"));
    assert_eq!((set.pages(), set.zero_pages(), set.frames()), (3, 1, 1));
    let (mut runs, mut content) = (Vec::new(), Vec::new());
    set.runs(0, &mut runs).expect("runs");
    let run = |pages, zero, after_us| Run {
        pages,
        zero,
        after_us,
        seen: 1,
    };
    assert_eq!(runs, [run(0..1, true, 300), run(1..3, false, 100)]);
    Frames::new(Arc::clone(&set))
        .read(0, &mut content)
        .expect("content");
    content.truncate(LEN - 4096);
    assert!(content == memory()[4096..]);
    let at = set.frames_at();
    let stored = set.stored(0).expect("a frame");
    assert_eq!(
        (at.start, at.end - at.start),
        (0x1000, stored.payload_len.into())
    );
    let said = format!(
        "The frames have {} bytes, so R is {:#x} and T is {:#x}.",
        stored.payload_len,
        at.end,
        at.end + 32
    );
    assert!(SPEC.contains(&said), "{said}");
}
