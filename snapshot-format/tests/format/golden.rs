//! Files of version 1, kept for ever. Every later version of this crate reads them.
//!
//! `UPDATE_GOLDEN=1 cargo test -p snapshot-format golden` writes those that do not exist; one that exists is never changed.

use crate::common::forge::{FRAMES, Forge, INDEX, METADATA, PARENT, PROCESSES, REGIONS};
use crate::common::plan::{ID, metadata, parent_layer};
use crate::common::small;
use crate::common::{CODECS, options};
use snapshot_format::{Codec, RegionMap, Snapshot, verify};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

fn path(name: &str) -> PathBuf {
    [
        env!("CARGO_MANIFEST_DIR"),
        "tests/golden",
        &format!("v1-{name}.snap"),
    ]
    .iter()
    .collect()
}

fn written(codec: Codec) -> Vec<u8> {
    small::plan().write(options(codec, 2))
}

/// A tree of processes that share pages, of which no codec makes anything else.
fn written_tree() -> Vec<u8> {
    small::tree_file(options(Codec::Stored, 2))
}

fn golden(codec: Codec) -> Vec<u8> {
    kept(&codec.to_string(), || written(codec))
}

fn kept(name: &str, written: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    static ALONE: Mutex<()> = Mutex::new(());
    let path = path(name);
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, written()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn golden_files_of_version_1_read_for_ever() {
    let plan = small::plan();
    let mut regions: Option<RegionMap> = None;
    for codec in CODECS {
        let file = golden(codec);
        assert!(file.len() < 60 << 10);
        let snapshot = Arc::new(Snapshot::open(file).unwrap());
        assert!(
            small::everything(&snapshot).unwrap() == small::expected(&plan),
            "{codec}"
        );
        assert_eq!(snapshot.id(), ID);
        assert_eq!(snapshot.metadata(), &metadata());
        assert_eq!(snapshot.parent(), Some(&parent_layer()));
        let found: Vec<_> = snapshot
            .regions()
            .as_slice()
            .iter()
            .map(|placed| &placed.region)
            .collect();
        let planned: Vec<_> = plan.regions.iter().map(|planned| &planned.region).collect();
        assert_eq!(found, planned);
        assert_eq!(
            *regions.get_or_insert_with(|| snapshot.regions().clone()),
            *snapshot.regions()
        );
        let survey = verify::survey(&snapshot, 0..snapshot.pages()).unwrap();
        let frames = match codec {
            Codec::Stored => survey.stored,
            Codec::Lz4 => survey.lz4,
            Codec::Zstd => survey.zstd,
        };
        assert!(frames.frames > 0, "{codec}");
        for count in [
            survey.zero_pages,
            survey.filled_pages,
            survey.parent_pages,
            survey.lost_pages,
        ] {
            assert!(count > 0, "{survey:?}");
        }
    }
}

#[test]
fn what_is_not_compressed_is_written_as_it_was_when_the_version_was_made() {
    for codec in CODECS {
        let (old, new) = (
            Forge {
                bytes: golden(codec),
            },
            Forge {
                bytes: written(codec),
            },
        );
        for kind in [REGIONS, METADATA, PARENT] {
            assert!(
                old.bytes[old.section(kind).range()] == new.bytes[new.section(kind).range()],
                "section {kind}"
            );
        }
        assert_eq!(old.section(INDEX).len, new.section(INDEX).len);
        assert_eq!(
            old.bytes[..60],
            new.bytes[..60],
            "fixed fields of the header"
        );
        if codec == Codec::Stored {
            assert!(
                old.bytes[old.section(FRAMES).range()] == new.bytes[new.section(FRAMES).range()]
            );
            assert!(
                old.bytes == new.bytes,
                "without a codec the whole file is the same"
            );
        }
    }
}

#[test]
fn the_golden_file_of_a_tree_of_processes_reads_for_ever() {
    let file = kept("processes", written_tree);
    assert!(file.len() < 80 << 10, "{}", file.len());
    assert_eq!(
        Forge {
            bytes: file.clone()
        }
        .section(PROCESSES)
        .len,
        16 + 4 * 32
    );
    let (plan, processes) = small::tree();
    let snapshot = Arc::new(Snapshot::open(file.clone()).unwrap());
    assert_eq!(snapshot.processes(), Some(&processes));
    assert!(small::everything(&snapshot).unwrap() == small::expected(&plan));
    let survey = verify::survey(&snapshot, 0..snapshot.pages()).unwrap();
    assert!(survey.repeated_pages() >= 10, "{survey:?}");
    verify::verify(&snapshot, 1, |bad| panic!("{bad:?}"), |_| {});
    assert!(file == written_tree(), "it is still written as it was");
}
