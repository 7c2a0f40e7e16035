//! What the fuzz targets do. `scripts/fuzz` builds and runs them.
#![expect(
    dead_code,
    reason = "the tests use the rest of what they share with the fuzzers"
)]

#[path = "../../tests/common/mod.rs"]
mod common;

use arbitrary::Arbitrary;
use common::forge::Forge;
use common::plan::{Plan, Planned, What};
use common::{CODECS, options, reading, set, small};
use snapshot_format::fuzzing::{Header, Limits, decode_inner, decode_leaf};
use snapshot_format::working_set::WorkingSet;
use snapshot_format::{
    Content, Cursor, Error, PageNo, Region, Snapshot, WriterOptions, bulk, verify,
};
use std::sync::{Arc, OnceLock};

/// Any bytes as a file.
pub fn open(data: &[u8]) {
    if let Ok(snapshot) = Snapshot::open(data.to_vec()) {
        read(&Arc::new(snapshot));
    }
}

/// Any bytes as a header, as they are and with a good beginning and a good checksum.
pub fn header(data: &[u8]) {
    let mut bytes = [0; 4096];
    let len = data.len().min(4096);
    bytes[..len].copy_from_slice(&data[..len]);
    drop(Header::decode(&bytes));
    bytes[..12].copy_from_slice(&small::file()[..12]);
    let mut forge = Forge {
        bytes: bytes.into(),
    };
    forge.repair_header();
    let (bytes, _) = forge.bytes.split_first_chunk().expect("4096 bytes");
    drop(Header::decode(bytes));
}

/// Any bytes as index entries under any limits.
pub fn entries(data: &[u8]) {
    let Some((head, entries)) = data.split_first_chunk::<34>() else {
        return;
    };
    let number = |at: usize| u64::from_le_bytes(*head[at..].first_chunk().expect("34 bytes"));
    let limits = Limits {
        frames_len: number(0),
        index_len: number(8),
        max_frame_pages: u16::from_le_bytes([head[32], head[33]]).clamp(1, 512),
        parent_pages: number(16),
    };
    for entry in entries.as_chunks::<16>().0 {
        match decode_leaf(entry, &limits) {
            Ok(Content::Frame { frame, slot }) => {
                assert!(slot < frame.pages && frame.pages <= limits.max_frame_pages);
                assert!(
                    usize::try_from(frame.payload_len).expect("32 bits") <= frame.content_len()
                );
                assert!(
                    u128::from(frame.offset) + 8 + u128::from(frame.payload_len)
                        <= u128::from(limits.frames_len)
                );
            }
            Ok(Content::Parent(page)) => assert!(page.0 < limits.parent_pages),
            Ok(Content::Fill(word)) => assert_ne!(word, 0),
            Ok(Content::Zero | Content::Lost) => {}
            Err(what) => assert!(!what.is_empty()),
        }
        let _ = decode_inner(entry, number(24), &limits);
    }
}

/// Any changes to a good file, or any file, with checksums made right again.
pub fn read_all(data: &[u8]) {
    let mut forge = if data.len() >= 4096 {
        Forge {
            bytes: data.to_vec(),
        }
    } else {
        static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
        let files = FILES.get_or_init(|| {
            let plain = CODECS.map(|codec| small::plan().write(options(codec, 2)));
            let trees = CODECS.map(|codec| small::tree_file(options(codec, 2)));
            plain.into_iter().chain(trees).collect()
        });
        let (&choice, changes) = data.split_first().unwrap_or((&0, &[]));
        let mut bytes = files[usize::from(choice) % files.len()].clone();
        change(&mut bytes, changes);
        Forge { bytes }
    };
    if forge.bytes.len() >= 4096 {
        forge.repair();
    }
    open(&forge.bytes);
}

/// Any bytes as a working set, as they are and with checksums made right; and any changes to a good one.
pub fn working_set(data: &[u8]) {
    static FILES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let files = FILES.get_or_init(|| CODECS.map(|codec| set::file(codec, 3)).into());
    let mut bytes = if data.len() >= 4096 {
        read_set(data.to_vec());
        data.to_vec()
    } else {
        let (&choice, changes) = data.split_first().unwrap_or((&0, &[]));
        let mut bytes = files[usize::from(choice) % files.len()].clone();
        change(&mut bytes, changes);
        bytes
    };
    set::repair(&mut bytes);
    read_set(bytes);
}

fn read_set(bytes: Vec<u8>) {
    let Ok(open) = WorkingSet::open(bytes) else {
        return;
    };
    let open = Arc::new(open);
    if let (Ok(read), true) = (set::everything(&open), open.frames() < 1000) {
        assert_eq!(read.frames.len(), open.frames());
        // What is known of its pages survives another set.
        let known = read.history.then(&read.history);
        assert!(known.pages().len() == read.history.pages().len() || known.recordings() == 8);
    }
}

/// Make changes: a place, a length and new bytes, over and over.
fn change(bytes: &mut [u8], changes: &[u8]) {
    let mut rest = changes;
    while let Some((&[low, high, len], behind)) = rest.split_first_chunk() {
        let at = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
        let len = (usize::from(len) % 33)
            .min(behind.len())
            .min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&behind[..len]);
        rest = &behind[len..];
    }
}

/// Read some pages in every way.
fn read(snapshot: &Arc<Snapshot<Vec<u8>>>) {
    let pages = snapshot.pages();
    let mut cursor = Cursor::new(Arc::clone(snapshot));
    let mut good = 0;
    for page in (0..40)
        .chain(pages.saturating_sub(5)..pages)
        .chain([pages / 2])
    {
        let mut out = [0; 4096];
        match cursor.read_page(PageNo(page), &mut out) {
            Ok(()) => good += 1,
            Err(Error::NoSuchPage { .. }) => assert!(page >= pages),
            Err(Error::Lost(number) | Error::InParent { page: number, .. }) => {
                assert_eq!(page, number)
            }
            Err(Error::Corrupt { what, .. }) => assert!(!what.is_empty()),
            Err(error) => panic!("{error:?}"),
        }
    }
    if pages < 1000 {
        let survey = verify::survey(snapshot, 0..pages);
        let read = bulk::read(snapshot, 0..pages, 1, |_| Ok::<(), Error>(()));
        // What can be read has an index that can be read.
        assert!(read.is_err() || survey.is_ok());
        assert!(read.is_err() || pages > 40 || good >= pages);
    }
}

/// An input of the writer and the way it is handed over.
#[derive(Debug, Arbitrary)]
pub struct Input {
    codec: u8,
    frame_pages: u16,
    jobs: u8,
    steps: Vec<u16>,
    regions: Vec<Vec<(u8, u16, u32)>>,
}

/// Whatever is written is read back.
pub fn writer_roundtrip(input: &Input) {
    let mut plan = Plan::default();
    let mut total = 0_u64;
    for (number, region) in (0..).zip(input.regions.iter().take(6)) {
        let mut runs = Vec::new();
        for &(kind, pages, seed) in region.iter().take(12) {
            let pages = 1 + u64::from(pages) % 700;
            let earlier = total.checked_sub(pages);
            let what = match kind % 10 {
                8 | 9 if earlier.is_some() => {
                    What::Again(u64::from(seed) % (earlier.unwrap_or(0) + 1))
                }
                0 => What::Zeros,
                1 => What::ZeroBytes,
                2 => What::Lost,
                3 => What::Parent((seed % (1 << 29)).into()),
                _ => What::Data(seed.into()),
            };
            total += pages;
            if total > 3000 {
                break;
            }
            runs.push((what, pages));
        }
        let pages: u64 = runs.iter().map(|&(_, pages)| pages).sum();
        if pages > 0 {
            plan.regions.push(Planned {
                region: Region::raw(number << 40, pages * 4096 - number % 4096),
                runs,
            });
        }
    }
    let mut steps: Vec<u64> = input
        .steps
        .iter()
        .take(8)
        .map(|&step| 1 + u64::from(step) % 600)
        .collect();
    steps.push(77);
    let codec = CODECS[usize::from(input.codec) % 3];
    let options = WriterOptions {
        jobs: usize::from(input.jobs % 4),
        ..options(codec, 1 + input.frame_pages % 512)
    };
    let file = plan.write_in_steps(options, &steps);
    reading::assert_reads_as(&common::open(file), &plan.model());
}
